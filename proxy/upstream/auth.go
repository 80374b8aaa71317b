package upstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/singleflight"

	"pratique/proxy"
)

// authorizer learns how the upstream wants to be convinced and remembers it:
// the challenge once, a token per scope.
type authorizer struct {
	client *Client
	creds  *credentials
	flight singleflight.Group // one exchange per scope

	mu      sync.Mutex
	learned challenge // the upstream's last; zero until it sent one
	tokens  map[string]bearer
}

// bearer is a token and the time after which it is not used any more.
type bearer struct {
	value string
	until time.Time
}

// maxTokens bounds the cache; when it is full it starts again.
const maxTokens = 10_000

// Lifetimes of tokens (distribution's token specification: 60 s if not said).
const (
	defaultTokenLife = 60 * time.Second
	maxTokenLife     = time.Hour
)

// known returns the Authorization header to try first; empty when the upstream
// never asked for one.
func (a *authorizer) known(ctx context.Context, q request) (string, error) {
	a.mu.Lock()
	ch := a.learned
	a.mu.Unlock()
	switch ch.scheme {
	case "basic":
		return a.basic(ctx)
	case "bearer":
		header, err := a.bearer(ctx, q, ch, scopeOf(q.repo))
		if err != nil {
			a.doubt()
		}
		return header, err
	}
	return "", nil
}

// doubt forgets a challenge that led to nothing: the next request goes without a
// token and learns what the upstream wants then. Its realm may have moved, or
// been a page that somebody else put in between.
func (a *authorizer) doubt() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.learned = challenge{}
}

// answer returns the header that answers a challenge of the upstream; used is
// the one that it refused. Empty when there is nothing better to offer.
func (a *authorizer) answer(ctx context.Context, q request, ch challenge, used string) (string, error) {
	a.mu.Lock()
	a.learned = challenge{scheme: ch.scheme, params: ch.params}
	for scope, t := range a.tokens {
		if used == "Bearer "+t.value {
			delete(a.tokens, scope) // expired early or revoked
		}
	}
	a.mu.Unlock()
	if used != "" {
		a.creds.forget()
	}
	if ch.scheme == "basic" {
		header, err := a.basic(ctx)
		if header == used {
			return "", err
		}
		return header, err
	}
	header, err := a.bearer(ctx, q, ch, scopeOf(q.repo))
	if err != nil {
		a.doubt()
	}
	return header, err
}

// anonymous exchanges a challenge of another host for a token without
// credentials. It is not kept.
func (a *authorizer) anonymous(ctx context.Context, q request, ch challenge, asked *url.URL) (string, error) {
	if ch.scheme != "bearer" {
		return "", nil
	}
	scope := ch.params["scope"]
	t, err := a.exchange(ctx, q, ch, scope, authn.AuthConfig{}, asked)
	if err != nil {
		return "", err
	}
	return "Bearer " + t.value, nil
}

func scopeOf(repo string) string { return "repository:" + repo + ":pull" }

func (a *authorizer) credentials(ctx context.Context) (authn.AuthConfig, error) {
	cfg, err := a.creds.get(ctx)
	if err != nil {
		// Pulling anonymously instead would hide the fault behind the wrong limits
		// and a 404.
		return cfg, proxy.Unavailable(http.StatusBadGateway, "credentials for upstream %s cannot be had: %w", a.client.key, permanentError{err})
	}
	return cfg, nil
}

func (a *authorizer) basic(ctx context.Context) (string, error) {
	cfg, err := a.credentials(ctx)
	if err != nil || cfg.Username == "" {
		return "", err
	}
	return basicHeader(cfg), nil
}

func basicHeader(cfg authn.AuthConfig) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(cfg.Username+":"+cfg.Password))
}

// bearer returns the header with a token for the scope, from the cache or by
// one exchange for all who wait.
func (a *authorizer) bearer(ctx context.Context, q request, ch challenge, scope string) (string, error) {
	a.mu.Lock()
	t, ok := a.tokens[scope]
	a.mu.Unlock()
	if ok && a.client.cfg.Now().Before(t.until) {
		return "Bearer " + t.value, nil
	}
	// The exchange outlives a caller that gives up: others wait for it.
	detached := context.WithoutCancel(ctx)
	result := a.flight.DoChan(scope, func() (any, error) {
		cfg, err := a.credentials(detached)
		if err != nil {
			return nil, err
		}
		t, err := a.exchange(detached, q, ch, scope, cfg, a.client.base)
		if err != nil {
			return nil, err
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.tokens == nil || len(a.tokens) >= maxTokens {
			a.tokens = make(map[string]bearer)
		}
		a.tokens[scope] = t
		return t, nil
	})
	select {
	case <-ctx.Done():
		return "", a.client.transportError(ctx, q.what, ctx.Err())
	case r := <-result:
		if r.Err != nil {
			return "", r.Err
		}
		return "Bearer " + r.Val.(bearer).value, nil
	}
}

// exchange asks the realm for a token: distribution's token specification, and
// its OAuth2 variant for identity tokens. asked is the registry that sent the
// challenge.
func (a *authorizer) exchange(ctx context.Context, q request, ch challenge, scope string, cfg authn.AuthConfig, asked *url.URL) (bearer, error) {
	if cfg.RegistryToken != "" {
		return bearer{value: cfg.RegistryToken, until: a.client.cfg.Now().Add(defaultTokenLife)}, nil
	}
	realm, err := url.Parse(ch.params["realm"])
	if err != nil || realm.Host == "" || realm.User != nil ||
		realm.Scheme != "https" && (realm.Scheme != "http" || asked.Scheme == "https") {
		return bearer{}, a.client.badAnswer(q.what, "%w: realm %q in its challenge", errRedirect, ch.params["realm"])
	}
	if cfg.IdentityToken != "" {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {cfg.IdentityToken}, "client_id": {a.client.cfg.UserAgent}}
		setParams(form, ch, scope)
		t, err := a.token(ctx, q, http.MethodPost, realm, form, "")
		var s status
		if !errors.As(err, &s) || s != http.StatusNotFound && s != http.StatusMethodNotAllowed {
			return t, err
		}
	}
	query := realm.Query()
	setParams(query, ch, scope)
	u := *realm
	u.RawQuery = query.Encode()
	header := ""
	if cfg.Username != "" {
		header = basicHeader(cfg)
	}
	return a.token(ctx, q, http.MethodGet, &u, nil, header)
}

func setParams(v url.Values, ch challenge, scope string) {
	if s := ch.params["service"]; s != "" {
		v.Set("service", s)
	}
	if scope != "" {
		v.Set("scope", scope)
	}
}

// token makes the request of an exchange.
func (a *authorizer) token(ctx context.Context, q request, method string, u *url.URL, form url.Values, authorization string) (bearer, error) {
	c := a.client
	var content io.Reader
	if form != nil {
		content = strings.NewReader(form.Encode())
	}
	inner, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(inner, method, u.String(), content)
	if err != nil {
		cancel(err)
		return bearer{}, fmt.Errorf("upstream %s: %w", c.key, err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	q.op = opToken
	res, err := c.roundTrip(ctx, req, q, cancel)
	if err != nil {
		return bearer{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return bearer{}, a.refused(res, q)
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return bearer{}, err
	}
	var t struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		// The text of err could quote the token.
		return bearer{}, c.badAnswer(q.what, "its token service sent no JSON")
	}
	if t.Token == "" {
		t.Token = t.AccessToken
	}
	if t.Token == "" {
		return bearer{}, c.badAnswer(q.what, "its token service sent no token")
	}
	life := defaultTokenLife
	if t.ExpiresIn > 0 {
		life = min(time.Duration(t.ExpiresIn)*time.Second, maxTokenLife)
	}
	// A tenth less, so that it does not expire on the way.
	return bearer{value: t.Token, until: c.cfg.Now().Add(life - life/10)}, nil
}

// refused is a token service's answer that is no token. Its 404 does not mean
// that the image is unknown.
func (a *authorizer) refused(res *http.Response, q request) error {
	c := a.client
	var e *proxy.Error
	switch code := res.StatusCode; code {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
		e = proxy.Unavailable(http.StatusBadGateway, "the token service of upstream %s answered %d for %s", c.key, code, q.what)
	default:
		e = c.statusError(res, q)
	}
	e.Err = errors.Join(e.Err, status(res.StatusCode))
	if res.StatusCode == http.StatusTooManyRequests {
		c.hold(e)
	}
	a.creds.forget()
	return e
}
