package sqlite

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Documents that are read by the thousand are packed: a version, then fields in
// order, strings with their length before them. Reading one copies nothing.
const packVersion = 1

// compressAbove is the size above which a packed document is compressed: most are
// read more often than the disk is short of them.
const compressAbove = 4 << 10

var errPacked = errors.New("stored document: cut short or of another version")

type packer struct{ b []byte }

func newPacker() *packer { return &packer{b: []byte{packVersion}} }

func (p *packer) uint(n int)     { p.b = binary.AppendUvarint(p.b, uint64(n)) } //nolint:gosec // lengths and ids
func (p *packer) int(n int64)    { p.b = binary.AppendVarint(p.b, n) }
func (p *packer) str(s string)   { p.uint(len(s)); p.b = append(p.b, s...) }
func (p *packer) raw(b []byte)   { p.b = append(p.b, b...) }
func (p *packer) at(t time.Time) { p.int(nanos(t)) }
func (p *packer) float(f float64) {
	p.b = binary.LittleEndian.AppendUint64(p.b, math.Float64bits(f))
}

func (p *packer) strs(ss []string) {
	p.uint(len(ss))
	for _, s := range ss {
		p.str(s)
	}
}

// unpacker reads what packer wrote. After the first failure it reads zeros; err
// tells.
type unpacker struct {
	s   string
	bad bool
}

func (u *unpacker) err() error {
	if u.bad || u.s != "" {
		return errPacked
	}
	return nil
}

func (u *unpacker) take(n int) string {
	if n < 0 || n > len(u.s) {
		u.bad, u.s = true, ""
		return ""
	}
	out := u.s[:n]
	u.s = u.s[n:]
	return out
}

func (u *unpacker) uvarint() uint64 {
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

func (u *unpacker) uint() int { return int(u.uvarint()) } //nolint:gosec // what packer.uint wrote; take checks it

func (u *unpacker) int() int64 {
	n := u.uvarint()
	return int64(n>>1) ^ -int64(n&1) //nolint:gosec // zigzag
}

// count is a number of things of at least one byte each.
func (u *unpacker) count() int {
	n := u.uint()
	if n < 0 || n > len(u.s) {
		u.bad, u.s = true, ""
		return 0
	}
	return n
}

func (u *unpacker) str() string   { return u.take(u.uint()) }
func (u *unpacker) skip()         { u.take(u.uint()) }
func (u *unpacker) at() time.Time { return at(u.int()) }
func (u *unpacker) float() float64 {
	b := u.take(8)
	if len(b) < 8 {
		return 0
	}
	return math.Float64frombits(binary.LittleEndian.Uint64([]byte(b)))
}

func (u *unpacker) strs() []string {
	n := u.count()
	if n == 0 {
		return nil
	}
	out := make([]string, n)
	for i := range out {
		out[i] = u.str()
	}
	return out
}

// close ends a document as it is stored.
func (c codec) close(p *packer) []byte {
	return c.Compress(p.b, compressAbove+1)
}

// open begins to read a stored document.
func (c codec) open(doc []byte) (*unpacker, error) {
	doc, err := c.Decompress(doc)
	if err != nil {
		return nil, err
	}
	if len(doc) == 0 || doc[0] != packVersion {
		return nil, errPacked
	}
	return &unpacker{s: string(doc[1:])}, nil
}

func (p *packer) vulnerability(v *pratique.Vulnerability) {
	p.str(v.ID)
	p.str(v.Fixed)
	p.str(v.Status)
	p.str(string(v.Severity))
	p.str(v.Source)
	p.str(v.Title)
	p.str(v.URL)
	p.float(v.CVSS)
	p.strs(v.VendorIDs)
}

func (u *unpacker) vulnerability() pratique.Vulnerability {
	return pratique.Vulnerability{
		ID: u.str(), Fixed: u.str(), Status: u.str(), Severity: pratique.Severity(u.str()), Source: u.str(),
		Title: u.str(), URL: u.str(), CVSS: u.float(), VendorIDs: u.strs(),
	}
}

func (p *packer) occurrence(o *pratique.Occurrence) { // component and layer are the chunk's to say
	p.str(o.Installed)
	p.str(o.Path)
	p.str(o.Target)
	p.str(o.PURL)
}

func (u *unpacker) occurrence() pratique.Occurrence {
	return pratique.Occurrence{Installed: u.str(), Path: u.str(), Target: u.str(), PURL: u.str()}
}

func (p *packer) finding(f *pratique.Finding) {
	for _, s := range [...]string{
		f.ID, string(f.Kind), string(f.Component), f.Package, f.Ecosystem, f.Installed, f.Fixed, f.Status, string(f.Severity),
		f.Path, f.Target, f.Layer.String(), f.Title, f.URL, f.Source, f.PURL, f.Category,
	} {
		p.str(s)
	}
	p.float(f.CVSS)
	p.strs(f.VendorIDs)
	p.at(f.FirstSeen)
	p.uint(len(f.Milestones))
	for _, m := range f.Milestones {
		p.at(m.At)
		p.str(string(m.Severity))
		p.bool(m.Fixable)
	}
}

func (u *unpacker) finding() pratique.Finding {
	f := pratique.Finding{
		ID: u.str(), Kind: pratique.Kind(u.str()), Component: pratique.ComponentID(u.str()), Package: u.str(), Ecosystem: u.str(),
		Installed: u.str(), Fixed: u.str(), Status: u.str(), Severity: pratique.Severity(u.str()),
		Path: u.str(), Target: u.str(), Layer: digest.Digest(u.str()), Title: u.str(), URL: u.str(), Source: u.str(), PURL: u.str(), Category: u.str(),
		CVSS: u.float(), VendorIDs: u.strs(), FirstSeen: u.at(),
	}
	if n := u.count(); n > 0 {
		f.Milestones = make([]pratique.Milestone, n)
		for i := range f.Milestones {
			f.Milestones[i] = pratique.Milestone{At: u.at(), Severity: pratique.Severity(u.str()), Fixable: u.bool()}
		}
	}
	return f
}

func (p *packer) bool(b bool) {
	if b {
		p.uint(1)
	} else {
		p.uint(0)
	}
}

func (u *unpacker) bool() bool { return u.uint() == 1 }

// findings packs those of a report.
func (c codec) packFindings(fs []pratique.Finding) []byte {
	if len(fs) == 0 {
		return nil
	}
	p := newPacker()
	p.uint(len(fs))
	for i := range fs {
		p.finding(&fs[i])
	}
	return c.close(p)
}

func (c codec) unpackFindings(doc []byte) ([]pratique.Finding, error) {
	if len(doc) == 0 {
		return nil, nil
	}
	u, err := c.open(doc)
	if err != nil {
		return nil, err
	}
	out := make([]pratique.Finding, u.count())
	for i := range out {
		out[i] = u.finding()
	}
	return out, u.err()
}

// record is what is stored of a component of which a database ever said anything:
// all that a report says of it.
type record struct {
	component pratique.ComponentID
	name      string
	ecosystem string
	store.History
}

// packHistory packs a record; most vulnerabilities have one phase, that of now, since
// the component was first matched.
func (c codec) packRecord(r *record) ([]byte, error) {
	h, err := hash(r.component)
	if err != nil {
		return nil, err
	}
	p := newPacker()
	p.raw(h)
	p.str(r.name)
	p.str(r.ecosystem)
	p.at(r.First)
	p.uint(len(r.Tracks))
	for i := range r.Tracks {
		t := &r.Tracks[i]
		p.vulnerability(&t.Vulnerability)
		if slices.Equal(t.Phases, usual(t, r.First)) {
			p.uint(0)
			continue
		}
		p.uint(len(t.Phases))
		for _, f := range t.Phases {
			p.at(f.At)
			p.str(string(f.Severity))
			p.str(f.Fixed)
			p.str(f.Status)
			p.bool(f.Gone)
		}
	}
	return c.close(p), nil
}

func usual(t *store.Track, first time.Time) []store.Phase {
	return []store.Phase{{At: first, Severity: t.Severity, Fixed: t.Fixed, Status: t.Status}}
}

func (c codec) unpackRecord(doc []byte) (*record, error) {
	u, err := c.open(doc)
	if err != nil {
		return nil, err
	}
	r := &record{component: componentID([]byte(u.take(16))), name: u.str(), ecosystem: u.str(), History: store.History{First: u.at()}}
	r.Tracks = make([]store.Track, u.count())
	for i := range r.Tracks {
		t := &r.Tracks[i]
		t.Vulnerability = u.vulnerability()
		n := u.count()
		if n == 0 {
			t.Phases = usual(t, r.First)
			continue
		}
		t.Phases = make([]store.Phase, n)
		for j := range t.Phases {
			t.Phases[j] = store.Phase{At: u.at(), Severity: pratique.Severity(u.str()), Fixed: u.str(), Status: u.str(), Gone: u.bool()}
		}
	}
	return r, u.err()
}
