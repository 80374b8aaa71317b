package web_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"testing"
	"time"

	"pratique"
	"pratique/policy"
	"pratique/policy/simulate"
	"pratique/web"
)

type fakeSimulator struct {
	err   error
	files []policy.File
	since time.Time
}

func (f *fakeSimulator) Simulate(_ context.Context, since time.Time, files []policy.File, _ *web.SimulatedDatabase) (web.Simulated, error) {
	f.since, f.files = since, files
	return web.Simulated{Today: "a", Draft: "b"}, f.err
}

func (f *fakeSimulator) Components(context.Context, time.Time) iter.Seq2[web.SimulatedComponent, error] {
	return func(yield func(web.SimulatedComponent, error) bool) {
		if f.err != nil {
			yield(web.SimulatedComponent{}, f.err)
			return
		}
		yield(web.SimulatedComponent{ID: "1", Component: &pratique.Component{Name: "a"}}, nil)
	}
}

func TestSimulate(t *testing.T) {
	recent := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	body := fmt.Sprintf(`{"since": %q, "policies": [{"name": "p.yaml", "text": "name: p"}]}`, recent)
	for name, tc := range map[string]struct {
		body   string
		err    error
		status int
		want   string
	}{
		"whole":               {body, nil, http.StatusOK, `"images":[]`},
		"a mistake in it":     {body, fmt.Errorf("p.yaml:1:1: no rules: %w", pratique.ErrInvalid), http.StatusUnprocessableEntity, "p.yaml:1:1: no rules"},
		"another one runs":    {body, web.ErrBusy, http.StatusTooManyRequests, "another simulation is running"},
		"too many":            {body, simulate.ErrTooMany, http.StatusUnprocessableEntity, "--since"},
		"a broken store":      {body, errors.New("disk on fire"), http.StatusInternalServerError, ""},
		"no JSON":             {"x", nil, http.StatusBadRequest, "not a simulation"},
		"two":                 {body + body, nil, http.StatusBadRequest, "something follows"},
		"a key that is none":  {`{"policy": []}`, nil, http.StatusBadRequest, "policy"},
		"without since":       {`{"policies": [{"name": "p", "text": "x"}]}`, nil, http.StatusBadRequest, "since is missing"},
		"since for ever":      {`{"since": "1970-01-01T00:00:00Z", "policies": [{"name": "p", "text": "x"}]}`, nil, http.StatusBadRequest, "too long ago"},
		"nothing to simulate": {fmt.Sprintf(`{"since": %q}`, recent), nil, http.StatusBadRequest, "nothing to simulate"},
	} {
		f := &fakeSimulator{err: tc.err}
		srv := serve(t, web.Config{Simulator: f})
		status, got := ask(t, http.MethodPost, srv.URL+"/api/v1/policy/simulate", tc.body)
		if flat := strings.NewReplacer(" ", "", "\n", "").Replace(got); status != tc.status || !strings.Contains(got, tc.want) && !strings.Contains(flat, tc.want) {
			t.Errorf("%s: %d %s", name, status, got)
		}
		if status == http.StatusOK && (len(f.files) != 1 || f.files[0].Name != "p.yaml" || f.since.Format(time.RFC3339) != recent) {
			t.Errorf("%s: asked with %+v", name, f)
		}
	}
	srv := serve(t, web.Config{})
	for method, path := range map[string]string{http.MethodPost: "/api/v1/policy/simulate", http.MethodGet: "/api/v1/policy/simulate/components"} {
		if status, got := ask(t, method, srv.URL+path, body); status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", path, status, got)
		}
	}
}

func TestSimulateComponents(t *testing.T) {
	at := "/api/v1/policy/simulate/components?since="
	srv := serve(t, web.Config{Simulator: &fakeSimulator{}})
	status, got := ask(t, http.MethodGet, srv.URL+at+"2026-11-01T00:00:00Z", "")
	if want := `{"id":"1","component":{"context":{`; status != http.StatusOK || !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "\n{\"end\":true}\n") {
		t.Errorf("%d %s", status, got)
	}
	if status, got := ask(t, http.MethodGet, srv.URL+at+"yesterday", ""); status != http.StatusBadRequest {
		t.Errorf("%d %s", status, got)
	}
	srv = serve(t, web.Config{Simulator: &fakeSimulator{err: errors.New("disk on fire")}})
	if status, got := ask(t, http.MethodGet, srv.URL+at+"2026-11-01T00:00:00Z", ""); status != http.StatusInternalServerError {
		t.Errorf("%d %s", status, got)
	}
}
