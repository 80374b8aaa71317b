package web_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"pratique/web"
)

// TestHooksAreBesideTheGuard: registries call by any name and reach the hooks and
// nothing else, however the path is spelt; without hooks there is nothing.
func TestHooksAreBesideTheGuard(t *testing.T) {
	var got []string
	hooks := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.URL.Path)
		w.WriteHeader(http.StatusAccepted)
	})
	srv := serve(t, web.Config{Hooks: hooks, Gate: &fakeGate{}})
	without := serve(t, web.Config{Gate: &fakeGate{}})
	for _, tt := range []struct {
		base, path, host string
		want             int
	}{
		{srv.URL, "/hooks/lab", "registry.example.com", 202},
		{srv.URL, "/hooks/lab/secret", "registry.example.com", 202},
		{srv.URL, "/hooks/../api/v1/reload", "registry.example.com", 202}, // the hooks, not the API
		{srv.URL, "/hooks/%2e%2e/api/v1/reload", "registry.example.com", 202},
		{srv.URL, "/hooks//../../api/v1/reload", "registry.example.com", 202},
		{srv.URL, "/hooks", "registry.example.com", 421},
		{srv.URL, "/hooksx/lab", "registry.example.com", 421},
		{srv.URL, "//hooks/lab", "registry.example.com", 421},
		{srv.URL, "/api/v1/reload", "registry.example.com", 421},
		{srv.URL, "/api/v1/../../hooks/lab", "registry.example.com", 421},
		{without.URL, "/hooks/lab", "registry.example.com", 421},
		{without.URL, "/hooks/lab", "", 404},
	} {
		before := len(got)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, tt.base, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = tt.path // as it is
		req.Host = tt.host
		req.Header.Set("Sec-Fetch-Site", "cross-site")
		if tt.want == 404 {
			req.Header.Del("Sec-Fetch-Site")
		}
		client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if res.StatusCode != tt.want || (len(got) > before) != (tt.want == 202) {
			t.Errorf("%s with host %q: %d, hooks %v", tt.path, tt.host, res.StatusCode, got[before:])
		}
	}
}
