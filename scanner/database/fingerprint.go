package database

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"os"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"pratique/scanner/match"
)

// fingerprint tells a database from another without either: a 64-bit hash of what
// it says of each package in each bucket, and of each vulnerability record, with
// their names in order. Its form:
//
//	magic
//	section   'S', kind, length and name of the bucket
//	entry     'E', length of what the name shares with the one before, length and
//	          rest of the name, hash
//	end       'Z', SHA-256 of all that precedes
//
// Lengths are uvarints. Sections are in order of kind and bucket, entries of name.
type fingerprint []byte

// The version changes with anything that decides a hash; fingerprints of another
// one are made again.
const (
	fingerprintMagic = "pratique fingerprint 1\n"
	tagSection       = 'S'
	tagEntry         = 'E'
	tagEnd           = 'Z'
)

// Kinds of sections.
const (
	sectionAdvisories = 'a' // of one bucket, by package
	sectionCPEs       = 'c' // Red Hat's: "repository …" and "nvr …" to CPEs
	sectionSources    = 's' // data sources, by bucket
	sectionRecords    = 'v' // vulnerability records, by id
)

var errFingerprint = errors.New("fingerprint is damaged")

// check reports whether the fingerprint is whole.
func (f fingerprint) check() error {
	body := len(f) - sha256.Size
	if body < len(fingerprintMagic)+1 || string(f[:len(fingerprintMagic)]) != fingerprintMagic {
		return fmt.Errorf("%w: no header", errFingerprint)
	}
	if sum := sha256.Sum256(f[:body]); !bytes.Equal(sum[:], f[body:]) {
		return fmt.Errorf("%w: checksum", errFingerprint)
	}
	return nil
}

// fingerprintReader walks the entries of a fingerprint.
type fingerprintReader struct {
	rest   []byte
	kind   byte
	bucket string
	name   []byte // valid until the next call of next
	hash   uint64
	err    error
}

func (f fingerprint) reader() *fingerprintReader {
	if err := f.check(); err != nil {
		return &fingerprintReader{err: err}
	}
	return &fingerprintReader{rest: f[len(fingerprintMagic) : len(f)-sha256.Size]}
}

// next moves to the next entry; false is the end, or r.err.
func (r *fingerprintReader) next() bool {
	for r.err == nil && len(r.rest) > 0 {
		tag := r.rest[0]
		r.rest = r.rest[1:]
		switch tag {
		case tagSection:
			if len(r.rest) == 0 {
				break
			}
			r.kind, r.rest = r.rest[0], r.rest[1:]
			r.bucket, r.name = string(r.take(r.length())), r.name[:0]
			continue
		case tagEntry:
			shared := r.length()
			suffix := r.take(r.length())
			sum := r.take(8)
			if r.err != nil || shared > len(r.name) {
				break
			}
			r.name = append(r.name[:shared], suffix...)
			r.hash = binary.LittleEndian.Uint64(sum)
			return true
		case tagEnd:
			if len(r.rest) == 0 {
				return false
			}
		}
		r.err = errFingerprint
	}
	if r.err == nil { // it has no end
		r.err = errFingerprint
	}
	return false
}

func (r *fingerprintReader) length() int {
	n, used := binary.Uvarint(r.rest)
	if used <= 0 || n > uint64(len(r.rest)) {
		r.err = errFingerprint
		return 0
	}
	r.rest = r.rest[used:]
	return int(n)
}

func (r *fingerprintReader) take(n int) []byte {
	if r.err != nil || n > len(r.rest) {
		r.err = errFingerprint
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

// fingerprintWriter makes one.
type fingerprintWriter struct {
	buf  []byte
	last []byte // name of the last entry
}

func (w *fingerprintWriter) section(kind byte, bucket string) {
	w.buf = append(w.buf, tagSection, kind)
	w.buf = binary.AppendUvarint(w.buf, uint64(len(bucket)))
	w.buf = append(w.buf, bucket...)
	w.last = w.last[:0]
}

func (w *fingerprintWriter) entry(name []byte, sum uint64) {
	shared := 0
	for shared < min(len(name), len(w.last)) && name[shared] == w.last[shared] {
		shared++
	}
	w.buf = append(w.buf, tagEntry)
	w.buf = binary.AppendUvarint(w.buf, uint64(shared))
	w.buf = binary.AppendUvarint(w.buf, uint64(len(name)-shared))
	w.buf = append(w.buf, name[shared:]...)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, sum)
	w.last = append(w.last[:0], name...)
}

func (w *fingerprintWriter) end() fingerprint {
	w.buf = append(w.buf, tagEnd)
	sum := sha256.Sum256(w.buf)
	return append(w.buf, sum[:]...)
}

// fingerprintOf reads a database file. Its structure was verified when it was
// adopted; a file that is damaged since is an error wrapping match.ErrFault.
func fingerprintOf(ctx context.Context, path string) (_ fingerprint, err error) {
	if _, err := os.Stat(path); err != nil { // bbolt would say it in other words
		return nil, err
	}
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", match.ErrFault, r)
		}
	}()
	b, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	p := printer{ctx: ctx, w: fingerprintWriter{buf: []byte(fingerprintMagic)}}
	if err := b.View(p.print); err != nil {
		return nil, err
	}
	return p.w.end(), nil
}

// printer makes the fingerprint of one database.
type printer struct {
	ctx   context.Context //nolint:containedctx // of one reading
	w     fingerprintWriter
	cpes  map[string]string // Red Hat's CPEs by position
	entry hash.Hash
}

const (
	recordsBucket = "vulnerability"
	sourcesBucket = "data-source"
	cpeBucket     = "Red Hat CPE"
	redHatBucket  = "Red Hat"
)

func (p *printer) print(tx *bolt.Tx) error {
	p.entry = sha256.New()
	maps := tx.Bucket([]byte(cpeBucket))
	if err := p.readCPEs(maps); err != nil {
		return err
	}
	var roots []string
	err := tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
		if match.IsAdvisoryRoot(string(name)) {
			roots = append(roots, string(name))
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(roots)
	for _, root := range roots {
		if err := p.advisories(root, tx.Bucket([]byte(root))); err != nil {
			return fmt.Errorf("bucket %q: %w", root, err)
		}
	}
	if err := p.cpeMaps(maps); err != nil {
		return err
	}
	p.w.section(sectionSources, "")
	if err := p.values(tx.Bucket([]byte(sourcesBucket)), func(_, v []byte) uint64 { return p.sum(v) }); err != nil {
		return err
	}
	p.w.section(sectionRecords, "")
	return p.values(tx.Bucket([]byte(recordsBucket)), p.record)
}

// sum hashes parts, each with its length, so that no two lists of parts are the
// same bytes.
func (p *printer) sum(parts ...[]byte) uint64 {
	p.entry.Reset()
	p.add(parts...)
	return p.done()
}

func (p *printer) add(parts ...[]byte) {
	var length [8]byte
	for _, b := range parts {
		binary.LittleEndian.PutUint64(length[:], uint64(len(b)))
		p.entry.Write(length[:])
		p.entry.Write(b)
	}
}

func (p *printer) done() uint64 {
	var out [sha256.Size]byte
	return binary.LittleEndian.Uint64(p.entry.Sum(out[:0]))
}

// advisories prints one bucket: an entry for each package, and one without a name
// for values beside the packages, of which nobody knows what they say.
func (p *printer) advisories(root string, b *bolt.Bucket) error {
	p.w.section(sectionAdvisories, root)
	stray := false
	p.entry.Reset()
	err := b.ForEach(func(k, v []byte) error {
		if v != nil {
			stray = true
			p.add(k, v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if stray {
		p.w.entry(nil, p.done())
	}
	return b.ForEachBucket(func(pkg []byte) error {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		p.entry.Reset()
		if err := p.bucket(root, b.Bucket(pkg)); err != nil {
			return err
		}
		p.w.entry(pkg, p.done())
		return nil
	})
}

// bucket adds all that a bucket holds.
func (p *printer) bucket(root string, b *bolt.Bucket) error {
	return b.ForEach(func(k, v []byte) error {
		if v == nil {
			p.add([]byte{1}, k)
			err := p.bucket(root, b.Bucket(k))
			p.add([]byte{2})
			return err
		}
		if root == redHatBucket {
			v = p.nameCPEs(v)
		}
		p.add([]byte{0}, k, v)
		return nil
	})
}

// values prints an entry for each value of a bucket.
func (p *printer) values(b *bolt.Bucket, sum func(k, v []byte) uint64) error {
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, v []byte) error {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		if v == nil {
			return fmt.Errorf("bucket %.40q where a value belongs", k)
		}
		p.w.entry(k, sum(k, v))
		return nil
	})
}
