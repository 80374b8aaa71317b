package proxy_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
)

// TestRevalidate: the upstream is asked whatever TagTTL says, and the next pull
// knows the answer.
func TestRevalidate(t *testing.T) {
	p := newPulled(t)
	const head, get = "HEAD /v2/app/manifests/v1", "GET /v2/app/manifests/"
	want := func(d digest.Digest, moved bool) {
		t.Helper()
		got, gotMoved, err := p.Revalidate(t.Context(), ref(t, "lab/app:v1"))
		if err != nil || got != d || gotMoved != moved {
			t.Fatalf("%s, moved %v, %v; want %s, moved %v", got, gotMoved, err, d, moved)
		}
	}
	want("", false) // never there
	p.lab.Expect(get + "v1")
	first, _ := p.lab.Image("app", "v1", []byte("one"))
	want(first, true)
	p.lab.Expect(get + "v1")
	want(first, false)
	p.lab.Expect(head)
	p.mustManifest("lab/app:v1", first)
	p.lab.Expect()

	second, _ := p.lab.Image("app", "v1", []byte("two"))
	p.mustManifest("lab/app:v1", first) // TagTTL
	want(second, true)
	p.lab.Expect(head, get+second.String())
	if m := p.mustManifest("lab/app:v1", second); !m.Hit {
		t.Error("no hit")
	}
	p.lab.Expect()

	down(p.lab)
	if _, _, err := p.Revalidate(t.Context(), ref(t, "lab/app:v1")); !proxy.Down(err) {
		t.Errorf("upstream down: %v", err)
	}
	p.mustManifest("lab/app:v1", second)
	p.lab.Heal()
	p.lab.Seen()

	p.lab.Untag("app", "v1")
	want("", true)
	p.lab.Expect(head)
	_, err := p.manifest("lab/app:v1")
	wants(t, err, proxy.CodeManifestUnknown, 404)
	down(p.lab)
	if _, err := p.manifest("lab/app:v1"); !proxy.Down(err) {
		t.Errorf("a deleted tag came back: %v", err)
	}
}

func TestRevalidateWhatIsNoTag(t *testing.T) {
	p := newPulled(t)
	d, _ := p.lab.Image("app", "v1")
	if _, _, err := p.Revalidate(t.Context(), ref(t, "lab/app@"+d.String())); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("by digest: %v", err)
	}
	_, _, err := p.Revalidate(t.Context(), ref(t, "other/app:v1"))
	wants(t, err, proxy.CodeDenied, 403)
	p.lab.Expect()
}

// An answer that was given before the call is not what the caller wants to
// know, though it may still be on its way.
func TestRevalidateDoesNotBelieveAnOlderQuestion(t *testing.T) {
	p := newPulled(t)
	first, _ := p.lab.Image("app", "v1", []byte("one"))
	p.mustManifest("lab/app:v1", first)
	p.wait(time.Minute)
	answered, release := make(chan struct{}), make(chan struct{})
	p.lab.Fault("HEAD /v2/app/manifests/v1", 1, proxytest.Fault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		close(answered)
		<-release
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
	}))
	pulled := make(chan error, 1)
	go func() {
		_, err := p.manifest("lab/app:v1")
		pulled <- err
	}()
	<-answered
	second, _ := p.lab.Image("app", "v1", []byte("two"))
	type answer struct {
		d     digest.Digest
		moved bool
		err   error
	}
	asked := make(chan answer, 1)
	go func() {
		d, moved, err := p.Revalidate(t.Context(), ref(t, "lab/app:v1"))
		asked <- answer{d, moved, err}
	}()
	time.Sleep(10 * time.Millisecond) // so that it joins, mostly; it must be right in any case
	close(release)
	if err := <-pulled; err != nil {
		t.Error(err)
	}
	if got := <-asked; got != (answer{second, true, nil}) {
		t.Errorf("%+v, want %s", got, second)
	}
	p.mustManifest("lab/app:v1", second)
}
