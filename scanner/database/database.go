// Package database brings vulnerability databases to the matcher: it finds
// them (a path or ordered OCI sources), fetches, verifies, keeps and adopts
// them, and goes on with the standing one whenever anything about a new one is
// wrong. The Java index goes through the same steps.
//
// It owns the directory in which databases are kept. Reading a database for
// matches is scanner/match's.
package database

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
)

// Adopter switches to a verified database. scanner/match.Matcher is one.
type Adopter interface {
	// Adopt answers from the database in dir from now on, or returns an error
	// and goes on with the one before.
	Adopt(ctx context.Context, dir string, d digest.Digest) error
}

// Config says where databases come from and where they are kept.
type Config struct {
	// Dir is where adopted databases are kept, each in a directory named by its
	// digest, two at most. Required; created if absent. Not to be shared by two
	// processes.
	Dir string
	// Path is a database at hand: a directory (trivy.db and metadata.json), a
	// .tar.gz of both, or an OCI layout. If set, Sources are not asked.
	Path string
	// Sources are OCI artifacts, in order of preference, as
	// HOST/REPOSITORY:TAG, with http:// in front for a registry without TLS.
	Sources []string
	// Refresh is how often Path or Sources are looked at. If zero, 1 h. Failures
	// are tried again sooner, with back-off.
	Refresh time.Duration
	// Timeout bounds one fetch. If zero, 30 min.
	Timeout time.Duration
	// MaxBytes bounds an unpacked database. If zero, 4 GiB (8 GiB for Java).
	MaxBytes int64
	// Transport carries all requests; it is where dialling is held to policy,
	// redirects and token realms included. If nil, http.DefaultTransport.
	Transport http.RoundTripper
	// Keychain finds credentials for Sources. If nil, none are used.
	Keychain authn.Keychain
	// OnAdopt is called after each adoption, in order, never concurrently; prev
	// is zero for the first. It must not call back into the Database's Check or
	// Import. If nil, nothing is called.
	OnAdopt func(prev, next pratique.Engine)
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Log receives adoptions, refusals and failures. If nil, slog.Default().
	Log *slog.Logger
	// Shared is where replicas agree on the database that they all use, and Archives
	// where its bytes are. If nil, this process uses what it finds itself.
	Shared   Shared
	Archives Archives
	// Poll is how often Shared is asked, besides when it tells. If zero, 2 s.
	Poll time.Duration
	// Replica names this process to the others. If empty, a random name.
	Replica string
	// Metrics receives pratique_database_*, labelled by kind. If nil, none are
	// registered.
	Metrics prometheus.Registerer
}

// Database keeps one kind of database current. Its methods are safe for
// concurrent use.
type Database struct {
	cfg     Config
	kind    kind
	adopter Adopter
	keep    shelf
	metrics *metrics

	checking sync.Mutex // serialises Check

	adopting sync.Mutex // serialises what changes the shelf; never held while a source is awaited
	opened   bool       // guarded by adopting
	shelved  pointer    // guarded by adopting: what the pointer file says
	fellBack bool       // guarded by adopting

	copying   sync.Mutex // serialises the making of copies
	following sync.Mutex // serialises follow

	moved chan struct{} // holds one when another database was adopted; see Artifact

	mu         sync.Mutex // guards the rest; held for moments
	current    *record
	previous   digest.Digest
	rolledBack rollbacks
	refused    map[digest.Digest]error // offers refused since the last adoption, by identity
	sources    map[string]sourceState  // by source as configured
	lastCheck  time.Time
	nextCheck  time.Time
	lastError  error
	together   together
}

// New returns a Database of vulnerabilities for the adopter, usually the
// Matcher. Nothing is opened before Open or Run.
func New(cfg Config, adopter Adopter) *Database { return build(cfg, vulnerabilities(), adopter) }

func build(cfg Config, k kind, adopter Adopter) *Database {
	if cfg.Refresh <= 0 {
		cfg.Refresh = time.Hour
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Minute
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = k.maxBytes
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if cfg.Keychain == nil {
		cfg.Keychain = authn.NewMultiKeychain()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.Log = cfg.Log.With("database", k.name)
	if cfg.Poll <= 0 {
		cfg.Poll = 2 * time.Second
	}
	if cfg.Replica == "" {
		cfg.Replica = rand.Text()[:12]
	}
	d := &Database{
		cfg:     cfg,
		kind:    k,
		adopter: adopter,
		keep:    shelf{dir: cfg.Dir},
		moved:   make(chan struct{}, 1),
		refused: make(map[digest.Digest]error),
		sources: make(map[string]sourceState),
	}
	d.metrics = newMetrics(cfg.Metrics, k.name, d.age, d.lag)
	return d
}

// Open adopts what an earlier run kept: the last adopted database, or the one
// before it when that is damaged. Leftovers of a crash are removed. The error
// wraps pratique.ErrNotFound when nothing is kept. Run and Check call it when
// it has not been called; calling it first lets a restart serve at once.
func (d *Database) Open(ctx context.Context) error {
	if d.cfg.Shared != nil {
		return d.openShared(ctx)
	}
	d.adopting.Lock()
	defer d.adopting.Unlock()
	if d.opened {
		return nil
	}
	if err := d.prepare(); err != nil {
		return err
	}
	return d.openKept(ctx)
}

// prepare reads the pointer, once. d.adopting is held.
func (d *Database) prepare() (err error) {
	if d.opened {
		return nil
	}
	d.shelved, err = d.keep.prepare()
	d.opened = err == nil
	return err
}

// openKept adopts what the pointer names. d.adopting is held.
func (d *Database) openKept(ctx context.Context) error {
	p := d.shelved
	var errs []error
	for _, dg := range []digest.Digest{p.Current, p.Previous} {
		if dg == "" {
			continue
		}
		rec, err := d.keep.load(d.kind, dg)
		if err == nil {
			err = d.adopter.Adopt(ctx, rec.dir, rec.Digest)
		}
		if err != nil {
			d.cfg.Log.ErrorContext(ctx, "kept database cannot be used", "digest", dg, "error", err)
			errs = append(errs, err)
			continue
		}
		prev := p.Previous
		if dg == p.Previous {
			prev = ""
		}
		if p.RolledBack.find(dg, "") != nil {
			// Better than none, and the operator who rolled back from it has to know.
			d.cfg.Log.ErrorContext(ctx, "database that was rolled back from is in use again: the other one is damaged", "digest", dg)
		}
		d.set(rec, prev, p.RolledBack.without(dg))
		return nil
	}
	if len(errs) > 0 {
		err := fmt.Errorf("kept databases cannot be used: %w", errors.Join(errs...))
		d.note(err)
		return err
	}
	return fmt.Errorf("%w: no database is kept in %s", pratique.ErrNotFound, d.cfg.Dir)
}

// Import adopts a database from a .tar.gz stream (see OpenPath). force lifts
// the comparison with the standing database: older and much smaller ones are
// accepted, broken ones never. It returns the status after the adoption. It does
// not wait for a source that Check is asking.
func (d *Database) Import(ctx context.Context, r io.Reader, force bool) (Status, error) {
	if err := d.Open(ctx); err != nil && !errors.Is(err, pratique.ErrNotFound) {
		d.cfg.Log.WarnContext(ctx, "importing without a usable standing database", "error", err)
	}
	err := d.take(ctx, r, offer{source: sourceImport}, force)
	d.note(err)
	return d.Status(), err
}

// Dir is the directory of the adopted database, and whether there is one.
func (d *Database) Dir() (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil {
		return "", false
	}
	return d.current.dir, true
}

// take stages what r holds, judges it and adopts it.
func (d *Database) take(ctx context.Context, r io.Reader, o offer, force bool) error {
	st, err := d.keep.stage(d.kind, r, o, d.cfg.MaxBytes)
	if err != nil {
		return d.refuse(o, err)
	}
	defer st.discard()
	if standing := d.standing(); standing == nil || standing.Digest != st.Digest {
		if err := st.verify(d.kind); err != nil {
			return d.refuse(o, err)
		}
	}
	if d.cfg.Shared != nil {
		return d.takeShared(ctx, st, o, force)
	}
	d.adopting.Lock()
	defer d.adopting.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	standing := d.standing()
	if standing != nil && standing.Digest == st.Digest {
		// The same content under another name: remember the name, change nothing.
		if st.Identity == "" {
			return nil
		}
		return d.rename(st.Identity, st.Source)
	}
	if st.Counts.Bytes == 0 { // it was the standing content before another came
		if err := st.verify(d.kind); err != nil {
			return d.refuse(o, err)
		}
	}
	if err := d.judge(standing, d.pointer().RolledBack, st, o, force); err != nil {
		return err
	}
	return d.adopt(ctx, st)
}

// judge holds a staged database against the standing one.
func (d *Database) judge(standing *record, back rollbacks, st *staged, o offer, force bool) error {
	if force {
		return nil
	}
	if b := back.find(st.Digest, ""); b != nil && o.source != sourceImport { // who imports it by hand wants it
		return d.refuse(o, turnedAway(b))
	}
	if err := compare(standing, st.record, d.cfg.Now()); err != nil {
		return d.refuse(o, err)
	}
	return nil
}

// sourceImport is the source of what was imported by hand.
const sourceImport = "import"

// adopt makes a staged and verified database the current one. d.adopting is held.
func (d *Database) adopt(ctx context.Context, st *staged) error {
	st.DownloadedAt = d.cfg.Now().UTC()
	rec, err := d.keep.commit(st)
	if err != nil {
		return err
	}
	before := d.pointer()
	next := pointer{Current: rec.Digest, Previous: before.Current, RolledBack: before.RolledBack.after(rec)}
	return d.install(ctx, rec, next)
}

// install makes a kept database the current one. The pointer is written before the
// switch, so that a crash in between restarts with the new one: reports never go back
// to an older database. d.adopting is held.
func (d *Database) install(ctx context.Context, rec record, next pointer) error {
	prev := d.engine()
	if err := d.use(ctx, rec, next); err != nil {
		return err
	}
	d.adopted(prev)
	return nil
}

// adopted tells of an adoption. d.adopting is held.
func (d *Database) adopted(prev pratique.Engine) {
	if d.cfg.OnAdopt != nil {
		d.cfg.OnAdopt(prev, d.engine())
	}
}

// use is install without a word to others. d.adopting is held.
func (d *Database) use(ctx context.Context, rec record, next pointer) error {
	standing, before := d.standing(), d.shelved
	if err := d.point(next); err != nil {
		return err
	}
	if err := d.adopter.Adopt(ctx, rec.dir, rec.Digest); err != nil {
		if perr := d.point(before); perr != nil {
			err = errors.Join(err, perr)
		}
		return d.refuse(offer{identity: rec.Identity, source: rec.Source}, err)
	}
	d.set(&rec, next.Previous, next.RolledBack)
	d.metrics.adoptions.Inc()
	d.warnShrunk(ctx, standing, rec)
	d.cfg.Log.InfoContext(ctx, "database adopted", "digest", rec.Digest, "updated", rec.UpdatedAt,
		"source", rec.Source, "vulnerabilities", rec.Counts.Vulnerabilities, "advisories", rec.Counts.Advisories)
	if err := d.keep.clean(next, false); err != nil {
		d.cfg.Log.WarnContext(ctx, "removing former databases", "error", err)
	}
	return nil
}

// point writes the pointer. d.adopting is held.
func (d *Database) point(p pointer) error {
	if err := d.keep.point(p); err != nil {
		return err
	}
	d.shelved = p
	return nil
}

// warnShrunk says which ecosystems lost most of their advisories although the
// whole is large enough: upstream drops some on purpose, so it is no refusal.
func (d *Database) warnShrunk(ctx context.Context, standing *record, next record) {
	if standing == nil {
		return
	}
	for root, n := range standing.Counts.Roots {
		if m := next.Counts.Roots[root]; n >= 100 && m < n/2 {
			d.cfg.Log.WarnContext(ctx, "database lost advisories of an ecosystem", "bucket", root, "before", n, "after", m)
		}
	}
}

// refuse counts and remembers a refusal, so that the same offer is not fetched
// again at every refresh. Other errors pass through.
func (d *Database) refuse(o offer, err error) error {
	var r *Refusal
	if !errors.As(err, &r) {
		return err
	}
	d.metrics.refusals.WithLabelValues(r.Reason).Inc()
	if o.identity != "" && r.Reason != ReasonDigest {
		d.mu.Lock()
		d.refused[o.identity] = err
		d.mu.Unlock()
	}
	return err
}
