package database

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// shelf is the directory in which databases are kept:
//
//	current           pointer: digests of the current and the previous one
//	<sha256 hex>/     a database: its file, metadata.json, adopted.json; beside
//	                  them the copy that is served to others, see Artifact
//	.staging-*/       one that is being fetched
//
// A directory with a digest's name is complete and synced before it has that
// name; whatever the pointer does not name is a leftover.
type shelf struct{ dir string }

const (
	pointerFile   = "current"
	recordFile    = "adopted.json"
	stagingPrefix = ".staging-"
)

// pointer names the databases that are kept.
type pointer struct {
	Current  digest.Digest `json:"current,omitempty"`
	Previous digest.Digest `json:"previous,omitempty"`
	// RolledBack are those that operators turned away from, kept or not.
	RolledBack rollbacks `json:"rolledBack,omitempty"`
}

// offer is where a database comes from.
type offer struct {
	source   string        // as configured, or "import"
	identity digest.Digest // changes whenever the offer does; empty: not known
	layer    digest.Digest // announced digest of the stream; empty: not known
	size     int64
	diffID   digest.Digest // announced digest of the tar; empty: not known
	copy     bool          // the stream is kept as the database's copy
}

// record describes a kept database; it is adopted.json.
type record struct {
	Digest       digest.Digest `json:"digest"`
	Source       string        `json:"source"`
	Identity     digest.Digest `json:"identity,omitempty"`
	UpdatedAt    time.Time     `json:"updatedAt"`
	NextUpdate   time.Time     `json:"nextUpdate,omitzero"`
	DownloadedAt time.Time     `json:"downloadedAt,omitzero"`
	Counts       Counts        `json:"counts"`

	dir string
}

// metadata is metadata.json of both kinds.
type metadata struct {
	Version               int
	NextUpdate, UpdatedAt time.Time
}

// prepare makes the directory, reads the pointer and removes leftovers.
func (s shelf) prepare() (pointer, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return pointer{}, err
	}
	var p pointer
	raw, err := os.ReadFile(filepath.Join(s.dir, pointerFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return pointer{}, err
	default:
		// Written by rename, so never half; a file that is nonsense anyway loses
		// the databases, which are fetched again.
		if err := json.Unmarshal(raw, &p); err != nil {
			return pointer{}, fmt.Errorf("%s: %w", filepath.Join(s.dir, pointerFile), err)
		}
		for _, d := range []digest.Digest{p.Current, p.Previous} {
			if d == "" {
				continue
			}
			if _, err := pratique.ParseDigest(d.String()); err != nil {
				return pointer{}, fmt.Errorf("%s: %w", filepath.Join(s.dir, pointerFile), err)
			}
		}
	}
	return p, s.clean(p, true)
}

// clean removes what p does not name and only what this package made; what is
// being staged only at the start, when it is nobody's.
func (s shelf) clean(p pointer, stagings bool) error {
	es, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range es {
		name := e.Name()
		isDatabase := digest.NewDigestFromEncoded(digest.SHA256, name).Validate() == nil
		if !isDatabase && (!stagings || !strings.HasPrefix(name, stagingPrefix)) {
			continue
		}
		if isDatabase && (name == encoded(p.Current) || name == encoded(p.Previous)) {
			continue
		}
		errs = append(errs, os.RemoveAll(filepath.Join(s.dir, name)))
	}
	return errors.Join(errs...)
}

func encoded(d digest.Digest) string {
	if d == "" {
		return ""
	}
	return d.Encoded()
}

// load opens a kept database: its content is hashed again, which also brings a
// cold file into the page cache in one sequential read, and which proves that
// it is what was verified when it was adopted.
func (s shelf) load(k kind, d digest.Digest) (*record, error) {
	rec, err := s.record(d)
	if err != nil {
		return nil, err
	}
	got, _, err := content(k, rec.dir)
	if err != nil {
		return nil, err
	}
	if got != d {
		return nil, refusal(ReasonCorrupt, "kept database %s now reads as %s", d, got)
	}
	return &rec, nil
}

// record reads what is said of a kept database.
func (s shelf) record(d digest.Digest) (record, error) {
	dir := filepath.Join(s.dir, encoded(d))
	raw, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return record{}, err
	}
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return record{}, fmt.Errorf("%s: %w", recordFile, err)
	}
	if rec.Digest != d {
		return record{}, refusal(ReasonCorrupt, "kept database %s calls itself %s", d, rec.Digest)
	}
	rec.dir = dir
	return rec, nil
}

// content is the identity of a database: the digest over its file and the parts
// of its metadata that its publisher wrote, so that one content has one digest
// whichever way it came.
func content(k kind, dir string) (digest.Digest, metadata, error) {
	raw, err := os.ReadFile(filepath.Join(dir, metadataFile))
	if err != nil {
		return "", metadata{}, err
	}
	var m metadata
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", metadata{}, refusal(ReasonSchema, "%s: %w", metadataFile, err)
	}
	if m.Version != k.schema {
		return "", metadata{}, refusal(ReasonSchema, "schema version %d, want %d", m.Version, k.schema)
	}
	if m.UpdatedAt.IsZero() {
		return "", metadata{}, refusal(ReasonSchema, "%s does not say when the database was updated", metadataFile)
	}
	m.UpdatedAt, m.NextUpdate = m.UpdatedAt.UTC(), m.NextUpdate.UTC()
	f, err := os.Open(filepath.Join(dir, k.file))
	if err != nil {
		return "", metadata{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, bufio.NewReaderSize(f, 1<<20)); err != nil {
		return "", metadata{}, err
	}
	return contentDigest(k, h.Sum(nil), m.Version, m.UpdatedAt), m, nil
}

func contentDigest(k kind, sum []byte, version int, updatedAt time.Time) digest.Digest {
	return digest.FromString(fmt.Sprintf("%s %x %d %s", k.file, sum, version, updatedAt.UTC().Format(time.RFC3339Nano)))
}

// staged is a database that is complete on disk but nobody's yet.
type staged struct {
	record
	done bool
}

// stage unpacks r into a new directory and checks every announced digest.
func (s shelf) stage(k kind, r io.Reader, o offer, limit int64) (_ *staged, err error) {
	dir, err := os.MkdirTemp(s.dir, stagingPrefix)
	if err != nil {
		return nil, err
	}
	st := &staged{record: record{Source: o.source, Identity: o.identity, dir: dir}}
	defer func() {
		if err != nil {
			st.discard()
		}
	}()
	in := r
	if o.layer != "" {
		in = verify(r, o.layer, o.size)
	}
	var tee *os.File
	if o.copy {
		if tee, err = os.Create(filepath.Join(dir, stagingPrefix+copyFile)); err != nil {
			return nil, err
		}
		defer tee.Close()
		in = io.TeeReader(in, tee)
	}
	diffID, err := unpack(k, in, dir, limit)
	if err != nil && o.layer != "" {
		// Was the offer broken, or the transfer? Only the whole layer tells.
		if _, derr := io.Copy(io.Discard, in); derr != nil {
			return nil, archiveError(derr)
		}
	}
	if err != nil {
		return nil, err
	}
	if o.diffID != "" && diffID != o.diffID {
		return nil, refusal(ReasonDigest, "the archive unpacks to %s, announced was %s", diffID, o.diffID)
	}
	var m metadata
	if st.Digest, m, err = content(k, dir); err != nil {
		return nil, err
	}
	st.UpdatedAt, st.NextUpdate = m.UpdatedAt, m.NextUpdate
	if tee != nil {
		if err = tee.Sync(); err == nil {
			_, err = keepCopy(dir, tee.Name(), o.layer, o.size)
		}
	}
	return st, err
}

// verify inspects the file and fills Counts.
func (st *staged) verify(k kind) error {
	name := filepath.Join(st.dir, k.file)
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if st.Counts, err = k.inspect(name); err != nil {
		return err
	}
	st.Counts.Bytes = info.Size()
	return nil
}

// discard removes a staged database that was not committed.
func (st *staged) discard() {
	if !st.done {
		_ = os.RemoveAll(st.dir) // a leftover is removed at the next start
	}
}

// commit gives the staged database its name. Afterwards it survives a crash,
// but until the pointer names it it is a leftover.
func (s shelf) commit(st *staged) (record, error) {
	if err := s.writeRecord(st.record); err != nil {
		return record{}, err
	}
	if err := syncDir(st.dir); err != nil {
		return record{}, err
	}
	final := filepath.Join(s.dir, encoded(st.Digest))
	// The same content kept as the previous one, or left by a failed adoption:
	// nothing reads it now.
	if err := os.RemoveAll(final); err != nil {
		return record{}, err
	}
	if err := os.Rename(st.dir, final); err != nil {
		return record{}, err
	}
	st.done = true
	rec := st.record
	rec.dir = final
	return rec, syncDir(s.dir)
}

// point writes the pointer: after it returns nil a restart opens p.Current.
func (s shelf) point(p pointer) error { return replaceJSON(filepath.Join(s.dir, pointerFile), p) }

func (s shelf) writeRecord(r record) error { return replaceJSON(filepath.Join(r.dir, recordFile), r) }

// replaceJSON writes beside, syncs, renames, syncs the directory: a reader or a
// restart sees the old file or the new one.
func replaceJSON(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), stagingPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
