// Package web is the admin listener: the API that `pratique check`, `images`
// and `db` speak, health, metrics and profiles.
//
// It reads and reports; it never decides. What it needs from the other
// packages is declared here as narrow interfaces (Gate, Catalog, Upstreams,
// Database). It owns the JSON that operators script against: the
// exported types are that contract and are documented in docs/cli.md.
//
// The listener has no users of its own in this release, so it is held to
// loopback by default, answers only to names that it knows (DNS rebinding) and
// refuses what a browser sends on behalf of another site (CSRF): see guard.
package web

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"pratique"
	"pratique/store"
)

// Gate decides. Implemented by proxy.Gate.
type Gate interface {
	// Check resolves ref, has it fetched and scanned when it is not yet, and
	// returns what client would meet if it pulled now. When there is no verdict
	// within wait the error wraps pratique.ErrPending and the decision holds what
	// is known; the work goes on.
	Check(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, error)
	// Standing decides by what stands now: nothing is fetched or scanned.
	Standing(ctx context.Context, ref pratique.Ref, img pratique.Image) (pratique.Decision, error)
}

// Catalog lists known images. Part of store.Catalog.
type Catalog interface {
	Images(ctx context.Context) iter.Seq2[store.Known, error]
}

// Upstreams knows the configured upstreams. Implemented by proxy.UpstreamIndex.
type Upstreams interface {
	// Lookup returns the key of the upstream that goes by name: its key or its
	// URL's host or host:port.
	Lookup(name string) (key string, ok bool)
	// Keys are all keys, sorted.
	Keys() []string
}

// Database is the vulnerability database. Implemented over scanner/database.
type Database interface {
	Status(ctx context.Context) (DatabaseStatus, error)
	// Import verifies and adopts the database in the .tar.gz that r reads. force
	// adopts one that is older or much smaller than the one in use. What the
	// candidate itself causes is an error wrapping pratique.ErrInvalid.
	Import(ctx context.Context, r io.Reader, force bool) error
	// Rollback returns to the database before the one in use, or with undo to the
	// one that was rolled back from. pratique.ErrNotFound when there is none to go
	// to, pratique.ErrInvalid when it is damaged; the one in use stays then.
	Rollback(ctx context.Context, undo bool) error
	// Export writes a database that is kept (current, previous or a digest) as a
	// .tar.gz. begin is told its digest before the first byte; pratique.ErrNotFound
	// comes before that.
	Export(ctx context.Context, which string, begin func(digest.Digest), w io.Writer) error
	// Diff compares two that are kept, as a document for people and programs.
	Diff(ctx context.Context, from, to string) (any, error)
}

// Reloader reads the configuration and the policies again.
type Reloader interface {
	// Reload applies what can be applied while requests run. When there is a
	// mistake the configuration in force stays, and the error says where.
	Reload(ctx context.Context) (Reloaded, error)
}

// Probe is one thing that must work before the process is ready.
type Probe struct {
	Name string
	// Check returns nil, or an error that says in one line what is missing.
	Check func(ctx context.Context) error
	// Note says what a person should know although the check passes; "" is
	// nothing. If nil, there is never anything.
	Note func() string
}

// Config of the admin handler. Collaborators that are nil leave their part of
// the API answering 503.
type Config struct {
	Gate     Gate
	Catalog  Catalog
	Database Database
	Reloader Reloader
	Verdicts Verdicts
	// Simulator tries policies before they are in force.
	Simulator Simulator
	// Exceptions are made, listed and revoked.
	Exceptions Exceptions
	// Events are listed and sent again.
	Events Events
	// Jobs are listed, tried again and paused; Schedules listed and begun.
	Jobs      Jobs
	Schedules Schedules
	// Cache is looked at and brought to its limits.
	Cache Cache
	// Hooks answers everything below /hooks/, where registries call. It decides itself
	// who may. If nil, there is nothing.
	Hooks http.Handler

	// Upstreams tells which registries a reference may name. If nil, none.
	Upstreams Upstreams
	// Probes of /readyz, in the order in which they are shown.
	Probes []Probe
	// Metrics is gathered by /metrics. If nil, /metrics is empty.
	Metrics prometheus.Gatherer
	// Hosts are names, without port, that a request's Host header may carry,
	// besides IP addresses and localhost. If empty, none.
	Hosts []string
	// MaxWait bounds the wait parameter of /api/v1/check. If zero, 1 minute.
	MaxWait time.Duration
	// MaxImport bounds an uploaded database in bytes. If zero, 4 GiB.
	MaxImport int64
	// Spool is the directory that uploads are written to. If empty, os.TempDir.
	Spool string
	// Log receives failures of requests. If nil, they are dropped.
	Log *slog.Logger
}

// server is the handler's state; nothing in it changes after New.
type server struct {
	Config
}

// New returns the admin handler.
func New(cfg Config) http.Handler {
	if cfg.MaxWait == 0 {
		cfg.MaxWait = time.Minute
	}
	if cfg.MaxImport == 0 {
		cfg.MaxImport = 4 << 30
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = prometheus.NewRegistry()
	}
	s := &server{Config: cfg}
	return beside(cfg.Hooks, s.recovering(guard(cfg.Hosts, s.routes())))
}

// routes is the whole surface of the admin listener.
func (s *server) routes() http.Handler {
	api := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		api.Handle(pattern, s.answer(h))
	}
	handle("GET /api/v1/check", s.check)
	handle("GET /api/v1/verdicts/{id}", s.verdict)
	handle("GET /api/v1/images", s.images)
	handle("GET /api/v1/database", s.databaseStatus)
	handle("POST /api/v1/database/import", s.databaseImport)
	handle("POST /api/v1/database/rollback", s.databaseRollback)
	handle("GET /api/v1/database/export", s.databaseExport)
	handle("GET /api/v1/database/diff", s.databaseDiff)
	handle("POST /api/v1/reload", s.reload)
	handle("POST /api/v1/policy/simulate", s.simulate)
	handle("GET /api/v1/policy/simulate/components", s.simulateComponents)
	handle("GET /api/v1/exceptions", s.exceptions)
	handle("POST /api/v1/exceptions", s.exceptionCreate)
	handle("GET /api/v1/exceptions/{id}", s.exception)
	handle("DELETE /api/v1/exceptions/{id}", s.exceptionRevoke)
	handle("GET /api/v1/events", s.events)
	handle("POST /api/v1/events/replay", s.eventReplay)
	handle("GET /api/v1/jobs", s.jobs)
	handle("POST /api/v1/jobs/retry", s.jobRetry)
	handle("POST /api/v1/jobs/pause", s.jobsPause)
	handle("POST /api/v1/jobs/resume", s.jobsResume)
	handle("GET /api/v1/schedules", s.schedules)
	handle("POST /api/v1/schedules/{name}/run", s.scheduleRun)
	handle("GET /api/v1/cache", s.cacheStatus)
	handle("POST /api/v1/cache/evict", s.cacheEvict)
	handle("GET /api/v1/cache/pins", s.cachePins)
	handle("/api/", notFound)

	mux := http.NewServeMux()
	mux.Handle("/api/", allowed(api))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{}))
	// No cmdline: arguments are nobody's business. The handlers are named one by
	// one because importing the package for its side effect would publish them
	// on http.DefaultServeMux.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.Handle("GET /debug/pprof/cmdline", http.NotFoundHandler())
	mux.HandleFunc("GET /{$}", s.index)
	return mux
}

// index tells a person who opened the address in a browser what is here.
func (s *server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(`Pratique, admin listener. Clients pull from the registry listener, not from here.

/healthz                              the process is alive
/readyz                               it can decide (database, state, workers)
/metrics                              Prometheus
/api/v1/check?ref=REF&wait=20s        verdict on an image; &explain=true: every rule's part
/api/v1/verdicts/ID                   a verdict that a client met
/api/v1/images?after=DIGEST&limit=N   known images
/api/v1/database                      vulnerability database; below it import, rollback, export, diff
/api/v1/exceptions?all=true           exceptions; POST makes one, DELETE revokes /api/v1/exceptions/ID
/api/v1/events?dead=true              events out; POST /api/v1/events/replay?id=ID sends one again
/api/v1/jobs?state=dead               the queue; POST /api/v1/jobs/retry?digest=D, pause and resume
/api/v1/schedules                     what is done at set times; POST /api/v1/schedules/NAME/run begins one
/api/v1/cache                         what is kept; /pins; POST /api/v1/cache/evict?dryRun=true&to=BYTES makes room
/api/v1/reload                        POST: read configuration and policies again
/api/v1/policy/simulate               POST: what draft policies would change for recorded pulls
/debug/pprof/                         profiles
`))
}
