package packed

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"pratique"
	"pratique/store"
)

// HashSize is the length of what Hash returns.
const HashSize = 16

// Hash is a component id as stored.
func Hash(id pratique.ComponentID) ([]byte, error) {
	b, err := hex.DecodeString(string(id))
	if err != nil || len(b) != HashSize {
		return nil, fmt.Errorf("%w component id %q", pratique.ErrInvalid, string(id))
	}
	return b, nil
}

// ComponentID undoes Hash.
func ComponentID(hash string) pratique.ComponentID {
	return pratique.ComponentID(hex.EncodeToString([]byte(hash)))
}

// Record is what is stored of a component of which a database ever said anything:
// all that a report says of it.
type Record struct {
	Component pratique.ComponentID
	Name      string
	Ecosystem string
	store.History
}

// PackRecord packs a record (see Pack); most vulnerabilities have one phase, that of now, since
// the component was first matched.
func (c Codec) PackRecord(r *Record, above int) ([]byte, error) {
	h, err := Hash(r.Component)
	if err != nil {
		return nil, err
	}
	p := NewPacker()
	p.Raw(h)
	p.Str(r.Name)
	p.Str(r.Ecosystem)
	p.At(r.First)
	p.Uint(len(r.Tracks))
	for i := range r.Tracks {
		t := &r.Tracks[i]
		p.Vulnerability(&t.Vulnerability)
		if slices.Equal(t.Phases, usual(t, r.First)) {
			p.Uint(0)
			continue
		}
		p.Uint(len(t.Phases))
		for _, f := range t.Phases {
			p.At(f.At)
			p.Str(string(f.Severity))
			p.Str(f.Fixed)
			p.Str(f.Status)
			p.Bool(f.Gone)
		}
	}
	return c.Pack(p, above), nil
}

func usual(t *store.Track, first time.Time) []store.Phase {
	return []store.Phase{{At: first, Severity: t.Severity, Fixed: t.Fixed, Status: t.Status}}
}

// UnpackRecord undoes PackRecord.
func (c Codec) UnpackRecord(doc []byte) (*Record, error) {
	u, err := c.Unpack(doc)
	if err != nil {
		return nil, err
	}
	r := &Record{Component: ComponentID(u.Take(HashSize)), Name: u.Str(), Ecosystem: u.Str(), History: store.History{First: u.At()}}
	r.Tracks = make([]store.Track, u.Count())
	for i := range r.Tracks {
		t := &r.Tracks[i]
		t.Vulnerability = u.Vulnerability()
		n := u.Count()
		if n == 0 {
			t.Phases = usual(t, r.First)
			continue
		}
		t.Phases = make([]store.Phase, n)
		for j := range t.Phases {
			t.Phases[j] = store.Phase{At: u.At(), Severity: pratique.Severity(u.Str()), Fixed: u.Str(), Status: u.Str(), Gone: u.Bool()}
		}
	}
	return r, u.Err()
}

// Cost is about how many bytes a record takes in memory.
func (r *Record) Cost() int {
	n := 200 + len(r.Name) + len(r.Ecosystem)
	for i := range r.Tracks {
		t := &r.Tracks[i]
		n += 200 + len(t.ID) + len(t.Fixed) + len(t.Title) + len(t.URL) + len(t.Source) + 80*len(t.Phases) + 32*len(t.VendorIDs)
	}
	return n
}
