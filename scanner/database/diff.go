package database

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Difference is what a database says otherwise than another, as what it concerns.
type Difference struct {
	// All says that it is not known: everything may differ. The others are empty then.
	All bool
	// Keys are those of components (pratique.Component.Keys) whose advisories may
	// differ: of packages, and of types that differ as a whole. In order.
	Keys []string
	// Vulnerabilities are the ids whose records differ in what findings tell. In order.
	Vulnerabilities []string
	// Packages counts the packages that differ, by their bucket.
	Packages map[string]Moved
}

// Moved counts what differs.
type Moved struct {
	Added   int `json:"added,omitempty"`
	Removed int `json:"removed,omitempty"`
	Changed int `json:"changed,omitempty"`
}

// DiffFiles compares the databases in two directories (trivy.db).
func DiffFiles(ctx context.Context, from, to string) (Difference, error) {
	a, err := fingerprintOf(ctx, filepath.Join(from, vulnerabilities().file))
	if err != nil {
		return Difference{}, fmt.Errorf("%s: %w", from, err)
	}
	b, err := fingerprintOf(ctx, filepath.Join(to, vulnerabilities().file))
	if err != nil {
		return Difference{}, fmt.Errorf("%s: %w", to, err)
	}
	return compareFingerprints(a, b)
}

// Diff compares two databases that are or were kept here. One that is known no more
// makes a Difference of everything, never an empty one. What is needed to compare
// to with later databases is kept when it returns without an error.
func (d *Database) Diff(ctx context.Context, from, to digest.Digest) (Difference, error) {
	next, err := d.fingerprint(ctx, to)
	if err != nil {
		return Difference{}, fmt.Errorf("comparing databases: %s: %w", to, err)
	}
	if from == to {
		return Difference{}, nil
	}
	before, err := d.fingerprint(ctx, from)
	if errors.Is(err, pratique.ErrNotFound) || errors.Is(err, pratique.ErrInvalid) {
		d.cfg.Log.InfoContext(ctx, "former database is known no more, everything is held to differ", "former", from, "digest", to)
		return Difference{All: true}, nil
	}
	if err != nil {
		return Difference{}, fmt.Errorf("comparing databases: %s: %w", from, err)
	}
	return compareFingerprints(before, next)
}

const (
	fingerprintDir   = "fingerprints"
	keptFingerprints = 4
)

// fingerprint returns that of a database: the kept one, or one made now of the
// database itself. The error wraps ErrNotFound when neither is kept, and
// ErrInvalid when d names no database.
func (d *Database) fingerprint(ctx context.Context, dg digest.Digest) (fingerprint, error) {
	if dg == "" {
		return nil, fmt.Errorf("%w: no database", pratique.ErrNotFound)
	}
	if _, err := pratique.ParseDigest(dg.String()); err != nil {
		return nil, err
	}
	name := filepath.Join(d.keep.dir, fingerprintDir, encoded(dg))
	raw, err := os.ReadFile(name)
	if err == nil {
		f := fingerprint(raw)
		if err = f.check(); err == nil {
			_ = os.Chtimes(name, time.Time{}, time.Now()) // used ones are kept longest
			return f, nil
		}
		d.cfg.Log.WarnContext(ctx, "kept fingerprint of a database cannot be used", "digest", dg, "error", err)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := fingerprintOf(ctx, filepath.Join(d.keep.dir, encoded(dg), d.kind.file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: database %s", pratique.ErrNotFound, dg)
	}
	if err != nil {
		return nil, err
	}
	return f, d.keepFingerprint(name, f)
}

// keepFingerprint writes one and removes those that were not used for longest.
func (d *Database) keepFingerprint(name string, f fingerprint) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, stagingPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	_, err = tmp.Write(f)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	return pruneFingerprints(dir, filepath.Base(name))
}

// pruneFingerprints keeps the newest, and keep in any case.
func pruneFingerprints(dir, keep string) error {
	es, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var kept []fs.FileInfo
	for _, e := range es {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.Name() == keep {
			continue
		}
		if err != nil {
			return err
		}
		kept = append(kept, info)
	}
	slices.SortFunc(kept, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var errs []error
	for i, info := range kept {
		if i >= keptFingerprints-1 {
			errs = append(errs, os.Remove(filepath.Join(dir, info.Name())))
		}
	}
	return errors.Join(errs...)
}

// compareFingerprints merges the two, which are in the same order.
func compareFingerprints(from, to fingerprint) (Difference, error) {
	c := comparison{
		keys: make(map[string]bool), sources: make(map[string]bool),
		out: Difference{Packages: make(map[string]Moved)},
	}
	a, b := from.reader(), to.reader()
	moreA, moreB := a.next(), b.next()
	for moreA || moreB {
		var order int
		switch {
		case !moreB:
			order = -1
		case !moreA:
			order = 1
		default:
			order = a.compare(b)
		}
		switch {
		case order < 0:
			c.differs(a, func(m *Moved) { m.Removed++ })
			moreA = a.next()
		case order > 0:
			c.differs(b, func(m *Moved) { m.Added++ })
			moreB = b.next()
		default:
			if a.hash != b.hash {
				c.differs(b, func(m *Moved) { m.Changed++ })
			}
			moreA, moreB = a.next(), b.next()
		}
	}
	if err := errors.Join(a.err, b.err); err != nil {
		return Difference{}, err
	}
	if c.out.All {
		return Difference{All: true}, nil
	}
	if err := c.bySource(from, to); err != nil {
		return Difference{}, err
	}
	c.out.Keys = slices.Sorted(maps.Keys(c.keys))
	return c.out, nil
}

// comparison collects differences.
type comparison struct {
	keys    map[string]bool
	sources map[string]bool // buckets whose data source differs
	out     Difference
}

// redHatTypes are the component types whose packages are matched by the CPEs of
// their repositories. Source: trivy's pkg/detector/ospkg/detect.go, drivers; a test
// asks all drivers.
func redHatTypes() []string { return []string{"redhat", "centos"} }

// differs notes the entry that r is at.
func (c *comparison) differs(r *fingerprintReader, count func(*Moved)) {
	switch r.kind {
	case sectionAdvisories:
		if len(r.name) == 0 { // something that is no package, in a place nobody knows
			c.out.All = true
			return
		}
		c.keys[pratique.PackageKey(string(r.name))] = true
		m := c.out.Packages[r.bucket]
		count(&m)
		c.out.Packages[r.bucket] = m
	case sectionCPEs:
		for _, t := range redHatTypes() {
			c.keys[pratique.TypeKey(t)] = true
		}
	case sectionSources:
		c.sources[string(r.name)] = true
	case sectionRecords:
		c.out.Vulnerabilities = append(c.out.Vulnerabilities, string(r.name))
	default:
		c.out.All = true
	}
}

// bySource adds the packages of buckets whose data source differs: it decides
// which vendor's severity counts.
func (c *comparison) bySource(fs ...fingerprint) error {
	if len(c.sources) == 0 {
		return nil
	}
	for _, f := range fs {
		r := f.reader()
		for r.next() {
			if r.kind == sectionAdvisories && c.sources[r.bucket] {
				c.keys[pratique.PackageKey(string(r.name))] = true
			}
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

// compare orders the entries that two readers are at.
func (r *fingerprintReader) compare(o *fingerprintReader) int {
	if r.kind != o.kind {
		return int(r.kind) - int(o.kind)
	}
	if r.bucket != o.bucket {
		if r.bucket < o.bucket {
			return -1
		}
		return 1
	}
	return bytes.Compare(r.name, o.name)
}
