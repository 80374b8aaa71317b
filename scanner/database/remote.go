package database

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// errOtherArtifact: a manifest that is no database of the kind looked for.
var errOtherArtifact = errors.New("not a database of this kind")

// fromManifest reads the artifact's manifest: one layer of the kind's media
// type. config fetches the config blob, whose diff_ids, if it has any, must
// name that layer.
func fromManifest(k kind, raw []byte, config func(digest.Digest) ([]byte, error)) (offer, error) {
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return offer{}, fmt.Errorf("manifest: %w", err)
	}
	if len(m.Layers) != 1 || string(m.Layers[0].MediaType) != k.layerType {
		return offer{}, fmt.Errorf("%w: want one layer of type %s", errOtherArtifact, k.layerType)
	}
	l := m.Layers[0]
	o := offer{identity: digest.FromBytes(raw), layer: digest.Digest(l.Digest.String()), size: l.Size}
	for _, d := range []digest.Digest{o.layer, digest.Digest(m.Config.Digest.String())} {
		if _, err := pratique.ParseDigest(d.String()); err != nil {
			return offer{}, err
		}
	}
	rawConfig, err := config(digest.Digest(m.Config.Digest.String()))
	if err != nil {
		return offer{}, fmt.Errorf("config: %w", err)
	}
	var c struct {
		RootFS struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(rawConfig, &c); err != nil {
		return offer{}, fmt.Errorf("config: %w", err)
	}
	switch ids := c.RootFS.DiffIDs; len(ids) {
	case 0: // usual: the artifact's config is empty
	case 1:
		o.diffID = ids[0]
	default:
		return offer{}, fmt.Errorf("%w artifact: %d diff_ids for one layer", pratique.ErrInvalid, len(ids))
	}
	return o, nil
}

// checkSources asks the sources in order until one answers. What the first to
// answer offers is taken, or is what stands already. A source that offers a
// database which is refused counts as failed, except for one that was rolled
// back from: then there is nothing to do unless a later source has another.
func (d *Database) checkSources(ctx context.Context) error {
	var errs []error
	answered := false
	for _, source := range d.cfg.Sources {
		now := d.cfg.Now()
		if until := d.notBefore(source); now.Before(until) {
			errs = append(errs, fmt.Errorf("%s: asked not to be asked before %s", source, until.Format(time.RFC3339)))
			continue
		}
		wait := &retryAfter{next: d.cfg.Transport, now: d.cfg.Now}
		err := d.checkSource(ctx, source, wait)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var notBefore time.Time
		if pause := wait.pause(); pause > 0 {
			notBefore = now.Add(pause)
		}
		d.noteSource(ctx, source, err, notBefore)
		switch {
		case err == nil:
			return nil
		case isTurnedAway(err):
			answered = true
		default:
			errs = append(errs, fmt.Errorf("%s: %w", source, err))
		}
	}
	if answered {
		return nil
	}
	return errors.Join(errs...)
}

func (d *Database) checkSource(ctx context.Context, source string, rt http.RoundTripper) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	ref, puller, err := d.puller(ctx, source, rt)
	if err != nil {
		return err
	}
	// The digest alone tells whether there is anything to fetch, and it costs none
	// of what some registries count.
	if head, err := puller.Head(ctx, ref); err == nil {
		if known, err := d.seen(offer{identity: digest.Digest(head.Digest.String())}); known {
			return err
		}
	} else if !headless(err) {
		return err
	}
	desc, err := puller.Get(ctx, ref)
	if err != nil {
		return err
	}
	if known, err := d.seen(offer{identity: digest.Digest(desc.Digest.String())}); known {
		return err
	}
	o, r, err := d.offered(ctx, puller, ref, desc)
	if err != nil {
		return err
	}
	defer r.Close()
	o.source = source
	return d.take(ctx, r, o, false)
}

// fromSource stages the artifact that a source offered once, by its digest.
func (d *Database) fromSource(ctx context.Context, source string, e Entry) (*staged, error) {
	ref, puller, err := d.puller(ctx, source, d.cfg.Transport)
	if err != nil {
		return nil, err
	}
	desc, err := puller.Get(ctx, ref.Context().Digest(e.Identity.String()))
	if err != nil {
		return nil, err
	}
	o, r, err := d.offered(ctx, puller, ref, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return d.stageAs(ctx, r, e, o)
}

// puller asks one source, with one ping and one token for all requests.
func (d *Database) puller(ctx context.Context, source string, rt http.RoundTripper) (name.Reference, *remote.Puller, error) {
	ref, err := parseSource(source)
	if err != nil {
		return nil, nil, err
	}
	puller, err := remote.NewPuller(
		remote.WithContext(ctx),
		remote.WithTransport(rt),
		remote.WithAuthFromKeychain(d.cfg.Keychain),
		remote.WithUserAgent("pratique"),
		// One try each: Run waits as the source asks, others would hammer it.
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
		remote.WithRetryStatusCodes(),
		remote.WithRetryPredicate(func(error) bool { return false }),
	)
	return ref, puller, err
}

// offered reads what an artifact announces, and opens its layer.
func (d *Database) offered(ctx context.Context, puller *remote.Puller, ref name.Reference, desc *remote.Descriptor) (offer, io.ReadCloser, error) {
	blob := func(dg digest.Digest) (io.ReadCloser, error) {
		l, err := puller.Layer(ctx, ref.Context().Digest(dg.String()))
		if err != nil {
			return nil, err
		}
		return l.Compressed()
	}
	o, err := fromManifest(d.kind, desc.Manifest, func(dg digest.Digest) ([]byte, error) {
		r, err := blob(dg)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		raw, err := io.ReadAll(io.LimitReader(r, pratique.MaxConfigSize))
		if err == nil && dg.Algorithm().FromBytes(raw) != dg {
			err = refusal(ReasonDigest, "config blob is not %s", dg)
		}
		return raw, err
	})
	if err != nil {
		return offer{}, nil, err
	}
	r, err := blob(o.layer)
	return o, r, err
}

// headless reports whether a failed HEAD may be the fault of a registry that does
// not know it: GET is tried then. One that says no, limits or is down is not asked
// twice.
func headless(err error) bool {
	var t *transport.Error
	if !errors.As(err, &t) {
		var n net.Error
		return !errors.As(err, &n) // an answer that says too little
	}
	switch t.StatusCode {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	}
	return false
}

// parseSource reads HOST/REPOSITORY:TAG with an optional scheme. The default
// registry of other tools is never implied.
func parseSource(s string) (name.Reference, error) {
	var opts []name.Option
	rest := s
	if after, ok := strings.CutPrefix(s, "http://"); ok {
		rest, opts = after, append(opts, name.Insecure)
	} else if after, ok := strings.CutPrefix(s, "https://"); ok {
		rest = after
	}
	host, _, ok := strings.Cut(rest, "/")
	if !ok || strings.Contains(rest, "://") || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return nil, fmt.Errorf("%w database source %q: want HOST/REPOSITORY:TAG", pratique.ErrInvalid, s)
	}
	ref, err := name.ParseReference(rest, opts...)
	if err != nil {
		return nil, fmt.Errorf("%w database source %q: %w", pratique.ErrInvalid, s, err)
	}
	return ref, nil
}

// ValidSource reports what is wrong with a source as configured.
func ValidSource(s string) error {
	_, err := parseSource(s)
	return err
}

// retryAfter remembers the Retry-After of the last refused request, which
// go-containerregistry's error does not carry.
type retryAfter struct {
	next http.RoundTripper
	now  func() time.Time

	mu    sync.Mutex
	after time.Duration
}

func (t *retryAfter) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		t.mu.Lock()
		t.after = parseRetryAfter(resp.Header.Get("Retry-After"), t.now())
		t.mu.Unlock()
	}
	return resp, nil
}

// pause is what the source asked for; zero: nothing.
func (t *retryAfter) pause() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.after
}

// maxRetryAfter bounds what a source may ask for.
const maxRetryAfter = 24 * time.Hour

// parseRetryAfter reads seconds or an HTTP date (RFC 9110, 10.2.3).
func parseRetryAfter(s string, now time.Time) time.Duration {
	var after time.Duration
	if n, err := strconv.Atoi(s); err == nil {
		after = time.Duration(min(n, int(maxRetryAfter/time.Second))) * time.Second
	} else if t, err := http.ParseTime(s); err == nil {
		after = t.Sub(now)
	}
	return max(0, min(after, maxRetryAfter))
}
