package packed

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Documents that are read by the thousand are packed: a version, then fields in
// order, strings with their length before them. Reading one copies nothing.
const packVersion = 1

// ErrDamaged says that a stored document is no document of this version.
var ErrDamaged = errors.New("stored document: cut short or of another version")

// Packer writes a packed document. The zero Packer writes a part of one.
type Packer struct{ b []byte }

// NewPacker begins a document.
func NewPacker() *Packer { return &Packer{b: []byte{packVersion}} }

// Bytes are what was written so far.
func (p *Packer) Bytes() []byte { return p.b }

// Uint writes a length, a count or an index: nothing negative.
func (p *Packer) Uint(n int) { p.b = binary.AppendUvarint(p.b, uint64(n)) } //nolint:gosec // lengths and ids
// Int writes any integer.
func (p *Packer) Int(n int64) { p.b = binary.AppendVarint(p.b, n) }

// Str writes a string and its length.
func (p *Packer) Str(s string) { p.Uint(len(s)); p.b = append(p.b, s...) }

// Raw writes bytes whose number the reader knows.
func (p *Packer) Raw(b []byte) { p.b = append(p.b, b...) }

// At writes a time, to the nanosecond, in no zone.
func (p *Packer) At(t time.Time) { p.Int(nanos(t)) }

// Float writes all bits of a number.
func (p *Packer) Float(f float64) {
	p.b = binary.LittleEndian.AppendUint64(p.b, math.Float64bits(f))
}

// Strs writes a list of strings.
func (p *Packer) Strs(ss []string) {
	p.Uint(len(ss))
	for _, s := range ss {
		p.Str(s)
	}
}

// Unpacker reads what Packer wrote. After the first failure it reads zeros; Err
// tells.
type Unpacker struct {
	s   string
	bad bool
}

// Err tells whether all was read, and nothing more than there is.
func (u *Unpacker) Err() error {
	if u.bad || u.s != "" {
		return ErrDamaged
	}
	return nil
}

// Take reads n bytes.
func (u *Unpacker) Take(n int) string {
	if n < 0 || n > len(u.s) {
		u.bad, u.s = true, ""
		return ""
	}
	out := u.s[:n]
	u.s = u.s[n:]
	return out
}

func (u *Unpacker) uvarint() uint64 {
	var n uint64
	for i := 0; i < len(u.s) && i < binary.MaxVarintLen64; i++ {
		b := u.s[i]
		n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			u.s = u.s[i+1:]
			return n
		}
	}
	u.bad, u.s = true, ""
	return 0
}

// Rest reads all that is left.
func (u *Unpacker) Rest() string { return u.Take(len(u.s)) }

// Uint reads what Packer.Uint wrote; whoever uses it as an index checks it.
func (u *Unpacker) Uint() int { return int(u.uvarint()) } //nolint:gosec // what Packer.uint wrote; take checks it

// Int reads what Packer.Int wrote.
func (u *Unpacker) Int() int64 {
	n := u.uvarint()
	return int64(n>>1) ^ -int64(n&1) //nolint:gosec // zigzag
}

// Count is a number of things of at least one byte each.
func (u *Unpacker) Count() int {
	n := u.Uint()
	if n < 0 || n > len(u.s) {
		u.bad, u.s = true, ""
		return 0
	}
	return n
}

// Str reads a string.
func (u *Unpacker) Str() string { return u.Take(u.Uint()) }

// Skip reads a string that nobody wants.
func (u *Unpacker) Skip() { u.Take(u.Uint()) }

// At reads a time.
func (u *Unpacker) At() time.Time { return at(u.Int()) }

// Float reads a number.
func (u *Unpacker) Float() float64 {
	b := u.Take(8)
	if len(b) < 8 {
		return 0
	}
	return math.Float64frombits(binary.LittleEndian.Uint64([]byte(b)))
}

// Strs reads a list; an empty one is nil.
func (u *Unpacker) Strs() []string {
	n := u.Count()
	if n == 0 {
		return nil
	}
	out := make([]string, n)
	for i := range out {
		out[i] = u.Str()
	}
	return out
}

// Pack ends a document as it is stored: compressed, if it has at least so many bytes.
func (c Codec) Pack(p *Packer, above int) []byte { return c.Compress(p.b, above) }

// Unpack begins to read a stored document.
func (c Codec) Unpack(doc []byte) (*Unpacker, error) {
	doc, err := c.Decompress(doc)
	if err != nil {
		return nil, err
	}
	if len(doc) == 0 || doc[0] != packVersion {
		return nil, ErrDamaged
	}
	return &Unpacker{s: string(doc[1:])}, nil
}

// Vulnerability writes one.
func (p *Packer) Vulnerability(v *pratique.Vulnerability) {
	p.Str(v.ID)
	p.Str(v.Fixed)
	p.Str(v.Status)
	p.Str(string(v.Severity))
	p.Str(v.Source)
	p.Str(v.Title)
	p.Str(v.URL)
	p.Float(v.CVSS)
	p.Strs(v.VendorIDs)
}

// Vulnerability reads one.
func (u *Unpacker) Vulnerability() pratique.Vulnerability {
	return pratique.Vulnerability{
		ID: u.Str(), Fixed: u.Str(), Status: u.Str(), Severity: pratique.Severity(u.Str()), Source: u.Str(),
		Title: u.Str(), URL: u.Str(), CVSS: u.Float(), VendorIDs: u.Strs(),
	}
}

// Occurrence writes one but for its component and layer, which are the chunk's to say.
func (p *Packer) Occurrence(o *pratique.Occurrence) {
	p.Str(o.Installed)
	p.Str(o.Path)
	p.Str(o.Target)
	p.Str(o.PURL)
}

// Occurrence reads what Packer.Occurrence wrote.
func (u *Unpacker) Occurrence() pratique.Occurrence {
	return pratique.Occurrence{Installed: u.Str(), Path: u.Str(), Target: u.Str(), PURL: u.Str()}
}

// Finding writes one.
func (p *Packer) Finding(f *pratique.Finding) {
	for _, s := range [...]string{
		f.ID, string(f.Kind), string(f.Component), f.Package, f.Ecosystem, f.Installed, f.Fixed, f.Status, string(f.Severity),
		f.Path, f.Target, f.Layer.String(), f.Title, f.URL, f.Source, f.PURL, f.Category,
	} {
		p.Str(s)
	}
	p.Float(f.CVSS)
	p.Strs(f.VendorIDs)
	p.At(f.FirstSeen)
	p.Uint(len(f.Milestones))
	for _, m := range f.Milestones {
		p.At(m.At)
		p.Str(string(m.Severity))
		p.Bool(m.Fixable)
	}
}

// Finding reads one.
func (u *Unpacker) Finding() pratique.Finding {
	f := pratique.Finding{
		ID: u.Str(), Kind: pratique.Kind(u.Str()), Component: pratique.ComponentID(u.Str()), Package: u.Str(), Ecosystem: u.Str(),
		Installed: u.Str(), Fixed: u.Str(), Status: u.Str(), Severity: pratique.Severity(u.Str()),
		Path: u.Str(), Target: u.Str(), Layer: digest.Digest(u.Str()), Title: u.Str(), URL: u.Str(), Source: u.Str(), PURL: u.Str(), Category: u.Str(),
		CVSS: u.Float(), VendorIDs: u.Strs(), FirstSeen: u.At(),
	}
	if n := u.Count(); n > 0 {
		f.Milestones = make([]pratique.Milestone, n)
		for i := range f.Milestones {
			f.Milestones[i] = pratique.Milestone{At: u.At(), Severity: pratique.Severity(u.Str()), Fixable: u.Bool()}
		}
	}
	return f
}

// Bool writes a truth.
func (p *Packer) Bool(b bool) {
	if b {
		p.Uint(1)
	} else {
		p.Uint(0)
	}
}

// Bool reads a truth.
func (u *Unpacker) Bool() bool { return u.Uint() == 1 }

// PackFindings packs those of a report (see Pack); none are no document.
func (c Codec) PackFindings(fs []pratique.Finding, above int) []byte {
	if len(fs) == 0 {
		return nil
	}
	p := NewPacker()
	p.Uint(len(fs))
	for i := range fs {
		p.Finding(&fs[i])
	}
	return c.Pack(p, above)
}

// UnpackFindings undoes PackFindings.
func (c Codec) UnpackFindings(doc []byte) ([]pratique.Finding, error) {
	if len(doc) == 0 {
		return nil, nil
	}
	u, err := c.Unpack(doc)
	if err != nil {
		return nil, err
	}
	out := make([]pratique.Finding, u.Count())
	for i := range out {
		out[i] = u.Finding()
	}
	return out, u.Err()
}

// nanos and at map times to stored integers and back; the zero time is 0.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func at(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
