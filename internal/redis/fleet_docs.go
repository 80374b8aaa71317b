package redis

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"pratique"
	"pratique/internal/packed"
)

// What is compared before it is replaced begins with a token, tokenSize random bytes
// that no two writes share: a document that has the token that was read is the one
// that was read, also after Redis lost writes.
const tokenSize = 8

func newToken() string {
	var b [tokenSize]byte
	_, _ = rand.Read(b[:])
	return string(b[:])
}

// errMoved says that what was read is not there any more: read again.
var errMoved = errors.New("changed meanwhile by another replica")

// maxRereads is how often what was replaced meanwhile is read anew.
const maxRereads = 16

// packAbove is the size from which documents are compressed. Redis keeps all of them
// in memory: they are smaller here than in a file.
const packAbove = 700

// raw is a component id as it stands in fields, chunks and lists.
func raw(id pratique.ComponentID) (string, error) {
	b, err := packed.Hash(id)
	return string(b), err
}

// placeOfHash is the place of a component, or of a chunk, which has a hash like it.
func placeOfHash(hash string) place {
	return place{partNumber(int(hash[0]) / (256 / partitions)), hash}
}

func placesOfHashes(hashes []string) []place {
	out := make([]place, len(hashes))
	for i, h := range hashes {
		out[i] = placeOfHash(h)
	}
	return out
}

// spoken is what is stored of a component that was matched: token, number of the
// engine that it was matched with last and when it was first matched, 8 bytes each,
// and the record if anything was ever said of it.
type spoken struct {
	token string
	seq   int64
	first time.Time
	doc   string
}

func (s spoken) pack() string {
	b := make([]byte, 0, tokenSize+16+len(s.doc))
	b = append(b, s.token...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.seq))          //nolint:gosec // counts up from 1
	b = binary.BigEndian.AppendUint64(b, uint64(nanos(s.first))) //nolint:gosec // all bits
	return string(append(b, s.doc...))
}

func unpackSaid(v string) (spoken, error) {
	if len(v) < tokenSize+16 {
		return spoken{}, packed.ErrDamaged
	}
	n := func(at int) int64 { return int64(binary.BigEndian.Uint64([]byte(v[at : at+8]))) } //nolint:gosec // what pack wrote
	return spoken{v[:tokenSize], n(tokenSize), at(n(tokenSize + 8)), v[tokenSize+16:]}, nil
}

// Chunks and components are named by their hashes, of packed.HashSize bytes.
type (
	roster = packed.Roster[string]
	chunk  = packed.Chunk[string]
	joint  = packed.Part[string]
	image  = packed.Image[string]
)

// occurrences are which chunks an image has.
type occurrences struct {
	token string
	// counter counts writes; a chunk is linked under its number, so that whoever
	// unlinks one that was linked again meanwhile does not (links.go has no part in it).
	counter int
	// linked are all chunks that may name the image, by the number they are linked
	// under: more than those of rosters only until a writer's end.
	linked   map[string]int
	latest   *roster // what PutImage brought last
	standing *roster // what is in force
	// retiring is what was in force before, while it is not certain that the report's
	// past tells all of it (see settling.verify).
	retiring *roster
}

func (o *occurrences) rosters() []*roster {
	return slices.DeleteFunc([]*roster{o.latest, o.standing, o.retiring}, func(l *roster) bool { return l == nil })
}

// holds reports whether a roster names a chunk.
func (o *occurrences) holds(chunk string) bool {
	for _, l := range o.rosters() {
		if slices.ContainsFunc(l.Chunks, func(c packed.Listed[string]) bool { return c.ID == chunk }) {
			return true
		}
	}
	return false
}

func (db *DB) packOccurrences(o *occurrences) string {
	p := packed.NewPacker()
	p.Uint(o.counter)
	ids := make([]string, 0, len(o.linked))
	for id := range o.linked {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	index := make(map[string]int, len(ids))
	p.Uint(len(ids))
	for i, id := range ids {
		index[id] = i
		p.Raw([]byte(id))
		p.Uint(o.linked[id])
	}
	for _, l := range []*roster{o.latest, o.standing, o.retiring} {
		p.Bool(l != nil)
		if l != nil {
			packed.PackRoster(p, *l, func(p *packed.Packer, id string) { p.Uint(index[id]) })
		}
	}
	return o.token + string(db.Pack(p, packAbove))
}

func (db *DB) unpackOccurrences(v string) (*occurrences, error) {
	if len(v) < tokenSize {
		return nil, packed.ErrDamaged
	}
	u, err := db.Unpack([]byte(v[tokenSize:]))
	if err != nil {
		return nil, err
	}
	o := &occurrences{token: v[:tokenSize], counter: u.Uint(), linked: make(map[string]int)}
	ids := make([]string, u.Count())
	for i := range ids {
		ids[i] = u.Take(packed.HashSize)
		o.linked[ids[i]] = u.Uint()
	}
	bad := false
	for _, l := range []**roster{&o.latest, &o.standing, &o.retiring} {
		if !u.Bool() {
			continue
		}
		r, err := packed.UnpackRoster(u, func(u *packed.Unpacker) string {
			i := u.Uint()
			if i < 0 || i >= len(ids) {
				bad = true
				return ""
			}
			return ids[i]
		})
		if err != nil {
			return nil, err
		}
		*l = &r
	}
	if bad {
		return nil, packed.ErrDamaged
	}
	return o, u.Err()
}

// packHead packs what is stored of a report, behind a token.
func (db *DB) packHead(token string, h *packed.Head) (string, error) {
	stored := h.Report
	stored.Findings, stored.Changes = nil, nil
	doc, err := json.Marshal(stored)
	if err != nil {
		return "", err
	}
	var past []byte
	if len(h.Past) > 0 {
		if past, err = json.Marshal(h.Past); err != nil {
			return "", err
		}
	}
	p := packed.NewPacker()
	p.Int(h.Seq)
	p.Str(string(doc))
	p.Str(string(past))
	p.Raw(db.PackFindings(h.Findings, 1<<30))
	return token + string(db.Pack(p, packAbove)), nil
}

// unpackHead undoes packHead.
func (db *DB) unpackHead(v string) (token string, h *packed.Head, err error) {
	if len(v) < tokenSize {
		return "", nil, packed.ErrDamaged
	}
	u, err := db.Unpack([]byte(v[tokenSize:]))
	if err != nil {
		return "", nil, err
	}
	h = &packed.Head{Seq: u.Int()}
	doc, past, findings := u.Str(), u.Str(), u.Rest()
	if err := u.Err(); err != nil {
		return "", nil, err
	}
	if err := json.Unmarshal([]byte(doc), &h.Report); err != nil {
		return "", nil, err
	}
	if past != "" {
		if err := json.Unmarshal([]byte(past), &h.Past); err != nil {
			return "", nil, err
		}
	}
	h.Findings, err = db.UnpackFindings([]byte(findings))
	return v[:tokenSize], h, err
}

// packChunk packs a chunk; its components are there already.
func (db *DB) packChunk(c *packed.NewChunk) (string, error) {
	ids := make([]string, len(c.Components))
	for i, id := range c.Components {
		var err error
		if ids[i], err = raw(id); err != nil {
			return "", err
		}
	}
	p := packed.NewPacker()
	packed.PackChunk(p, c, ids, func(p *packed.Packer, id string) { p.Raw([]byte(id)) })
	return string(db.Pack(p, packAbove)), nil
}

func (db *DB) unpackChunk(doc string) (*chunk, error) {
	u, err := db.Unpack([]byte(doc))
	if err != nil {
		return nil, err
	}
	return packed.UnpackChunk(u, func(u *packed.Unpacker) string { return u.Take(packed.HashSize) })
}
