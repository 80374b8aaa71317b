package database

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"pratique/scanner/match"
)

// Comparison is what a person wants to know of two databases. What a rescan needs
// is a Difference.
type Comparison struct {
	Old ComparedDatabase `json:"old"`
	New ComparedDatabase `json:"new"`
	// Advisories counts bucket/package/id over all buckets, Buckets in each that
	// differs, those that differ most first.
	Advisories Moves        `json:"advisories"`
	Buckets    []BucketMove `json:"buckets"`
	// Vulnerabilities counts the records: changed are those that differ in what
	// findings tell (severity, title, scores), not in dates or descriptions.
	Vulnerabilities BucketMove `json:"vulnerabilities"`
	// Sources counts the buckets whose data source differs.
	Sources Moves `json:"dataSources"`
}

// ComparedDatabase is one of the two.
type ComparedDatabase struct {
	Digest    digest.Digest `json:"digest"`
	UpdatedAt time.Time     `json:"updatedAt"`
}

// Moves counts.
type Moves struct {
	Appeared int `json:"appeared"`
	Gone     int `json:"gone"`
	Changed  int `json:"changed"`
}

func (m Moves) total() int { return m.Appeared + m.Gone + m.Changed }

func (m *Moves) add(o Moves) {
	m.Appeared, m.Gone, m.Changed = m.Appeared+o.Appeared, m.Gone+o.Gone, m.Changed+o.Changed
}

// BucketMove counts in one bucket.
type BucketMove struct {
	Bucket string `json:"bucket,omitempty"`
	Moves
	// Examples are at most five of each kind.
	Examples Examples `json:"examples"`
}

// Examples of what moved: PACKAGE ID in a bucket, ID of records.
type Examples struct {
	Appeared []string `json:"appeared,omitempty"`
	Gone     []string `json:"gone,omitempty"`
	Changed  []string `json:"changed,omitempty"`
}

const maxExamples = 5

// Compare compares two databases in directories (trivy.db and metadata.json), which
// are verified first: they may come from anywhere.
func Compare(ctx context.Context, from, to string) (Comparison, error) {
	k := vulnerabilities()
	var out Comparison
	for _, c := range []struct {
		dir string
		is  *ComparedDatabase
	}{{from, &out.Old}, {to, &out.New}} {
		d, meta, err := content(k, c.dir)
		if err == nil {
			_, err = k.inspect(filepath.Join(c.dir, k.file))
		}
		if err != nil {
			return Comparison{}, fmt.Errorf("%s: %w", c.dir, err)
		}
		*c.is = ComparedDatabase{d, meta.UpdatedAt}
	}
	return out, compareFiles(ctx, filepath.Join(from, k.file), filepath.Join(to, k.file), &out)
}

// Compare compares two databases that are kept: current, previous, or their digests.
func (d *Database) Compare(ctx context.Context, from, to string) (Comparison, error) {
	a, err := d.find(from)
	if err != nil {
		return Comparison{}, err
	}
	b, err := d.find(to)
	if err != nil {
		return Comparison{}, err
	}
	out := Comparison{Old: ComparedDatabase{a.Digest, a.UpdatedAt}, New: ComparedDatabase{b.Digest, b.UpdatedAt}}
	return out, compareFiles(ctx, filepath.Join(a.dir, d.kind.file), filepath.Join(b.dir, d.kind.file), &out)
}

// Unpack writes the database of a stream that OpenPath returned into an empty
// directory, for Compare.
func Unpack(r io.Reader, dir string) error {
	k := vulnerabilities()
	_, err := unpack(k, r, dir, k.maxBytes)
	return err
}

// compareFiles reads verified files through bbolt; damage that came later is an
// error.
func compareFiles(ctx context.Context, from, to string, out *Comparison) (err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", match.ErrFault, r)
		}
	}()
	var sides [2]side
	var txs [2]*bolt.Tx
	for i, path := range []string{from, to} {
		if _, err := os.Stat(path); err != nil { // bbolt would say it in other words
			return err
		}
		b, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
		if err != nil {
			return err
		}
		defer b.Close()
		tx, err := b.Begin(false)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // it only read
		txs[i] = tx
		if err := sides[i].open(ctx, tx); err != nil {
			return err
		}
	}
	c := comparer{ctx: ctx, a: &sides[0], b: &sides[1]}
	for _, name := range rootsOf(txs[0], txs[1]) {
		a, b := txs[0].Bucket([]byte(name)), txs[1].Bucket([]byte(name))
		c.moves, c.root = BucketMove{Bucket: name}, name
		if err := c.buckets(a, b, nil); err != nil {
			return fmt.Errorf("bucket %q: %w", name, err)
		}
		switch {
		case name == recordsBucket:
			out.Vulnerabilities = c.moves
			out.Vulnerabilities.Bucket = ""
		case name == sourcesBucket:
			out.Sources = c.moves.Moves
		case match.IsAdvisoryRoot(name) && c.moves.total() > 0:
			out.Advisories.add(c.moves.Moves)
			out.Buckets = append(out.Buckets, c.moves)
		}
	}
	slices.SortStableFunc(out.Buckets, func(a, b BucketMove) int { return b.total() - a.total() })
	return nil
}

// rootsOf are the buckets of either that are compared, in order.
func rootsOf(txs ...*bolt.Tx) []string {
	var out []string
	for _, tx := range txs {
		c := tx.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			if name := string(k); name != cpeBucket {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// side knows how one database writes what both may say.
type side struct{ printer }

func (s *side) open(ctx context.Context, tx *bolt.Tx) error {
	s.printer = printer{ctx: ctx, entry: sha256.New()}
	return s.readCPEs(tx.Bucket([]byte(cpeBucket)))
}

// comparer merges the keys of two buckets, which are in order.
type comparer struct {
	ctx   context.Context //nolint:containedctx // of one comparison
	a, b  *side
	root  string
	moves BucketMove
}

// buckets compares two buckets of which one may be nil, and all below them.
func (c *comparer) buckets(a, b *bolt.Bucket, path []string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if len(path) > maxBucketDepth {
		return errors.New("buckets are nested too deep")
	}
	ca, cb := cursorOf(a), cursorOf(b)
	ka, va := ca.first()
	kb, vb := cb.first()
	for ka != nil || kb != nil {
		var order int
		switch {
		case kb == nil:
			order = -1
		case ka == nil:
			order = 1
		default:
			order = bytes.Compare(ka, kb)
		}
		var key, before, after []byte
		inA, inB := order <= 0, order >= 0
		if inA {
			key, before = ka, va
		}
		if inB {
			key, after = kb, vb
		}
		if err := c.entry(a, b, key, before, after, inA, inB, path); err != nil {
			return err
		}
		if inA {
			ka, va = ca.next()
		}
		if inB {
			kb, vb = cb.next()
		}
	}
	return nil
}

// entry compares what two buckets hold under one key. A nil value is a bucket.
func (c *comparer) entry(a, b *bolt.Bucket, key, before, after []byte, inA, inB bool, path []string) error {
	var subA, subB *bolt.Bucket
	if inA && before == nil {
		subA, inA = a.Bucket(key), false
	}
	if inB && after == nil {
		subB, inB = b.Bucket(key), false
	}
	if subA != nil || subB != nil {
		if err := c.buckets(subA, subB, append(slices.Clone(path), string(key))); err != nil {
			return err
		}
	}
	var count *int
	var examples *[]string
	switch {
	case inA && inB:
		if c.same(key, before, after) {
			return nil
		}
		count, examples = &c.moves.Changed, &c.moves.Examples.Changed
	case inA:
		count, examples = &c.moves.Gone, &c.moves.Examples.Gone
	case inB:
		count, examples = &c.moves.Appeared, &c.moves.Examples.Appeared
	default:
		return nil
	}
	if *count++; len(*examples) < maxExamples {
		*examples = append(*examples, strings.Join(append(slices.Clone(path), string(key)), " "))
	}
	return nil
}

// same reports whether two values say the same.
func (c *comparer) same(key, before, after []byte) bool {
	switch c.root {
	case recordsBucket:
		return bytes.Equal(before, after) || c.a.record(key, before) == c.b.record(key, after)
	case redHatBucket:
		return bytes.Equal(c.a.nameCPEs(before), c.b.nameCPEs(after))
	}
	return bytes.Equal(before, after)
}

// cursor walks a bucket, or nothing.
type cursor struct{ *bolt.Cursor }

func cursorOf(b *bolt.Bucket) cursor {
	if b == nil {
		return cursor{}
	}
	return cursor{b.Cursor()}
}

func (c cursor) first() (key, value []byte) {
	if c.Cursor == nil {
		return nil, nil
	}
	return c.First()
}

func (c cursor) next() (key, value []byte) { return c.Next() }
