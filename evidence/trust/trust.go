// Package trust verifies who signed an image and how it was built: signatures by
// keys (cosign), by certificates of a Sigstore instance (keyless) and of the
// Notary Project, SLSA provenance, and VEX statements that come signed with an
// image.
//
// It owns which of what a registry holds about an image is believed. It judges
// nothing (policy does), and fetches no keys, roots or revocations: all it
// believes in is given to New. What does not verify is a line of
// Attestations.Problems; what could not be looked for is an error, never an
// absent signature.
package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/evidence"
	"pratique/store"
)

// Identity is one signer that rules can name: exactly one of its fields is set.
type Identity struct {
	// Key is a public key, PEM, as `cosign generate-key-pair` writes it: ECDSA on
	// P-256, P-384 or P-521, Ed25519, or RSA of at least 2048 bits.
	Key []byte
	// Sigstore is a keyless identity. It needs Config.TrustedRoot.
	Sigstore Sigstore
	// Notation is an identity of the Notary Project.
	Notation Notation
}

// Sigstore is who signed, in the certificate of a keyless signature.
type Sigstore struct {
	// Issuer is the OIDC issuer, exactly.
	Issuer string
	// Subject is a glob that the whole identity must fit: * is any run of
	// characters but "/", and at the end of the glob any run; ** is any run; ? is
	// any character but "/".
	Subject string
}

// Notation is whose certificate signed.
type Notation struct {
	// CA are the certificates of trusted authorities, PEM.
	CA [][]byte
	// TSA are the root certificates of trusted time stampers, PEM: a signature
	// stamped while its certificate was valid outlives it. If empty, it does not.
	TSA [][]byte
	// Subjects are distinguished names as in Notation's trust policies
	// (x509.subject: C=US, ST=WA, O=acme). If empty, everybody that the authorities
	// certify.
	Subjects []string
}

// Parents tells which indexes list an image.
type Parents interface {
	// Parents returns the digests of the indexes of ref's repository known here
	// that list ref.Digest, the latest first. None is an empty list.
	Parents(ctx context.Context, ref pratique.Ref) ([]digest.Digest, error)
}

// Defaults of Config.
const (
	defaultRecheck      = 24 * time.Hour
	defaultTimeout      = time.Minute
	defaultRetry        = 30 * time.Second
	defaultPatience     = 3 * time.Second
	defaultMaxManifests = 64
	defaultMaxBlob      = 1 << 20
	defaultMaxBundle    = 10 << 20
)

// Config is what New may be told besides its collaborators.
type Config struct {
	// Identities by the name that rules use. If empty, nothing is looked for and
	// every image is unsigned.
	Identities map[string]Identity
	// TrustedRoot is a Sigstore trusted root, JSON. What it lists is demanded of
	// every keyless signature: with transparency logs an entry in one of them, with
	// certificate logs a proof of one in the certificate; with neither log, a time
	// stamp of an authority that it lists. If empty, no Sigstore identity may be.
	TrustedRoot []byte
	// SignedBy are the identities whose VEX documents count. If empty, none.
	SignedBy []string
	// ParseVEX reads an OpenVEX document, without duplicate keys at its top. If
	// nil, VEX documents are not read.
	ParseVEX func(predicate []byte) ([]pratique.Statement, error)
	// Parents lets signatures of an index count for the images that it lists. If
	// nil, an image needs its own.
	Parents Parents
	// Recheck is how long what was found is believed before the registry is asked
	// again. If zero, 24 h. That nothing was found is believed for a minute at first,
	// and ever longer up to that.
	Recheck time.Duration
	// Timeout ends one lookup. If zero, 1 min.
	Timeout time.Duration
	// Retry is how long after a lookup failed the next one may begin. If zero, 30 s.
	Retry time.Duration
	// Patience is how long a caller that waits is kept for a recheck, when there is
	// an older answer. If zero, 3 s.
	Patience time.Duration
	// MaxManifests are looked at for one image, further ones are a problem. If
	// zero, 64. Layers looked at are at most twice as many.
	MaxManifests int
	// MaxBlob bounds the payload of a signature, and a VEX document. If zero, 1 MiB.
	MaxBlob int64
	// MaxBundle bounds a bundle or an attestation. If zero, 10 MiB.
	MaxBundle int64
	// Now is the clock. If nil, time.Now. The age of certificates of the Notary
	// Project is measured by the machine's clock whatever Now says.
	Now func() time.Time
	// Log receives failed lookups. If nil, slog.Default().
	Log *slog.Logger
	// Metrics registers pratique_trust_*. If nil, nothing is exported.
	Metrics prometheus.Registerer
}

// Trust looks for signatures and attestations and verifies them. Safe for
// concurrent use.
type Trust struct {
	registry evidence.Registry
	store    store.Attestations
	cfg      Config
	version  string
	keys     []key
	keyless  *keyless // nil without Sigstore identities
	notaries []notary
	vex      map[string]bool
	metrics  *metrics
	stamp    atomic.Uint64

	mu      sync.Mutex
	base    context.Context //nolint:containedctx // of lookups, which outlive who asked for them; ended by Run
	stop    context.CancelFunc
	closed  bool
	flights map[digest.Digest]*flight
	lanes   map[string]*lane               // by upstream
	failed  map[pratique.Ref]failure       // by repository and digest
	watched map[digest.Digest]pratique.Ref // answered before; rechecked by Run
	bare    map[digest.Digest]time.Time    // since when nothing about them verifies
	running sync.WaitGroup
}

// New trusts the identities in cfg. What it finds is kept in store.
func New(registry evidence.Registry, store store.Attestations, cfg Config) (*Trust, error) {
	cfg.complete()
	t := &Trust{
		registry: registry,
		store:    store,
		cfg:      cfg,
		vex:      make(map[string]bool),
		flights:  make(map[digest.Digest]*flight),
		lanes:    make(map[string]*lane),
		failed:   make(map[pratique.Ref]failure),
		watched:  make(map[digest.Digest]pratique.Ref),
		bare:     make(map[digest.Digest]time.Time),
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(cfg.Identities)) {
		if err := t.add(name, cfg.Identities[name]); err != nil {
			errs = append(errs, fmt.Errorf("identity %q: %w", name, err))
		}
	}
	for _, name := range cfg.SignedBy {
		if _, ok := cfg.Identities[name]; !ok {
			errs = append(errs, fmt.Errorf("%w: VEX documents signed by %q: there is no identity of that name", pratique.ErrInvalid, name))
		}
		t.vex[name] = true
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	t.version = version(cfg)
	t.metrics = newMetrics(cfg.Metrics)
	t.base, t.stop = context.WithCancel(context.Background())
	return t, nil
}

func (c *Config) complete() {
	for d, std := range map[*time.Duration]time.Duration{
		&c.Recheck: defaultRecheck, &c.Timeout: defaultTimeout, &c.Retry: defaultRetry, &c.Patience: defaultPatience,
	} {
		if *d == 0 {
			*d = std
		}
	}
	if c.MaxManifests == 0 {
		c.MaxManifests = defaultMaxManifests
	}
	if c.MaxBlob == 0 {
		c.MaxBlob = defaultMaxBlob
	}
	if c.MaxBundle == 0 {
		c.MaxBundle = defaultMaxBundle
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// add makes the verifier of one identity.
func (t *Trust) add(name string, id Identity) error {
	sigstore := id.Sigstore != Sigstore{}
	notation := len(id.Notation.CA)+len(id.Notation.TSA)+len(id.Notation.Subjects) > 0
	switch {
	case len(id.Key) > 0 && !sigstore && !notation:
		k, err := newKey(name, id.Key)
		if err == nil {
			t.keys = append(t.keys, k)
		}
		return err
	case len(id.Key) == 0 && sigstore && !notation:
		if t.keyless == nil {
			k, err := newKeyless(t.cfg.TrustedRoot)
			if err != nil {
				return err
			}
			t.keyless = k
		}
		return t.keyless.add(name, id.Sigstore)
	case len(id.Key) == 0 && !sigstore && notation:
		n, err := newNotary(name, id.Notation)
		if err == nil {
			t.notaries = append(t.notaries, n)
		}
		return err
	}
	return fmt.Errorf("%w: want exactly one of key, sigstore and notation", pratique.ErrInvalid)
}

// generation changes with the meaning of what is kept: with it, everything is
// verified again.
const generation = 1

// version names the identities and what else decides what verifies.
func version(cfg Config) string {
	h := sha256.New()
	//nolint:errchkjson // strings and bytes
	doc, _ := json.Marshal(struct {
		Generation int
		Identities map[string]Identity
		Root       []byte
		SignedBy   []string
		VEX        bool
	}{generation, cfg.Identities, cfg.TrustedRoot, cfg.SignedBy, cfg.ParseVEX != nil})
	h.Write(doc)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Version of the trusted identities: what was verified under another one is
// verified anew.
func (t *Trust) Version() string { return t.version }

// Stamp only ever grows, and has grown when what Attestations says of any image
// has changed.
func (t *Trust) Stamp() uint64 { return t.stamp.Load() }

// nothing reports whether nobody is trusted, so that nothing need be looked for.
func (t *Trust) nothing() bool {
	return len(t.keys) == 0 && t.keyless == nil && len(t.notaries) == 0
}
