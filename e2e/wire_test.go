//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"pratique/tools/images"
)

// manifestPath is where a client asks for a sample, in the prefix form.
func manifestPath(sample string) string {
	return "/v2/docker.io/" + strings.Replace(sample, ":", "/manifests/", 1)
}

// TestHead: HEAD of what may be had carries digest and length; of what may not,
// or is not decided, it is bare, so that a client asks by GET and is told.
func TestHead(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	bare, plain := StartPratique(t, u, Options{}), StartPratique(t, u, Options{Head: "403"})
	for _, p := range []*Pratique{bare, plain} {
		for _, c := range []pullCase{{sample: images.Clean}, {sample: images.Vulnerable, refused: true}} {
			c.check(t, newCrane(t, p), u) // decided from here on
		}
	}
	tests := map[string]struct {
		p      *Pratique
		sample string
		status int
		digest bool
	}{
		"allowed":            {bare, images.Clean, http.StatusOK, true},
		"refused, bare":      {bare, images.Vulnerable, http.StatusOK, false},
		"refused, with 403":  {plain, images.Vulnerable, http.StatusForbidden, false},
		"allowed, with 403":  {plain, images.Clean, http.StatusOK, true},
		"unknown is unknown": {bare, "demo/none:1.0", http.StatusNotFound, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			res, body := tc.p.Do(t, http.MethodHead, manifestPath(tc.sample), nil)
			if res.StatusCode != tc.status || body != "" {
				t.Errorf("HEAD = %s %q, want %d and nothing", res.Status, body, tc.status)
			}
			digest, length := res.Header.Get("Docker-Content-Digest"), res.ContentLength
			if tc.digest && (digest != u.Digest(t, tc.sample) || length <= 0) {
				t.Errorf("HEAD carries digest %q, length %d", digest, length)
			}
			if !tc.digest && tc.status == http.StatusOK && (digest != "" || length >= 0) {
				t.Errorf("HEAD is not bare: digest %q, length %d", digest, length)
			}
		})
	}

	t.Run("not decided: at once", func(t *testing.T) {
		u.SlowBlobs(10 * time.Second)
		defer u.Slow(nil)
		began := time.Now()
		res, _ := bare.Do(t, http.MethodHead, manifestPath(images.MultiArch), nil)
		if d := res.Header.Get("Docker-Content-Digest"); res.StatusCode != http.StatusOK || d != "" || res.ContentLength >= 0 {
			t.Errorf("HEAD = %s, digest %q, length %d, want it bare", res.Status, d, res.ContentLength)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("HEAD took %s: it must not wait for the scan", took)
		}
	})
}

// TestRefusalIsReadable: one line with the finding, what fixes it and the
// verdict up front, and the same in a form for programs.
func TestRefusalIsReadable(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	res, body := p.Do(t, http.MethodGet, manifestPath(images.Vulnerable), nil)
	if res.StatusCode != http.StatusForbidden {
		t.Fatalf("GET = %s %s", res.Status, body)
	}
	var answer struct {
		Errors []struct {
			Code, Message string
			Detail        struct {
				Verdict  struct{ ID string }
				Findings []struct{ ID, Package, Installed, Fixed string }
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || len(answer.Errors) != 1 {
		t.Fatalf("%v: %s", err, body)
	}
	e := answer.Errors[0]
	first := e.Message[:min(300, len(e.Message))]
	if e.Code != "DENIED" || strings.ContainsAny(e.Message, "\r\n") || len(e.Detail.Findings) == 0 {
		t.Fatalf("refusal: %s", body)
	}
	worst := e.Detail.Findings[0]
	fixed, _, _ := strings.Cut(worst.Fixed, ",") // one of several is enough
	for _, want := range []string{refusal, worst.ID, worst.Package, worst.Installed + " -> " + fixed, "verdict " + e.Detail.Verdict.ID} {
		if !strings.Contains(first, want) {
			t.Errorf("the first 300 characters lack %q:\n%s", want, first)
		}
	}
	for _, layer := range u.layers(t, images.Vulnerable) {
		res, body := p.Do(t, http.MethodGet, "/v2/docker.io/demo/vulnerable/blobs/"+layer, nil)
		if res.StatusCode != http.StatusForbidden || !strings.Contains(body, refusal) {
			t.Errorf("layer %s = %s %.100s, want the same 403", layer, res.Status, body)
		}
	}
}

// TestUnknownUpstream: nothing but what is configured is dialled, and the answer
// says what is.
func TestUnknownUpstream(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	for _, path := range []string{
		"/v2/ghcr.io/org/app/manifests/1.0", "/v2/org/app/manifests/1.0?ns=ghcr.io",
		"/v2/demo/clean/manifests/1.0?ns=169.254.169.254",
	} {
		res, body := p.Do(t, http.MethodGet, path, nil)
		if res.StatusCode != http.StatusForbidden || !strings.Contains(body, `"DENIED"`) || !strings.Contains(body, "docker.io, lab") {
			t.Errorf("%s = %s %s, want 403 DENIED that names docker.io, lab", path, res.Status, body)
		}
	}
	if n := len(u.Requests()); n != 0 {
		t.Errorf("%d requests went to the upstream", n)
	}
}
