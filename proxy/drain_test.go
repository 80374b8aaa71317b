package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"pratique"
)

// TestDrain: who is in goes on to the end, who comes later is turned away, and
// Wait returns when the last one has ended.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := NewDrain(
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { <-release; _, _ = io.WriteString(w, "content") }),
			NewServer(Closed(), ServerConfig{Upstreams: mustIndex(t)}),
		)
		ask := func(path string) <-chan *httptest.ResponseRecorder {
			answered := make(chan *httptest.ResponseRecorder, 1)
			go func() {
				rec := httptest.NewRecorder()
				d.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
				answered <- rec
			}()
			synctest.Wait()
			return answered
		}
		running := ask("/v2/docker.io/app/manifests/1")

		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if left, err := d.Wait(short); left != 1 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait = %d, %v, want the one that runs", left, err)
		}
		for _, path := range []string{
			"/v2/docker.io/app/manifests/1", "/v2/docker.io/app/blobs/sha256:" + emptyHex, "/v2/docker.io/app/tags/list",
			"/v2/docker.io/app/referrers/sha256:" + emptyHex,
		} {
			select {
			case late := <-ask(path):
				if late.Code != http.StatusServiceUnavailable || late.Header().Get("Retry-After") == "" {
					t.Errorf("%s while draining = %d, Retry-After %q", path, late.Code, late.Header().Get("Retry-After"))
				}
			default:
				t.Errorf("%s was let in while draining", path)
			}
		}
		waited := make(chan error, 1)
		go func() { _, err := d.Wait(t.Context()); waited <- err }()
		synctest.Wait()
		select {
		case err := <-waited:
			t.Errorf("Wait returned (%v) with a request running", err)
		default:
		}
		close(release)
		if rec := <-running; rec.Code != http.StatusOK || rec.Body.String() != "content" {
			t.Errorf("the running request ended with %d %q", rec.Code, rec.Body)
		}
		if err := <-waited; err != nil {
			t.Error(err)
		}
	})
}

const emptyHex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func mustIndex(t *testing.T) *UpstreamIndex {
	t.Helper()
	x, err := NewUpstreamIndex(map[string]string{"docker.io": "https://registry-1.docker.io"})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestUse: another set of upstreams is asked from the next request on; one that
// is gone is not, and what it brought is not served either.
func TestUse(t *testing.T) {
	c := &Cache{}
	first, second := Upstream(nil), Upstream(nil)
	c.Use(map[string]Upstream{"a": first, "b": first})
	c.Use(map[string]Upstream{"b": second, "c": second})
	for key, want := range map[string]bool{"a": false, "b": true, "c": true} {
		_, err := c.upstream(pratique.Ref{Registry: key})
		var e *Error
		if want && err != nil || !want && (!errors.As(err, &e) || e.Code != CodeDenied) {
			t.Errorf("upstream %s: %v", key, err)
		}
	}
}
