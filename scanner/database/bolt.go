package database

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"pratique/scanner/match"
)

// inspectBolt reads a bbolt file page by page, checks it and counts what it
// holds.
//
// bbolt's own Check reads through the mapping in a goroutine of its own, where
// a truncated file is a fault that ends the process and a loop of pages a stack
// that does. This reader uses ReadAt, follows no page twice and trusts no
// number. It checks what reading depends on: every page within the file and
// used once, keys in order and under the right parent, every value JSON. What
// only writing depends on, the free list, is left alone.
func inspectBolt(path string) (Counts, error) {
	f, err := os.Open(path)
	if err != nil {
		return Counts{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Counts{}, err
	}
	c := checker{file: f, size: info.Size(), seen: make(map[uint64]bool), counts: Counts{Roots: make(map[string]int)}}
	root, err := c.meta()
	if err == nil {
		err = c.tree(root, nil, nil, nil)
	}
	if err != nil {
		var r *Refusal
		if errors.As(err, &r) {
			return Counts{}, err
		}
		return Counts{}, refusal(ReasonCorrupt, "the database file is broken: %w", err)
	}
	for _, need := range []string{"vulnerability", "data-source"} {
		if !c.roots[need] {
			return Counts{}, refusal(ReasonEmpty, "it has no %q bucket", need)
		}
	}
	if c.counts.Vulnerabilities == 0 || c.counts.Advisories == 0 {
		return Counts{}, refusal(ReasonEmpty, "it holds %d vulnerabilities and %d advisories", c.counts.Vulnerabilities, c.counts.Advisories)
	}
	return c.counts, nil
}

// Layout of a bbolt file. Source: go.etcd.io/bbolt/internal/common, page.go and
// meta.go; integers are the writer's native order, little-endian on every
// platform Trivy's databases are built on.
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	pageHeader     = 16
	branchElement  = 16
	leafElement    = 16
	bucketHeader   = 16
	flagBranch     = 0x01
	flagLeaf       = 0x02
	flagMeta       = 0x04
	leafIsBucket   = 0x01
	maxPageSize    = 64 << 10
	maxRunBytes    = 64 << 20 // one page with its overflow; records are a few kB
	maxBucketDepth = 8
	maxTreeDepth   = 32
)

type checker struct {
	file     io.ReaderAt
	size     int64
	pageSize uint64
	pages    uint64 // high-water mark
	seen     map[uint64]bool
	depth    int
	counts   Counts
	roots    map[string]bool
}

// meta finds the newer valid meta page and returns the root bucket's page.
func (c *checker) meta() (uint64, error) {
	c.roots = make(map[string]bool)
	var (
		root, newest uint64
		found        bool
		firstErr     error
	)
	// The second meta page lies one page further; its size is the first's to
	// say, and when the first is broken the usual sizes are tried.
	offsets := []int64{0, 4096, 8192, 16384, 32768, maxPageSize}
	for _, off := range offsets {
		m, err := c.metaAt(off)
		if err != nil {
			if off == 0 {
				firstErr = err
			}
			continue
		}
		if off != 0 && off != int64(m.pageSize) || found && m.txid <= newest {
			continue
		}
		found, newest, root = true, m.txid, m.root
		c.pageSize, c.pages = m.pageSize, m.pages
	}
	if !found {
		return 0, fmt.Errorf("no valid meta page: %w", firstErr)
	}
	if c.pages < 3 || c.pages > uint64(c.size)/c.pageSize {
		return 0, fmt.Errorf("%w: %d bytes, its pages need %d", errTruncated, c.size, c.pages*c.pageSize)
	}
	return root, nil
}

type boltMeta struct{ pageSize, root, pages, txid uint64 }

func (c *checker) metaAt(off int64) (boltMeta, error) {
	b := make([]byte, pageHeader+64)
	if _, err := c.file.ReadAt(b, off); err != nil {
		return boltMeta{}, err
	}
	le := binary.LittleEndian
	m := b[pageHeader:]
	pageSize := uint64(le.Uint32(m[8:]))
	switch {
	case le.Uint16(b[8:])&flagMeta == 0, le.Uint32(m) != boltMagic:
		return boltMeta{}, errors.New("not a meta page")
	case le.Uint32(m[4:]) != boltVersion:
		return boltMeta{}, fmt.Errorf("file format version %d", le.Uint32(m[4:]))
	case le.Uint64(m[56:]) != fnv64a(m[:56]):
		return boltMeta{}, errors.New("checksum of the meta page")
	case pageSize < 1024 || pageSize > maxPageSize || pageSize&(pageSize-1) != 0:
		return boltMeta{}, fmt.Errorf("page size %d", pageSize)
	}
	return boltMeta{pageSize: pageSize, root: le.Uint64(m[16:]), pages: le.Uint64(m[40:]), txid: le.Uint64(m[48:])}, nil
}

func fnv64a(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, x := range b {
		h = (h ^ uint64(x)) * 1099511628211
	}
	return h
}

// page reads page id with its overflow and marks all of it as used.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= c.pages {
		return nil, fmt.Errorf("page %d is outside of the file", id)
	}
	head := make([]byte, pageHeader)
	if _, err := c.file.ReadAt(head, int64(id*c.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	run := uint64(binary.LittleEndian.Uint32(head[12:])) + 1
	if got := binary.LittleEndian.Uint64(head); got != id {
		return nil, fmt.Errorf("page %d calls itself %d", id, got)
	}
	if run > c.pages-id || run*c.pageSize > maxRunBytes {
		return nil, fmt.Errorf("page %d is %d pages long", id, run)
	}
	for i := id; i < id+run; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	b := make([]byte, run*c.pageSize)
	if _, err := c.file.ReadAt(b, int64(id*c.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return b, nil
}

// tree checks the pages of one bucket from page id downwards. All keys must lie
// in [low, high); nil is open. path names the bucket.
func (c *checker) tree(id uint64, path []string, low, high []byte) error {
	if c.depth++; c.depth > maxTreeDepth {
		return errors.New("pages are nested too deep")
	}
	defer func() { c.depth-- }()
	b, err := c.page(id)
	if err != nil {
		return err
	}
	return c.node(b, path, low, high)
}

func (c *checker) node(b []byte, path []string, low, high []byte) error {
	le := binary.LittleEndian
	if len(b) < pageHeader {
		return errors.New("inline page without a header")
	}
	flags, count := le.Uint16(b[8:]), int(le.Uint16(b[10:]))
	if pageHeader+count*leafElement > len(b) {
		return errors.New("more elements than the page can hold")
	}
	prev := low
	switch flags {
	case flagLeaf:
		for i := range count {
			key, value, isBucket, err := leafAt(b, i)
			if err != nil {
				return err
			}
			if err := inOrder(key, prev, high, i == 0); err != nil {
				return err
			}
			prev = key
			if err := c.entry(path, key, value, isBucket); err != nil {
				return err
			}
		}
	case flagBranch:
		if count == 0 {
			return errors.New("branch page without elements")
		}
		for i := range count {
			key, child, err := branchAt(b, i)
			if err != nil {
				return err
			}
			if err := inOrder(key, prev, high, i == 0); err != nil {
				return err
			}
			next := high
			if i+1 < count {
				if next, _, err = branchAt(b, i+1); err != nil {
					return err
				}
			}
			if err := c.tree(child, path, key, next); err != nil {
				return err
			}
			prev = key
		}
	default:
		return fmt.Errorf("unexpected page type %#x", flags)
	}
	return nil
}

// inOrder: a lookup descends by key, so a key out of order is a record that is
// there and is never found.
func inOrder(key, prev, high []byte, first bool) error {
	if prev != nil {
		if d := bytes.Compare(prev, key); d > 0 || d == 0 && !first {
			return fmt.Errorf("key %.40q is out of order", key)
		}
	}
	if high != nil && bytes.Compare(key, high) >= 0 {
		return fmt.Errorf("key %.40q is under the wrong parent", key)
	}
	return nil
}

func leafAt(b []byte, i int) (key, value []byte, isBucket bool, err error) {
	le := binary.LittleEndian
	at := pageHeader + i*leafElement
	e := b[at:]
	flags, pos := le.Uint32(e), uint64(le.Uint32(e[4:]))
	ksize, vsize := uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
	start := uint64(at) + pos
	if start+ksize+vsize > uint64(len(b)) {
		return nil, nil, false, errors.New("element points out of its page")
	}
	return b[start : start+ksize], b[start+ksize : start+ksize+vsize], flags&leafIsBucket != 0, nil
}

func branchAt(b []byte, i int) (key []byte, child uint64, err error) {
	le := binary.LittleEndian
	at := pageHeader + i*branchElement
	e := b[at:]
	start, ksize := uint64(at)+uint64(le.Uint32(e)), uint64(le.Uint32(e[4:]))
	if start+ksize > uint64(len(b)) {
		return nil, 0, errors.New("element points out of its page")
	}
	return b[start : start+ksize], le.Uint64(e[8:]), nil
}

// entry checks and counts one key of the bucket at path.
func (c *checker) entry(path []string, key, value []byte, isBucket bool) error {
	if len(path) == 0 && !isBucket {
		return fmt.Errorf("key %.40q outside of any bucket", key)
	}
	if !isBucket {
		if len(value) > 0 && !json.Valid(value) {
			return fmt.Errorf("%.80q/%.40q is not JSON", path, key)
		}
		switch {
		case path[0] == "vulnerability":
			c.counts.Vulnerabilities++
		case len(path) >= 2 && match.IsAdvisoryRoot(path[0]):
			c.counts.Advisories++
			c.counts.Roots[path[0]]++
		}
		return nil
	}
	if len(path) >= maxBucketDepth {
		return errors.New("buckets are nested too deep")
	}
	if len(path) == 0 {
		c.roots[string(key)] = true
	}
	if len(value) < bucketHeader {
		return fmt.Errorf("bucket %.40q has no header", key)
	}
	inner := append(slices.Clone(path), string(key))
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return c.tree(root, inner, nil, nil)
	}
	return c.node(value[bucketHeader:], inner, nil, nil)
}
