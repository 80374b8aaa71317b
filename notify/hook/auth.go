package hook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// prover finds out whether a call is authentic: by what comes before the body, or by
// the body as well. ok says that this is when it can be known.
type prover interface {
	early(r *http.Request, secret string) (authentic, ok bool)
	late(r *http.Request, body []byte) (authentic, ok bool)
}

// minSecret is what a secret has at least.
const minSecret = 16

// newProver makes what Receiver.Auth names.
func newProver(ctx context.Context, r Receiver, cfg Config) (prover, error) {
	if r.Auth == OIDC {
		return newTokens(ctx, r, cfg)
	}
	if len(r.Secret) == 0 {
		return nil, errors.New("no secret: a hook without one would be anybody's")
	}
	if len(r.Secret) < minSecret {
		return nil, fmt.Errorf("a secret of fewer than %d characters can be guessed; take `openssl rand -hex 32`", minSecret)
	}
	switch r.Auth {
	case HMAC:
		return hmacProof{r.Secret}, nil
	case Header:
		name := r.Header
		if name == "" {
			name = "Authorization"
		}
		return headerProof{http.CanonicalHeaderKey(name), sha256.Sum256(r.Secret)}, nil
	case Path:
		return pathProof{sha256.Sum256(r.Secret)}, nil
	case OIDC: // above
	}
	return nil, errors.New("no kind of authentication")
}

// equal compares in a time that tells neither content nor length of the secret.
func equal(secret [sha256.Size]byte, shown string) bool {
	sum := sha256.Sum256([]byte(shown))
	return subtle.ConstantTimeCompare(secret[:], sum[:]) == 1
}

// headerProof is a header with the secret as its value.
type headerProof struct {
	name   string
	secret [sha256.Size]byte
}

func (p headerProof) early(r *http.Request, path string) (bool, bool) {
	values := r.Header[p.name]
	return path == "" && len(values) == 1 && equal(p.secret, values[0]), true
}

func (headerProof) late(*http.Request, []byte) (bool, bool) { return false, false }

// pathProof is a path that ends in the secret.
type pathProof struct{ secret [sha256.Size]byte }

func (p pathProof) early(_ *http.Request, path string) (bool, bool) {
	return path != "" && equal(p.secret, path), true
}

func (pathProof) late(*http.Request, []byte) (bool, bool) { return false, false }

// hmacProof is a signature over the body. Source: GitHub, "Validating webhook
// deliveries".
type hmacProof struct{ secret []byte }

func (hmacProof) early(r *http.Request, path string) (bool, bool) {
	if path != "" || len(r.Header["X-Hub-Signature-256"]) != 1 {
		return false, true // not worth the body
	}
	return false, false
}

func (p hmacProof) late(r *http.Request, body []byte) (bool, bool) {
	text, found := strings.CutPrefix(r.Header.Get("X-Hub-Signature-256"), "sha256=")
	shown, err := hex.DecodeString(text)
	if !found || err != nil || len(shown) != sha256.Size {
		return false, true
	}
	h := hmac.New(sha256.New, p.secret)
	h.Write(body)
	return hmac.Equal(h.Sum(nil), shown), true
}

// What a Pub/Sub push subscription signs its calls with. Source: Google Cloud,
// "Authentication for push subscriptions".
const (
	googleIssuer = "https://accounts.google.com"
	googleKeys   = "https://www.googleapis.com/oauth2/v3/certs"
	clockSkew    = time.Minute
	maxToken     = 8 << 10
)

// tokens are those of one account for one audience.
type tokens struct {
	account  string
	verifier *oidc.IDTokenVerifier
}

func newTokens(ctx context.Context, r Receiver, cfg Config) (prover, error) {
	switch {
	case r.Keys == nil:
		return nil, errors.New("keys that sign tokens cannot be fetched here")
	case r.Audience == "" || r.Account == "":
		return nil, errors.New("no audience or no account: every user of that cloud could call")
	}
	at := r.KeysURL
	if at == "" {
		at = googleKeys
	}
	if u, err := url.Parse(at); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("the URL of the keys is none")
	}
	ctx = oidc.ClientContext(ctx, &http.Client{
		Transport: &keyFetcher{next: r.Keys, now: cfg.Now}, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	return &tokens{account: r.Account, verifier: oidc.NewVerifier(googleIssuer, oidc.NewRemoteKeySet(ctx, at), &oidc.Config{
		ClientID: r.Audience, SupportedSigningAlgs: []string{oidc.RS256},
		// A token may have ended a moment ago by our clock.
		Now: func() time.Time { return cfg.Now().Add(-clockSkew) },
	})}, nil
}

func (t *tokens) early(r *http.Request, path string) (bool, bool) {
	values := r.Header["Authorization"]
	if path != "" || len(values) != 1 {
		return false, true
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || len(token) > maxToken {
		return false, true
	}
	verified, err := t.verifier.Verify(r.Context(), token)
	if err != nil {
		return false, true
	}
	var claims struct {
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
	}
	if err := verified.Claims(&claims); err != nil {
		return false, true
	}
	return claims.Verified && subtle.ConstantTimeCompare([]byte(claims.Email), []byte(t.account)) == 1, true
}

func (*tokens) late(*http.Request, []byte) (bool, bool) { return false, false }

// keyFetcher bounds what tokens with unknown keys make us fetch: key sets of a sane
// size, one every few seconds. Keys are announced long before they sign.
type keyFetcher struct {
	next http.RoundTripper
	now  func() time.Time

	mu   sync.Mutex
	last time.Time
}

const (
	keysPause = 10 * time.Second
	maxKeys   = 256 << 10
)

var errKeysPause = errors.New("keys were fetched a moment ago")

// RoundTrip implements http.RoundTripper.
func (f *keyFetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	now := f.now()
	early := !f.last.IsZero() && now.Sub(f.last) < keysPause
	if !early {
		f.last = now
	}
	f.mu.Unlock()
	if early {
		return nil, errKeysPause
	}
	res, err := f.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxKeys), res.Body}
	return res, nil
}
