// Package hook takes the webhooks of registries that tell of pushes, and follows
// them up.
//
// It owns who may call (authentication, rates), what each registry's payload says
// (one parser for each), and the queue of what was told until it was followed up.
// What a payload says is a claim and only ever a reason to ask: the tag is asked for
// at the upstream that the hook is configured with, and a host that a payload names
// is never dialled. Nothing here judges; whether an image may be had, the gate says.
package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"pratique"
	"pratique/store"
)

// Type is how a registry words its webhooks.
type Type string

// Types of payloads.
const (
	DockerHub        Type = "dockerhub"
	Harbor           Type = "harbor"
	GHCR             Type = "ghcr"
	Quay             Type = "quay"
	ACR              Type = "acr"
	Distribution     Type = "distribution"
	GitLab           Type = "gitlab"
	ECR              Type = "ecr"
	ArtifactRegistry Type = "artifact-registry"
	JFrog            Type = "jfrog"
	CloudEvents      Type = "cloudevents"
)

// Auth is how a caller proves who it is.
type Auth string

// Kinds of authentication.
const (
	HMAC   Auth = "hmac"   // X-Hub-Signature-256 over the body
	Header Auth = "header" // the secret is the value of a header
	Path   Auth = "path"   // the secret is the last element of the path
	OIDC   Auth = "oidc"   // a token of Google's that names audience and account
)

// Receiver is one configured caller.
type Receiver struct {
	Type Type
	// Upstream is the key of the registry that calls: what it tells is about that one.
	Upstream string
	// Hosts are the names of the registry in payloads, besides Upstream: host or
	// host:port of its URL.
	Hosts []string
	Auth  Auth
	// Secret is what the caller shows, for every Auth but OIDC.
	Secret []byte
	// Header holds the secret for Auth Header. If empty, Authorization.
	Header string
	// Audience and Account are those of the token, for Auth OIDC; KeysURL is where the
	// keys are had, if empty Google's.
	Audience, Account, KeysURL string
	// Keys fetches those keys.
	Keys http.RoundTripper
	// Rate is how many calls a minute are taken. If zero, 600.
	Rate int
}

// Pushes takes what was told. Implemented by Queue.
type Pushes interface {
	// Put keeps pushes and returns; they are followed up behind it. ErrFull is for
	// the caller to come again.
	Put(ctx context.Context, ps []store.Push) error
}

// ErrFull says that too much waits to be followed up.
var ErrFull = errors.New("too many pushes wait to be followed up")

// Limits of one call.
const (
	maxBody    = 1 << 20
	maxEvents  = 100
	reading    = 32 // calls of one hook whose body is read at a time
	retryAfter = 10 * time.Second
)

// Config adjusts what New makes.
type Config struct {
	// Arrive is how long a call may take to arrive. If zero, 10 seconds.
	Arrive time.Duration
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Log receives calls that are turned away, a few a minute of each hook. If nil,
	// they are dropped.
	Log *slog.Logger
	// Metrics receives pratique_hook_*. If nil, none are registered.
	Metrics prometheus.Registerer
}

// handler serves POST /hooks/NAME and POST /hooks/NAME/SECRET.
type handler struct {
	hooks  map[string]*hook
	arrive time.Duration
}

// hook is one receiver at work.
type hook struct {
	Receiver
	name    string
	cfg     Config
	pushes  Pushes
	parse   parser
	prove   prover
	metrics *metrics

	taken, wrong *rate.Limiter // calls that showed the secret, and those that did not
	lines        *rate.Limiter // in the log
	places       chan struct{} // for bodies
	seen         *seen
}

// New returns the handler of everything below /hooks/. What is wrong with a receiver
// is an error wrapping pratique.ErrInvalid, without its secret.
func New(ctx context.Context, receivers map[string]Receiver, pushes Pushes, cfg Config) (http.Handler, error) {
	if cfg.Arrive <= 0 {
		cfg.Arrive = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := newMetrics(cfg.Metrics)
	h := &handler{hooks: make(map[string]*hook, len(receivers)), arrive: cfg.Arrive}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(receivers)) {
		one, err := newHook(ctx, name, receivers[name], pushes, cfg, m)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w hook %s: %w", pratique.ErrInvalid, name, err))
			continue
		}
		h.hooks[name] = one
	}
	return h, errors.Join(errs...)
}

func newHook(ctx context.Context, name string, r Receiver, pushes Pushes, cfg Config, m *metrics) (*hook, error) {
	if r.Rate <= 0 {
		r.Rate = 600
	}
	if r.Upstream == "" {
		return nil, errors.New("no upstream")
	}
	for i, host := range r.Hosts {
		r.Hosts[i] = strings.ToLower(host)
	}
	h := &hook{Receiver: r, name: name, cfg: cfg, pushes: pushes, metrics: m, seen: newSeen(cfg.Now), places: make(chan struct{}, reading)}
	var err error
	if h.parse, err = parserOf(r.Type); err != nil {
		return nil, err
	}
	if h.prove, err = newProver(ctx, r, cfg); err != nil {
		return nil, err
	}
	perMinute := func() *rate.Limiter { return rate.NewLimiter(rate.Limit(r.Rate)/60, r.Rate) }
	h.taken, h.wrong = perMinute(), perMinute()
	h.lines = rate.NewLimiter(rate.Every(10*time.Second), 5)
	for _, outcome := range outcomes() {
		m.calls.WithLabelValues(name, outcome)
	}
	return h, nil
}

// problem is an answer that is no success. Its text never holds what was sent.
type problem struct {
	status  int
	outcome string
	text    string
}

func (p *problem) Error() string { return p.text }

var (
	errUnknown  = &problem{http.StatusNotFound, "", "no hook has this name"}
	errMethod   = &problem{http.StatusMethodNotAllowed, "", "hooks are called by POST"}
	errProof    = &problem{http.StatusUnauthorized, outcomeUnauthorized, "the call does not show the secret of this hook"}
	errLimited  = &problem{http.StatusTooManyRequests, outcomeLimited, "too many calls"}
	errBusy     = &problem{http.StatusServiceUnavailable, outcomeFull, "too many calls at once"}
	errFull     = &problem{http.StatusServiceUnavailable, outcomeFull, "too much waits to be followed up"}
	errTooLarge = &problem{http.StatusRequestEntityTooLarge, outcomeInvalid, "the body is greater than 1 MiB"}
	errBody     = &problem{http.StatusBadRequest, outcomeInvalid, "the body did not arrive"}
	errInternal = &problem{http.StatusInternalServerError, outcomeFailed, "the call could not be kept; the log of Pratique tells more"}
)

func invalid(text string) *problem { return &problem{http.StatusBadRequest, outcomeInvalid, text} }

// ServeHTTP implements http.Handler. The path may hold a secret: it is never logged
// and never answered.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	// Also for a body that nobody reads: net/http waits for it before it goes on. A
	// connection without deadlines (a test's) is bounded by its size alone.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.arrive))
	rest, ok := strings.CutPrefix(r.URL.Path, "/hooks/")
	name, secret, _ := strings.Cut(rest, "/")
	one := h.hooks[name]
	switch {
	case !ok || one == nil:
		answer(w, errUnknown, nil)
	case r.Method == http.MethodOptions && one.Type == CloudEvents:
		one.agree(w, r, secret)
	case r.Method != http.MethodPost:
		header.Set("Allow", http.MethodPost)
		answer(w, errMethod, nil)
	default:
		one.serve(w, r, secret)
	}
}

// serve answers one call and counts it.
func (h *hook) serve(w http.ResponseWriter, r *http.Request, secret string) {
	var t told
	p := h.guarded(w, r, secret, &t)
	outcome := t.outcome()
	if p != nil {
		outcome = p.outcome
		h.log(r, p)
	}
	h.metrics.calls.WithLabelValues(h.name, outcome).Inc()
	answer(w, p, &t)
}

// guarded takes a call. A parser that panics met what nobody thought of: the sender's
// mistake, and not the end of ours. What it panicked with may hold what was sent.
func (h *hook) guarded(w http.ResponseWriter, r *http.Request, secret string, t *told) (p *problem) {
	ctx := r.Context()
	defer func() {
		if v := recover(); v != nil {
			h.cfg.Log.ErrorContext(ctx, "webhook made its parser panic", "hook", h.name, "type", h.Type)
			p = invalid("the body cannot be read")
		}
	}()
	return h.take(w, r, secret, t)
}

// log tells of a call that was turned away.
func (h *hook) log(r *http.Request, p *problem) {
	if p != errInternal && h.lines.AllowN(h.cfg.Now(), 1) {
		h.cfg.Log.WarnContext(r.Context(), "webhook turned away", "hook", h.name, "type", h.Type, "from", r.RemoteAddr, "status", p.status, "reason", p.text)
	}
}
