package proxytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// auth is what the upstream wants to see.
type auth struct {
	host           string
	bearer         bool
	user, password string // empty: tokens for everybody

	mu     sync.Mutex
	issued int
	valid  map[string]string // token → scope
}

// RequireBasic makes the upstream want a user and password.
func (u *Upstream) RequireBasic(user, password string) {
	u.setAuth(&auth{user: user, password: password})
}

// RequireToken makes the upstream want a token from its own token service,
// GET /token, which wants the user and password unless they are empty.
func (u *Upstream) RequireToken(user, password string) {
	u.setAuth(&auth{bearer: true, user: user, password: password})
}

func (u *Upstream) setAuth(a *auth) {
	u.mu.Lock()
	defer u.mu.Unlock()
	a.host, a.valid = u.URL, make(map[string]string)
	u.auth = a
}

// ExpireTokens makes all tokens issued so far worthless.
func (u *Upstream) ExpireTokens() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.auth.mu.Lock()
	defer u.auth.mu.Unlock()
	clear(u.auth.valid)
}

func (a *auth) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case a.bearer && r.URL.Path == "/token":
			a.token(w, r)
		case a.bearer:
			a.checkToken(w, r, next)
		case a.known(r):
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("WWW-Authenticate", `Basic realm="upstream"`)
			fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		}
	})
}

func (a *auth) known(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	return a.user == "" || ok && user == a.user && password == a.password
}

func (a *auth) token(w http.ResponseWriter, r *http.Request) {
	if !a.known(r) {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.issued++
	token := fmt.Sprintf("token-%d", a.issued)
	a.valid[token] = r.URL.Query().Get("scope")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
}

func (a *auth) checkToken(w http.ResponseWriter, r *http.Request, next http.Handler) {
	repo := strings.TrimPrefix(r.URL.Path, "/v2/")
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		repo, _, _ = strings.Cut(repo, kind)
	}
	want := "repository:" + repo + ":pull"
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a.mu.Lock()
	scope, ok := a.valid[token]
	a.mu.Unlock()
	if !ok || scope != want {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="upstream",scope="%s"`, a.host, want))
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	next.ServeHTTP(w, r)
}
