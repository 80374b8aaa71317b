package database

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// Artifact offers the database in use as the OCI artifact that Trivy users
// download: a manifest with one layer, a .tar.gz of trivy.db and metadata.json,
// whose digest is the same for one database. The layer is made once per adoption,
// in the background, and lies beside the database until that is removed. So the
// database before stays available by digest until the next adoption, and a client
// that is downloading it is not cut.
//
// Its methods are safe for concurrent use.
type Artifact struct {
	db  *Database
	log *slog.Logger

	mu       sync.Mutex
	copies   map[digest.Digest]copied // by digest of the database
	current  digest.Digest            // database that the tag names
	previous digest.Digest            // database that it named before
	standIn  bool                     // the tag names previous while current's copy is made
	failed   error                    // of the last attempt to make current's copy
}

const (
	// ArtifactTag is the one tag: the schema's version, as Trivy asks for it.
	ArtifactTag = "2"

	configType = "application/vnd.aquasec.trivy.config.v1+json"
)

// emptyConfig is the config of Trivy's artifacts.
var emptyConfig = []byte("{}")

// NewArtifact offers what db adopts; Run makes the copies.
func NewArtifact(db *Database) *Artifact {
	return &Artifact{db: db, log: db.cfg.Log, copies: make(map[digest.Digest]copied)}
}

// ArtifactStatus says what is offered.
type ArtifactStatus struct {
	Digest    digest.Digest // of the manifest that the tag names; empty: not yet
	Database  digest.Digest // that it is of
	Size      int64         // of the layer
	LastError string        // of the last attempt to make the copy
}

// Status reports what is offered.
func (a *Artifact) Status() ArtifactStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	var s ArtifactStatus
	if c, of, ok := a.tagged(); ok {
		s.Digest, s.Size, s.Database = c.digest, c.Size, of
	}
	if a.failed != nil {
		s.LastError = a.failed.Error()
	}
	return s
}

// notYet says that there is nothing to offer now, and when there may be.
type notYet struct{ why string }

func (e *notYet) Error() string        { return e.why }
func (e *notYet) Unwrap() error        { return pratique.ErrPending }
func (e *notYet) Delay() time.Duration { return 15 * time.Second }

// Manifest returns the manifest with this tag or digest: pratique.ErrNotFound when
// there is none, an error with a Delay while the copy is made.
func (a *Artifact) Manifest(_ context.Context, reference string) (mediaType string, raw []byte, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if reference == ArtifactTag {
		c, _, ok := a.tagged()
		switch {
		case ok:
			return string(types.OCIManifestSchema1), c.manifest, nil
		case a.current == "":
			return "", nil, &notYet{"there is no vulnerability database yet"}
		case a.failed != nil:
			return "", nil, &notYet{"the copy of the database could not be made; the log of Pratique tells more"}
		}
		return "", nil, &notYet{"the copy of the database is being made"}
	}
	for _, c := range a.copies {
		if c.digest.String() == reference {
			return string(types.OCIManifestSchema1), c.manifest, nil
		}
	}
	return "", nil, fmt.Errorf("%w: no such database is kept", pratique.ErrNotFound)
}

// Blob returns the size of a layer or config and what opens it.
func (a *Artifact) Blob(_ context.Context, d digest.Digest) (size int64, open func(offset int64) (io.ReadCloser, error), err error) {
	if d == digest.FromBytes(emptyConfig) {
		return int64(len(emptyConfig)), func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(emptyConfig[min(offset, int64(len(emptyConfig))):])), nil
		}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.copies {
		if c.Layer == d {
			return c.Size, c.open, nil
		}
	}
	return 0, nil, fmt.Errorf("%w: no such database is kept", pratique.ErrNotFound)
}

// Tags are the names that Manifest knows.
func (a *Artifact) Tags(context.Context) ([]string, error) { return []string{ArtifactTag}, nil }

// tagged is the copy that the tag names, and of which database. It needs a.mu.
func (a *Artifact) tagged() (copied, digest.Digest, bool) {
	if c, ok := a.copies[a.current]; ok {
		return c, a.current, true
	}
	c, ok := a.copies[a.previous]
	return c, a.previous, ok && a.standIn && a.failed == nil
}

// Run makes a copy of each database that is adopted until ctx ends, whose error it
// returns. What cannot be made, for want of space for one, is tried again; the
// tag then answers that it is not there.
func (a *Artifact) Run(ctx context.Context) error {
	failures := 0
	for {
		err := a.renew(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var wait <-chan time.Time
		if err != nil {
			failures++
			a.log.WarnContext(ctx, "copy of the database for other Trivy users is not made", "error", err, "attempt", failures)
			wait = time.After(pause(maxPause, failures, true))
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.db.moved:
		case <-wait:
		}
	}
}

// errSuperseded: another database was adopted while one was copied.
var errSuperseded = errors.New("another database was adopted meanwhile")

// renew brings the copies in line with what is adopted.
func (a *Artifact) renew(ctx context.Context) error {
	p := a.db.pointer()
	a.mu.Lock()
	a.current, a.previous, a.failed = p.Current, p.Previous, nil
	a.standIn = p.RolledBack.find(p.Previous, "") == nil
	for d := range a.copies {
		if d != p.Current && d != p.Previous {
			delete(a.copies, d)
		}
	}
	a.mu.Unlock()
	if p.Current == "" {
		return nil
	}
	if p.Previous != "" { // first: it stands in while the other one is made
		if err := a.add(ctx, p.Previous, false); err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "copy of the previous database cannot be used", "digest", p.Previous, "error", err)
		}
	}
	err := a.add(ctx, p.Current, true)
	if errors.Is(err, errSuperseded) {
		return nil // a.db.moved tells
	}
	a.mu.Lock()
	a.failed = err
	a.mu.Unlock()
	return err
}

// add offers the copy of a database: the one on disk, after its bytes are
// verified, or if make is true a new one.
func (a *Artifact) add(ctx context.Context, d digest.Digest, make bool) error {
	a.mu.Lock()
	c, ok := a.copies[d]
	a.mu.Unlock()
	if _, err := os.Stat(c.path); ok && err == nil {
		return nil
	}
	// There is none, or it went with its directory: a database that is imported
	// again replaces the one that is kept.
	a.mu.Lock()
	delete(a.copies, d)
	a.mu.Unlock()
	rec, err := a.db.find(d.String())
	if errors.Is(err, pratique.ErrNotFound) {
		return errSuperseded
	}
	if err != nil {
		return err
	}
	if c, err = a.db.findCopy(rec); err != nil && !make {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err != nil {
		began := time.Now()
		if c, err = a.make(ctx, rec); err != nil {
			return err
		}
		a.log.InfoContext(ctx, "database copied for other Trivy users", "digest", d, "bytes", c.Size, "took", time.Since(began).Round(time.Millisecond))
	}
	if err := c.describe(rec); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.copies[d] = c
	return nil
}

// make makes a copy, unless another database comes into use meanwhile.
func (a *Artifact) make(ctx context.Context, rec record) (copied, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c, err := a.db.makeCopy(ctx, rec, func() {
		if now := a.db.standing(); now == nil || now.Digest != rec.Digest {
			cancel(errSuperseded)
		}
	})
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errSuperseded) {
		err = cause
	}
	return c, err
}

// describe makes the manifest, as Trivy's publishers write it.
func (c *copied) describe(rec record) error {
	hash := func(d digest.Digest) v1.Hash { return v1.Hash{Algorithm: d.Algorithm().String(), Hex: d.Encoded()} }
	raw, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: configType, Size: int64(len(emptyConfig)), Digest: hash(digest.FromBytes(emptyConfig))},
		Layers: []v1.Descriptor{{
			MediaType: types.MediaType(vulnerabilities().layerType), Size: c.Size, Digest: hash(c.Layer),
			Annotations: map[string]string{"org.opencontainers.image.title": copyFile},
		}},
		Annotations: map[string]string{"org.opencontainers.image.created": rec.UpdatedAt.UTC().Format(time.RFC3339)},
	})
	c.manifest, c.digest = raw, digest.FromBytes(raw)
	return err
}
