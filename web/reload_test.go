package web_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pratique/web"
)

type fakeReloader struct {
	out web.Reloaded
	err error
}

func (f fakeReloader) Reload(context.Context) (web.Reloaded, error) { return f.out, f.err }

func TestReload(t *testing.T) {
	tests := map[string]struct {
		method   string
		reloader web.Reloader
		origin   string
		status   int
		body     string
	}{
		"applied":          {http.MethodPost, fakeReloader{out: web.Reloaded{Policies: "v1", NeedsRestart: []string{"admin.listen"}}}, "", 200, `{"policies":"v1","changed":[],"needsRestart":["admin.listen"]}`},
		"a mistake":        {http.MethodPost, fakeReloader{err: errors.New("p.yaml:1:1: no rules")}, "", 422, "p.yaml:1:1: no rules"},
		"not in this one":  {http.MethodPost, nil, "", 503, "not available"},
		"not by GET":       {http.MethodGet, fakeReloader{}, "", 405, ""},
		"not by a browser": {http.MethodPost, fakeReloader{}, "https://evil.example", 403, "another web site"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			req := httptest.NewRequestWithContext(t.Context(), tc.method, "http://127.0.0.1/api/v1/reload", nil)
			if tc.origin != "" {
				req.Header.Set("Origin", tc.origin)
				req.Header.Set("Sec-Fetch-Site", "cross-site")
			}
			rec := httptest.NewRecorder()
			web.New(web.Config{Reloader: tc.reloader}).ServeHTTP(rec, req)
			body, _ := io.ReadAll(rec.Body)
			compact := strings.NewReplacer("\n", "", " ", "").Replace(string(body))
			if rec.Code != tc.status || !strings.Contains(string(body), tc.body) && !strings.Contains(compact, tc.body) {
				t.Errorf("%d %s, want %d %s", rec.Code, body, tc.status, tc.body)
			}
		})
	}
}

// TestReadyzNotes: what a person should know is shown, and takes no readiness.
func TestReadyzNotes(t *testing.T) {
	h := web.New(web.Config{Probes: []web.Probe{
		{Name: "a", Check: func(context.Context) error { return nil }, Note: func() string { return "look here" }},
		{Name: "b", Check: func(context.Context) error { return nil }, Note: func() string { return "" }},
	}})
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/readyz", nil))
	if want := "ok    a: look here\nok    b\nready\n"; rec.Code != http.StatusOK || rec.Body.String() != want {
		t.Errorf("%d %q, want %q", rec.Code, rec.Body, want)
	}
}
