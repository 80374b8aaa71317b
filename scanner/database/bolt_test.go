package database

import (
	"archive/tar"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"pratique"
)

// boltFile is the newer test database, and its pages of one type by number.
func boltFile(t *testing.T, flags uint16) (body []byte, pages []int) {
	t.Helper()
	f, err := os.Open("../../testdata/database/new.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(gz)
	if h, err := tr.Next(); err != nil || h.Name != "trivy.db" {
		t.Fatalf("%v, %v", h, err)
	}
	if body, err = io.ReadAll(tr); err != nil {
		t.Fatal(err)
	}
	const size = 4096
	for p := 2; (p+1)*size <= len(body); p++ {
		b := body[p*size:]
		if binary.LittleEndian.Uint64(b) == uint64(p) && binary.LittleEndian.Uint16(b[8:]) == flags && binary.LittleEndian.Uint16(b[10:]) > 1 {
			pages = append(pages, p*size)
		}
	}
	if len(pages) < 3 {
		t.Fatalf("%d pages of type %#x", len(pages), flags)
	}
	return body, pages
}

// TestStructure spoils one number at a time. Each of these would be a wrong
// answer, a fault or an endless loop for who trusts it.
func TestStructure(t *testing.T) {
	le := binary.LittleEndian
	swap := func(page []byte) { // the first two elements, their offsets kept right
		a, b := page[pageHeader:pageHeader+16], page[pageHeader+16:pageHeader+32]
		at := 4 // leaf: flags, pos, ksize, vsize
		if le.Uint16(page[8:]) == flagBranch {
			at = 0
		}
		le.PutUint32(a[at:], le.Uint32(a[at:])-16)
		le.PutUint32(b[at:], le.Uint32(b[at:])+16)
		for i := range a {
			a[i], b[i] = b[i], a[i]
		}
	}
	for _, c := range []struct {
		name  string
		flags uint16
		spoil func(body []byte, pages []int)
	}{
		{"a branch that leads to itself", flagBranch, func(b []byte, p []int) { le.PutUint64(b[p[0]+pageHeader+8:], uint64(p[0]/4096)) }},
		{"two branches to one page", flagBranch, func(b []byte, p []int) {
			copy(b[p[0]+pageHeader+8:p[0]+pageHeader+16], b[p[0]+pageHeader+24:])
		}},
		{"a branch out of the file", flagBranch, func(b []byte, p []int) { le.PutUint64(b[p[0]+pageHeader+8:], 1<<40) }},
		{"a branch to a meta page", flagBranch, func(b []byte, p []int) { le.PutUint64(b[p[0]+pageHeader+8:], 0) }},
		{"branches out of order", flagBranch, func(b []byte, p []int) { swap(b[p[0]:]) }},
		{"a branch without elements", flagBranch, func(b []byte, p []int) { le.PutUint16(b[p[0]+10:], 0) }},
		{"keys out of order", flagLeaf, func(b []byte, p []int) { swap(b[p[len(p)/2]:]) }},
		{"a key twice", flagLeaf, func(b []byte, p []int) {
			page := b[p[len(p)/2]:]
			copy(page[pageHeader+16:pageHeader+32], page[pageHeader:])
			le.PutUint32(page[pageHeader+20:], le.Uint32(page[pageHeader+4:])-16)
		}},
		{"a key outside of its page", flagLeaf, func(b []byte, p []int) { le.PutUint32(b[p[0]+pageHeader+4:], 1<<31) }},
		{"a value larger than its page", flagLeaf, func(b []byte, p []int) { le.PutUint32(b[p[0]+pageHeader+12:], 1<<31) }},
		{"sizes that overflow", flagLeaf, func(b []byte, p []int) {
			le.PutUint32(b[p[0]+pageHeader+8:], 1<<32-1)
			le.PutUint32(b[p[0]+pageHeader+12:], 1<<32-1)
		}},
		{"more elements than fit", flagLeaf, func(b []byte, p []int) { le.PutUint16(b[p[0]+10:], 1<<16-1) }},
		{"a page longer than the file", flagLeaf, func(b []byte, p []int) { le.PutUint32(b[p[0]+12:], 1<<32-1) }},
		{"a page with another's number", flagLeaf, func(b []byte, p []int) { le.PutUint64(b[p[0]:], 3) }},
		{"a page of no type", flagLeaf, func(b []byte, p []int) { le.PutUint16(b[p[0]+8:], 0x40) }},
		{"no meta page", flagLeaf, func(b []byte, _ []int) { clear(b[:8192]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			body, pages := boltFile(t, c.flags)
			path := filepath.Join(t.TempDir(), "trivy.db")
			write := func() {
				if err := os.WriteFile(path, body, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write()
			if _, err := inspectBolt(path); err != nil {
				t.Fatalf("unspoilt: %v", err)
			}
			c.spoil(body, pages)
			write()
			counts, err := inspectBolt(path)
			var r *Refusal
			if !errors.As(err, &r) || r.Reason != ReasonCorrupt || !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("got %v with %d advisories", err, counts.Advisories)
			}
		})
	}
}
