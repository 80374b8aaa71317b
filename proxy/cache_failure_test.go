package proxy_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
)

func TestUpstreamDown(t *testing.T) {
	never := make(chan struct{})
	for name, fault := range map[string]proxytest.Fault{
		"503":   proxytest.Status(503),
		"504":   proxytest.Status(504),
		"429":   proxytest.Status(429),
		"reset": proxytest.Reset(),
		"stall": proxytest.Stall(-1, never),
	} {
		t.Run(name, func(t *testing.T) {
			p := newStalling(t, time.Second, func(cfg *proxy.CacheConfig) { cfg.RevalidateTimeout = 100 * time.Millisecond })
			d, _ := p.lab.Image("app", "v1")
			p.mustManifest("lab/app:v1", d)
			p.lab.Fault("", 0, fault)
			p.wait(24 * time.Hour)
			if m := p.mustManifest("lab/app:v1", d); !m.Stale || !m.Hit {
				t.Errorf("a day later: %+v", m)
			}
			if m := p.mustManifest("lab/app@"+d.String(), d); m.Stale {
				t.Error("a digest is never stale")
			}
			p.wait(time.Second)
			if _, err := p.manifest("lab/app:v1"); !proxy.Down(err) {
				t.Errorf("too old: %v", err)
			}
			p.mustManifest("lab/app@"+d.String(), d)
			if _, err := p.manifest("lab/app:other"); !proxy.Down(err) {
				t.Errorf("a tag never seen: %v", err)
			}
			if _, err := p.manifest("lab/app@" + digest.FromString("x").String()); !proxy.Down(err) {
				t.Errorf("a digest never seen: %v", err)
			}
			p.lab.Heal()
		})
	}
}

// What the upstream says now is not overruled by what it said before.
func TestAnswersAreNoOutage(t *testing.T) {
	for name, tt := range map[string]struct {
		fault  proxytest.Fault
		code   proxy.Code
		status int
	}{
		"403": {proxytest.Status(403), proxy.CodeDenied, 403},
		"401": {proxytest.Status(401), proxy.CodeDenied, 403},
		"404": {proxytest.Status(404), proxy.CodeManifestUnknown, 404},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPulled(t)
			d, _ := p.lab.Image("app", "v1")
			p.mustManifest("lab/app:v1", d)
			p.lab.Fault("", 0, tt.fault)
			p.wait(time.Hour)
			_, err := p.manifest("lab/app:v1")
			wants(t, err, tt.code, tt.status)
		})
	}
}

// What cannot be parsed is refused with the reason and leaves nothing.
func TestManifestsThatAreNone(t *testing.T) {
	for name, tt := range map[string]struct {
		mediaType, raw, reason string
	}{
		"schema 1":     {pratique.MediaTypeSignedSchema1, `{"schemaVersion":1,"fsLayers":[]}`, "schema 1 is not supported"},
		"no JSON":      {pratique.MediaTypeImageManifest, `hello`, "invalid"},
		"unknown type": {"application/vnd.example+json", `{"schemaVersion":2,"mediaType":"application/vnd.example+json"}`, "not supported"},
		"both": {pratique.MediaTypeImageIndex,
			`{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("a", 64) + `"},"manifests":[{"digest":"sha256:` + strings.Repeat("a", 64) + `"}]}`, "both"},
		"bad digest": {pratique.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[{"digest":"sha256:../x"}]}`, "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPulled(t)
			d := p.lab.Manifest("app", "v1", tt.mediaType, []byte(tt.raw))
			for _, s := range []string{"lab/app:v1", "lab/app@" + d.String()} {
				_, err := p.manifest(s)
				if e := wants(t, err, proxy.CodeManifestInvalid, 400); !strings.Contains(e.Message, tt.reason) {
					t.Errorf("%s: %q does not say %q", s, e.Message, tt.reason)
				}
			}
			if p.exists(d) {
				t.Error("it was kept")
			}
		})
	}
}

// Bytes, then the link, then the tag: whatever fails, what is recorded is true
// and asking again completes it.
func TestOrderOfWrites(t *testing.T) {
	for _, method := range []string{"Link", "Image"} {
		t.Run(method, func(t *testing.T) {
			p := newPulled(t)
			d, _ := p.lab.Image("app", "v1")
			boom := errors.New("boom")
			p.state.Fail = func(m string) error {
				if m == method {
					return boom
				}
				return nil
			}
			if _, err := p.manifest("lab/app:v1"); !errors.Is(err, boom) {
				t.Fatalf("got %v", err)
			}
			p.state.Fail = nil
			if _, err := p.blobs.Stat(t.Context(), d); err != nil {
				t.Errorf("the bytes come first: %v", err)
			}
			_, tagErr := p.state.Tag(t.Context(), ref(t, "lab/app:v1"))
			if !errors.Is(tagErr, pratique.ErrNotFound) {
				t.Errorf("the tag comes last: %v", tagErr)
			}
			p.mustManifest("lab/app:v1", d)
		})
	}
}

// A disk that is full stops nothing that is cached: a tag is still revalidated,
// and only new content fails.
func TestTagThatCannotBeRecorded(t *testing.T) {
	p := newPulled(t)
	d, _ := p.lab.Image("app", "v1")
	p.mustManifest("lab/app:v1", d)
	p.lab.Seen()
	p.state.Fail = func(method string) error {
		if strings.HasPrefix(method, "Set") || method == "Link" {
			return syscall.ENOSPC
		}
		return nil
	}
	p.wait(time.Hour)
	p.mustManifest("lab/app:v1", d)
	p.lab.Expect("HEAD /v2/app/manifests/v1")
	if got, err := p.Tags(t.Context(), proxy.Request{Ref: ref(t, "lab/app:v1"), N: -1}); err != nil || len(got.Tags) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	p.lab.Image("app", "v1", []byte("new"))
	p.wait(time.Hour)
	_, err := p.manifest("lab/app:v1")
	wants(t, err, proxy.CodeTooManyRequests, 503)
}

// A store that fails is an error, not an empty cache.
func TestStateFails(t *testing.T) {
	p := newPulled(t)
	layer := []byte("layer")
	d, _ := p.lab.Image("app", "v1", layer)
	p.mustManifest("lab/app:v1", d)
	p.lab.Seen()
	p.wait(time.Hour)
	boom := errors.New("boom")
	p.state.Fail = func(string) error { return boom }
	r := proxy.Request{Ref: ref(t, "lab/app@"+digest.FromBytes(layer).String()), N: -1}
	if _, err := p.Blob(t.Context(), r); !errors.Is(err, boom) {
		t.Errorf("Blob: %v", err)
	}
	if _, err := p.manifest("lab/app:v1"); !errors.Is(err, boom) {
		t.Errorf("Manifest: %v", err)
	}
	if _, err := p.Tags(t.Context(), r); !errors.Is(err, boom) {
		t.Errorf("Tags: %v", err)
	}
	p.lab.Expect()
}

// A manifest that the disk changed is fetched again, not served.
func TestSpoiltManifest(t *testing.T) {
	p := newPulled(t)
	d, raw := p.lab.Image("app", "v1")
	p.mustManifest("lab/app:v1", d)
	path := filepath.Join(p.dir, "blobs", "sha256", d.Encoded()[:2], d.Encoded())
	if err := os.WriteFile(path, []byte(strings.Replace(string(raw), "2", "3", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.lab.Seen()
	p.mustManifest("lab/app:v1", d)
	p.lab.Expect("GET /v2/app/manifests/" + d.String())
	if err := os.Remove(path); err != nil { // lost altogether
		t.Fatal(err)
	}
	p.start()
	p.mustManifest("lab/app@"+d.String(), d)
	p.lab.Expect("GET /v2/app/manifests/" + d.String())
}

// A full disk is said clearly and is no 404.
func TestDiskFullIsUnavailable(t *testing.T) {
	p := newPulled(t)
	p.lab.Image("app", "v1")
	p.state.Fail = func(method string) error {
		if method == "Link" {
			return &os.PathError{Op: "write", Path: "/secret/path", Err: syscall.ENOSPC}
		}
		return nil
	}
	_, err := p.manifest("lab/app:v1")
	e := wants(t, err, proxy.CodeTooManyRequests, 503)
	if e.RetryAfter == 0 || strings.Contains(e.Message, "secret") || !strings.Contains(e.Message, "full") {
		t.Errorf("%+v", e)
	}
}
