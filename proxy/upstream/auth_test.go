package upstream_test

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
)

// quietTLS is a TLS server that does not log what clients refuse.
func quietTLS(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	return s
}

func writePEM(t *testing.T, path string, server *httptest.Server) {
	t.Helper()
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// One token per scope serves everybody until it expires.
func TestTokensAreCachedPerScope(t *testing.T) {
	u := proxytest.New(t)
	u.Image("a", "v1")
	u.Image("b", "v1")
	u.RequireToken("", "")
	now := time.Now()
	c := client(t, u, func(cfg *upstream.Config) { cfg.Now = func() time.Time { return now } })
	ask := func(repo string) {
		t.Helper()
		if _, err := c.Resolve(t.Context(), repo, "v1"); err != nil {
			t.Error(err)
		}
	}
	token := func(repo string) string {
		return "GET /token?scope=repository%3A" + repo + "%3Apull&service=upstream"
	}
	const bearer = " Authorization: Bearer"
	ask("a")
	u.Expect("HEAD /v2/a/manifests/v1", token("a"), "HEAD /v2/a/manifests/v1"+bearer)
	ask("a")
	u.Expect("HEAD /v2/a/manifests/v1" + bearer)
	ask("b") // it knows by now that a token is wanted
	u.Expect(token("b"), "HEAD /v2/b/manifests/v1"+bearer)
	now = now.Add(299 * time.Second) // expires_in is 300: asked for a new one before
	ask("a")
	u.Expect(token("a"), "HEAD /v2/a/manifests/v1"+bearer)
	u.ExpireTokens() // revoked: found out by a 401, once
	ask("a")
	u.Expect("HEAD /v2/a/manifests/v1"+bearer, token("a"), "HEAD /v2/a/manifests/v1"+bearer)
}

func TestOneTokenForAllWhoWait(t *testing.T) {
	u := proxytest.New(t)
	u.Image("a", "v1")
	u.RequireToken("", "")
	release := make(chan struct{})
	u.Fault("GET /token", 0, proxytest.Stall(-1, release))
	c := client(t, u)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := c.Resolve(t.Context(), "a", "v1"); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	close(release)
	wg.Wait()
	tokens := 0
	for _, line := range u.Seen() {
		if strings.HasPrefix(line, "GET /token") {
			tokens++
		}
	}
	if tokens != 1 {
		t.Errorf("%d tokens", tokens)
	}
}

func dockerConfig(t *testing.T, format string, args ...any) func(*upstream.Config) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(cfg *upstream.Config) { cfg.Credentials = upstream.Credentials{DockerConfig: file} }
}

func TestCredentials(t *testing.T) {
	encoded := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	for name, require := range map[string]func(*proxytest.Upstream){
		"basic": func(u *proxytest.Upstream) { u.RequireBasic("me", "secret") },
		"token": func(u *proxytest.Upstream) { u.RequireToken("me", "secret") },
	} {
		t.Run(name, func(t *testing.T) {
			u := proxytest.New(t)
			u.Image("a", "v1")
			require(u)
			tests := []struct {
				name   string
				config func(*upstream.Config)
				code   proxy.Code
				status int
			}{
				{"password file", basic(t, "me", "secret"), "", 0},
				{"docker config", dockerConfig(t, `{"auths":{%q:{"auth":%q}}}`, u.Host(), encoded), "", 0},
				{"docker config by URL", dockerConfig(t, `{"auths":{%q:{"auth":%q}}}`, u.URL, encoded), "", 0},
				{"wrong password", basic(t, "me", "wrong"), proxy.CodeDenied, 403},
				{"none", func(*upstream.Config) {}, proxy.CodeDenied, 403},
				{"docker config of another host", dockerConfig(t, `{"auths":{"ghcr.io":{"auth":%q}}}`, encoded), proxy.CodeTooManyRequests, 502},
				{"docker config that is none", dockerConfig(t, `{`), proxy.CodeTooManyRequests, 502},
				{"password file that is not there", func(cfg *upstream.Config) {
					cfg.Credentials = upstream.Credentials{Username: "me", PasswordFile: "/does/not/exist"}
				}, proxy.CodeTooManyRequests, 502},
				{"empty password file", basic(t, "me", ""), proxy.CodeTooManyRequests, 502},
				{"a keychain that is not for this host", func(cfg *upstream.Config) {
					cfg.Credentials = upstream.Credentials{Keychain: "gcr"}
				}, proxy.CodeTooManyRequests, 502},
			}
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					u.Seen()
					_, err := client(t, u, tt.config).Resolve(t.Context(), "a", "v1")
					if tt.code == "" {
						if err != nil {
							t.Error(err)
						}
						return
					}
					is(t, err, tt.code, tt.status)
					if seen := u.Seen(); len(seen) > 3 {
						t.Errorf("asked again and again: %v", seen)
					}
					if strings.Contains(err.Error(), "secret") {
						t.Errorf("the error tells the password: %v", err)
					}
				})
			}
		})
	}
}

// A password that was changed is read again when the old one is refused.
func TestRotatedPassword(t *testing.T) {
	u := proxytest.New(t)
	u.Image("a", "v1")
	u.RequireBasic("me", "old")
	rotate := basic(t, "me", "old")
	var file string
	c := client(t, u, rotate, func(cfg *upstream.Config) { file = cfg.Credentials.PasswordFile })
	if _, err := c.Resolve(t.Context(), "a", "v1"); err != nil {
		t.Fatal(err)
	}
	u.RequireBasic("me", "new")
	if err := os.WriteFile(file, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), "a", "v1"); err != nil {
		t.Error(err)
	}
}

// challenge makes u answer every request without a token by this challenge.
func challenge(u *proxytest.Upstream, format string, args ...any) {
	u.Fault("GET /v2/", 0, proxytest.Status(401, "WWW-Authenticate", fmt.Sprintf(format, args...)))
}

func TestRealms(t *testing.T) {
	for name, tt := range map[string]struct {
		realm  string
		status int
	}{
		"none":                  {"", 502},
		"metadata":              {"http://169.254.169.254/token", 502},
		"file":                  {"file:///etc/passwd", 502},
		"with credentials":      {"http://a:b@127.0.0.1/", 502},
		"relative":              {"/token", 502},
		"a port that is closed": {"http://127.0.0.1:1/token", 502},
	} {
		t.Run(name, func(t *testing.T) {
			u := proxytest.New(t)
			challenge(u, `Bearer realm="%s",service="x"`, tt.realm)
			_, _, err := client(t, u).Manifest(t.Context(), "a", "v1")
			is(t, err, proxy.CodeTooManyRequests, tt.status)
		})
	}
}

// A secure upstream cannot send our password to a plain realm.
func TestRealmDowngrade(t *testing.T) {
	plain := proxytest.New(t)
	secure := quietTLS(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+plain.URL+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, ca, secure)
	c := client(t, plain, basic(t, "me", "secret"), func(cfg *upstream.Config) { cfg.URL, cfg.CAFile = secure.URL, ca })
	_, _, err := c.Manifest(t.Context(), "a", "v1")
	is(t, err, proxy.CodeTooManyRequests, 502)
	plain.Expect()
}

func TestTokenService(t *testing.T) {
	answer := func(body string) proxytest.Fault {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { fmt.Fprint(w, body) }
	}
	for name, tt := range map[string]struct {
		fault  proxytest.Fault
		code   proxy.Code
		status int
	}{
		"401":           {proxytest.Status(401), proxy.CodeDenied, 403},
		"403":           {proxytest.Status(403), proxy.CodeDenied, 403},
		"404":           {proxytest.Status(404), proxy.CodeTooManyRequests, 502},
		"429":           {proxytest.Status(429, "Retry-After", "7"), proxy.CodeTooManyRequests, 429},
		"500":           {proxytest.Status(500), proxy.CodeTooManyRequests, 502},
		"reset":         {proxytest.Reset(), proxy.CodeTooManyRequests, 502},
		"no JSON":       {answer("hello"), proxy.CodeTooManyRequests, 502},
		"no token":      {answer("{}"), proxy.CodeTooManyRequests, 502},
		"endless":       {answer(`{"token":"` + strings.Repeat("x", 1<<20) + `"}`), proxy.CodeTooManyRequests, 502},
		"wrong token":   {answer(`{"token":"nonsense"}`), proxy.CodeDenied, 403},
		"redirect away": {proxytest.Redirect("http://169.254.169.254/"), proxy.CodeTooManyRequests, 502},
	} {
		t.Run(name, func(t *testing.T) {
			u := proxytest.New(t)
			u.Image("a", "v1")
			u.RequireToken("me", "secret")
			u.Fault("GET /token", 0, tt.fault)
			_, err := client(t, u, basic(t, "me", "secret")).Resolve(t.Context(), "a", "v1")
			is(t, err, tt.code, tt.status)
		})
	}
}

// An identity token is exchanged by POST, or by GET where POST is not known.
func TestIdentityToken(t *testing.T) {
	for name, post := range map[string]int{"oauth2": 0, "POST unknown": 404} {
		t.Run(name, func(t *testing.T) {
			u := proxytest.New(t)
			u.Image("a", "v1")
			u.RequireToken("", "")
			u.Fault("POST /token", 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if post != 0 {
					w.WriteHeader(post)
					return
				}
				if r.FormValue("refresh_token") != "identity" || r.FormValue("grant_type") != "refresh_token" {
					t.Errorf("form %v", r.Form)
				}
				r.URL.RawQuery = "scope=" + r.FormValue("scope")
				next.ServeHTTP(w, r)
			})
			c := client(t, u, dockerConfig(t, `{"auths":{%q:{"identitytoken":"identity"}}}`, u.Host()))
			if _, err := c.Resolve(t.Context(), "a", "v1"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A redirect to another registry gets its own, anonymous token.
func TestRedirectToAnotherRegistry(t *testing.T) {
	u, other := proxytest.New(t), proxytest.New(t)
	d, raw := other.Image("a", "v1")
	other.RequireToken("", "")
	u.RequireBasic("me", "secret")
	u.Fault("GET /v2/a/manifests/v1 Authorization", 0, proxytest.Redirect(other.URL+"/v2/a/manifests/v1"))
	_, got, err := client(t, u, basic(t, "me", "secret")).Manifest(t.Context(), "a", "v1")
	if err != nil || string(got) != string(raw) {
		t.Errorf("%s: %q, %v", d, got, err)
	}
	other.Expect("GET /v2/a/manifests/v1", "GET /token?scope=repository%3Aa%3Apull&service=upstream", "GET /v2/a/manifests/v1 Authorization: Bearer")
}
