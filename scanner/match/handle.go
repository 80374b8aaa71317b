package match

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"pratique"
)

// openTimeout bounds the wait for the file lock that another process may hold
// on a database; trivy-db would wait five seconds, bbolt for ever.
const openTimeout = 5 * time.Second

// ErrFault says that the database file is damaged or was changed under its mapping,
// found while it was read.
var ErrFault = errors.New("vulnerability database is damaged")

// shared guards the package-level handle inside trivy-db, which every detector
// reads without a lock of its own. It has to be package-level because that
// handle is.
//
//nolint:gochecknoglobals // forced by the library, in the one package that wraps it
var shared struct {
	lock   sync.RWMutex // read: matching; write: the swap
	owner  *Matcher     // whose database is open; nil: none is
	engine pratique.Engine
	dir    string
}

// Adopt opens the database in dir (trivy.db and metadata.json), whose content
// has the given digest, and from then on answers come from it; the one before
// is closed after the Matches that use it have returned. On an error the
// standing database stays.
//
// Adopt refuses a wrong schema and a database without advisories. It trusts the
// file's pages: whoever calls it has verified digest and structure
// (scanner/database). The file must neither change nor shrink while adopted; it
// may be unlinked.
//
// One Matcher of a process holds the handle. Adopt on another is an error until
// the first is closed.
func (m *Matcher) Adopt(ctx context.Context, dir string, d digest.Digest) error {
	meta, err := metadata.NewClient(dir).Get()
	if err != nil {
		return fmt.Errorf("%w database metadata: %w", pratique.ErrInvalid, err)
	}
	if meta.Version != db.SchemaVersion {
		return fmt.Errorf("%w database: schema version %d, want %d", pratique.ErrInvalid, meta.Version, db.SchemaVersion)
	}
	if err := probe(db.Path(dir)); err != nil {
		return err
	}
	engine := pratique.Engine{Version: TrivyVersion, Database: d, DatabaseAt: meta.UpdatedAt.UTC()}

	start := time.Now()
	shared.lock.Lock()
	defer shared.lock.Unlock()
	if shared.owner != nil && shared.owner != m {
		return errors.New("another matcher of this process holds the database")
	}
	if err := m.swap(dir); err != nil {
		return err
	}
	shared.owner, shared.engine, shared.dir = m, engine, dir
	m.log.DebugContext(ctx, "vulnerability database opened",
		"digest", d, "updated", engine.DatabaseAt, "swap", time.Since(start))
	return nil
}

// swap needs shared.lock for writing.
func (m *Matcher) swap(dir string) error {
	var old *bolt.DB
	if shared.owner == m {
		old = db.Config{}.Connection()
	}
	err := initHandle(dir)
	if err != nil && old != nil {
		// trivy-db overwrote its handle with nil: open the standing database
		// again. If that fails as well nothing can be matched, and Match says so.
		if again := initHandle(shared.dir); again != nil {
			shared.owner, shared.engine, shared.dir = nil, pratique.Engine{}, ""
			err = errors.Join(err, again)
		}
	}
	if old != nil {
		if cerr := old.Close(); cerr != nil {
			m.log.Warn("closing the former database", "error", cerr)
		}
	}
	return err
}

func initHandle(dir string) error {
	err := db.Init(dir, db.WithBoltOptions(&bolt.Options{ReadOnly: true, Timeout: openTimeout}))
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	return nil
}

// Close closes the database after the running Matches and gives the handle
// back; later calls say pratique.ErrNoDatabase.
func (m *Matcher) Close() error {
	shared.lock.Lock()
	defer shared.lock.Unlock()
	if shared.owner != m {
		return nil
	}
	shared.owner, shared.engine, shared.dir = nil, pratique.Engine{}, ""
	return db.Close()
}

// probe opens the file on its own, outside the lock, so that a file which
// cannot be opened never costs the standing handle, and looks for the least
// that a usable database holds.
func probe(path string) (err error) {
	defer catch(&err)()
	b, err := bolt.Open(path, 0o444, &bolt.Options{ReadOnly: true, Timeout: openTimeout})
	if err != nil {
		return fmt.Errorf("%w database: %w", pratique.ErrInvalid, err)
	}
	defer b.Close()
	return b.View(func(tx *bolt.Tx) error {
		v := tx.Bucket([]byte(vulnerabilityBucket))
		if v == nil {
			return fmt.Errorf("%w database: no %q bucket", pratique.ErrInvalid, vulnerabilityBucket)
		}
		if k, _ := v.Cursor().First(); k == nil {
			return fmt.Errorf("%w database: no vulnerabilities", pratique.ErrInvalid)
		}
		found := false
		err := tx.ForEach(func(name []byte, root *bolt.Bucket) error {
			if found || !IsAdvisoryRoot(string(name)) {
				return nil
			}
			return root.ForEachBucket(func(pkg []byte) error {
				if k, _ := root.Bucket(pkg).Cursor().First(); k != nil {
					found = true
				}
				return nil
			})
		})
		if err == nil && !found {
			err = fmt.Errorf("%w database: no advisories", pratique.ErrInvalid)
		}
		return err
	})
}

// vulnerabilityBucket holds one record for each vulnerability id.
const vulnerabilityBucket = "vulnerability"

// IsAdvisoryRoot reports whether a top-level bucket of a Trivy database holds
// advisories (bucket/package/id), not records about them.
func IsAdvisoryRoot(name string) bool {
	switch name {
	case vulnerabilityBucket, "data-source", "Red Hat CPE":
		return false
	}
	return true
}

// catch arms the calling goroutine against a damaged mapping: a fault becomes a
// panic, and the deferred function turns any panic into an error wrapping
// ErrFault. Use: defer catch(&err)().
func catch(err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			*err = fmt.Errorf("%w: %v", ErrFault, r)
		}
	}
}
