package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// ownContent is a repository with one manifest and one blob.
type ownContent struct {
	manifest, blob string
	err            error
}

func (o ownContent) Manifest(_ context.Context, reference string) (string, []byte, error) {
	switch {
	case o.err != nil:
		return "", nil, o.err
	case reference == "2", reference == digest.FromString(o.manifest).String():
		return pratique.MediaTypeImageManifest, []byte(o.manifest), nil
	}
	return "", nil, fmt.Errorf("%w: here", pratique.ErrNotFound)
}

func (o ownContent) Blob(_ context.Context, d digest.Digest) (int64, func(int64) (io.ReadCloser, error), error) {
	switch {
	case o.err != nil:
		return 0, nil, o.err
	case d == digest.FromString(o.blob):
		return int64(len(o.blob)), func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader([]byte(o.blob)[offset:])), nil
		}, nil
	}
	return 0, nil, fmt.Errorf("%w: here", pratique.ErrNotFound)
}

func (o ownContent) Tags(context.Context) ([]string, error) { return []string{"2"}, o.err }

type later struct{}

func (later) Error() string        { return "it is being made" }
func (later) Delay() time.Duration { return 15 * time.Second }

// hasAll is a registry that has all that is asked for, and counts.
func hasAll(asked *int, names *[]string) Registry {
	saw := func(r Request) { *asked++; *names = append(*names, r.Ref.String()) }
	return registryFuncs{
		manifest: func(_ context.Context, r Request) (Manifest, error) {
			saw(r)
			return Manifest{Image: pratique.Image{Digest: digest.FromString("upstream"), MediaType: "x/y"}, Raw: []byte("upstream")}, nil
		},
		blob: func(_ context.Context, r Request) (Blob, error) {
			saw(r)
			return Blob{Digest: r.Ref.Digest, Size: 8, Open: func(int64) (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader("upstream")), nil
			}}, nil
		},
		tags: func(_ context.Context, r Request) (TagList, error) {
			saw(r)
			return TagList{Tags: []string{"upstream"}}, nil
		},
		referrers: func(_ context.Context, r Request) (Referrers, error) {
			saw(r)
			return Referrers{Index: []byte("upstream")}, nil
		},
	}
}

// TestOwn: what is Pratique's own is answered by it alone, and nothing else is.
func TestOwn(t *testing.T) {
	names, err := NewUpstreamIndex(map[string]string{"docker.io": "https://registry-1.docker.io", "lab": "http://10.0.0.5:5000", "other": "http://pratique"})
	if err != nil {
		t.Fatal(err)
	}
	content := ownContent{manifest: `{"schemaVersion":2}`, blob: "0123456789"}
	m, b, other := digest.FromString(content.manifest), digest.FromString(content.blob), digest.FromString("a layer of a refused image")
	var asked int
	var seen []string
	server := NewServer(NewCanary(NewOwn(hasAll(&asked, &seen), map[string]Own{"trivy-db": content})), ServerConfig{Upstreams: names, BareHead: true})
	const mine, theirs = "mine", "upstream"
	for _, tc := range []struct {
		path, header string
		status       int
		body         string // it holds; of GET
		who          string // answers; empty: nobody
	}{
		{"/v2/pratique/trivy-db/manifests/2", "", 200, content.manifest, mine},
		{"/v2/pratique/trivy-db/manifests/" + m.String(), "", 200, content.manifest, mine},
		{"/v2/pratique/trivy-db/blobs/" + b.String(), "", 200, content.blob, mine},
		{"/v2/pratique/trivy-db/blobs/" + b.String(), "Range: bytes=3-5", 206, "345", mine},
		{"/v2/pratique/trivy-db/blobs/" + b.String(), "Range: bytes=20-", 416, "", ""},
		{"/v2/pratique/trivy-db/blobs/" + b.String(), `If-None-Match: "` + b.String() + `"`, 304, "", ""},
		{"/v2/pratique/trivy-db/tags/list", "", 200, `{"name":"pratique/trivy-db","tags":["2"]}`, mine},
		{"/v2/pratique/trivy-db/tags/list?n=1&last=2", "", 200, `"tags":[]`, mine},
		{"/v2/pratique/trivy-db/referrers/" + m.String(), "", 200, `"manifests":[]`, mine},

		// Whatever is not there is not there, and no upstream is asked for it.
		{"/v2/pratique/trivy-db/manifests/1", "", 404, "MANIFEST_UNKNOWN", ""},
		{"/v2/pratique/trivy-db/manifests/latest", "", 404, "MANIFEST_UNKNOWN", ""},
		{"/v2/pratique/trivy-db/manifests/" + b.String(), "", 404, "MANIFEST_UNKNOWN", ""},
		{"/v2/pratique/trivy-db/manifests/" + other.String(), "", 404, "MANIFEST_UNKNOWN", ""},
		{"/v2/pratique/trivy-db/blobs/" + other.String(), "", 404, "BLOB_UNKNOWN", ""},
		{"/v2/pratique/trivy-db/blobs/" + m.String(), "", 404, "BLOB_UNKNOWN", ""},
		{"/v2/pratique/trivy-java-db/manifests/1", "", 404, "NAME_UNKNOWN", ""},
		{"/v2/pratique/trivy-db/deep/manifests/2", "", 404, "NAME_UNKNOWN", ""},
		{"/v2/pratique/library/nginx/manifests/1", "", 404, "NAME_UNKNOWN", ""},
		{"/v2/pratique/library/nginx/blobs/" + other.String(), "", 404, "NAME_UNKNOWN", ""},
		{"/v2/pratique/library/nginx/tags/list", "", 404, "NAME_UNKNOWN", ""},
		{"/v2/pratique/library/nginx/referrers/" + other.String(), "", 404, "NAME_UNKNOWN", ""},
		{"/v2/pratique/docker.io/library/nginx/manifests/1", "", 404, "NAME_UNKNOWN", ""},
		{"/v2/pratique/pratique/trivy-db/manifests/2", "", 404, "NAME_UNKNOWN", ""},
		{"/v2/pratique/pratique-canary/manifests/2", "", 403, "gate/canary", ""},
		{"/v2/pratique/manifests/2", "", 400, "NAME_INVALID", ""},
		{"/v2/pratique/TRIVY-DB/manifests/2", "", 400, "NAME_INVALID", ""},
		{"/v2/pratique//trivy-db/manifests/2", "", 400, "NAME_INVALID", ""},
		{"/v2/pratique/../lab/app/manifests/2", "", 400, "NAME_INVALID", ""},
		{"/v2/pratique%2ftrivy-db/manifests/2", "", 400, "NAME_INVALID", ""},
		{"/v2/PRATIQUE/trivy-db/manifests/2", "", 403, "not configured", ""},
		{"/v2/pratiquex/trivy-db/manifests/2", "", 403, "not configured", ""},

		// A namespace is an upstream's, and an upstream's repositories may have any name.
		{"/v2/trivy-db/manifests/2?ns=pratique", "", 200, theirs, theirs}, // the host of "other"
		{"/v2/pratique/trivy-db/manifests/2?ns=pratique", "", 200, theirs, theirs},
		{"/v2/pratique/trivy-db/manifests/2?ns=docker.io", "", 200, theirs, theirs},
		{"/v2/pratique/trivy-db/blobs/" + b.String() + "?ns=lab", "", 200, theirs, theirs},
		{"/v2/pratique/trivy-db/manifests/2?ns=", "", 403, "not configured", ""},
		{"/v2/pratique/trivy-db/manifests/2?ns=docker.io&ns=pratique", "", 400, "NAME_INVALID", ""},
		{"/v2/lab/pratique/trivy-db/manifests/2", "", 200, theirs, theirs},
		{"/v2/docker.io/pratique/trivy-db/tags/list", "", 200, theirs, theirs},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			asked, seen = 0, nil
			r := httptest.NewRequestWithContext(t.Context(), method, tc.path, nil)
			if name, value, ok := strings.Cut(tc.header, ": "); ok {
				r.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			server.ServeHTTP(w, r)
			status := tc.status
			switch {
			case method == http.MethodGet:
			case status == 206 || status == 416: // a HEAD has no ranges
				status = 200
			case status == 403 && tc.body == "not configured":
				status = 200 // bare
			}
			if w.Code != status || (asked > 0) != (tc.who == theirs) {
				t.Errorf("%s %s %s = %d, upstreams were asked for %v; want %d from %q", method, tc.path, tc.header, w.Code, seen, status, tc.who)
			}
			if method == http.MethodGet && !strings.Contains(w.Body.String(), tc.body) {
				t.Errorf("%s: %q, want %q", tc.path, w.Body, tc.body)
			}
			for _, r := range seen {
				if strings.HasPrefix(r, OwnName+"/") {
					t.Errorf("%s: %s led on", tc.path, r)
				}
			}
			if strings.Contains(tc.path, "/manifests/") && tc.who == mine && w.Header().Get("Docker-Content-Digest") != m.String() {
				t.Errorf("%s %s: headers %v", method, tc.path, w.Header())
			}
		}
	}
}

// TestOwnFails: what is not there yet is 503 with a time, another failure is 500,
// and a blob that goes while it is asked for is unknown.
func TestOwnFails(t *testing.T) {
	b := digest.FromString("x")
	for _, tc := range []struct {
		name   string
		err    error
		status int
		after  string
		code   Code
	}{
		{"not yet", later{}, 503, "15", CodeTooManyRequests},
		{"the disk", errors.New("input/output error"), 500, "", codeInternal},
	} {
		server := NewServer(NewOwn(refusing{}, map[string]Own{"trivy-db": ownContent{err: tc.err}}), ServerConfig{})
		for _, path := range []string{"manifests/2", "manifests/" + b.String(), "blobs/" + b.String(), "tags/list"} {
			w := httptest.NewRecorder()
			server.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/pratique/trivy-db/"+path, nil))
			got := []string{fmt.Sprint(w.Code), w.Header().Get("Retry-After"), fmt.Sprint(strings.Contains(w.Body.String(), string(tc.code)))}
			if diff := cmp.Diff([]string{fmt.Sprint(tc.status), tc.after, "true"}, got); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", tc.name, path, diff)
			}
		}
	}
	// Nothing is served: the names are there all the same, and lead nowhere.
	for _, path := range []string{"trivy-db/manifests/2", "trivy-db/tags/list", "trivy-db/blobs/" + b.String(), "x/referrers/" + b.String()} {
		w := httptest.NewRecorder()
		asked := 0
		NewServer(NewOwn(hasAll(&asked, new([]string)), nil), ServerConfig{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/pratique/"+path, nil))
		if w.Code != http.StatusNotFound || asked > 0 {
			t.Errorf("switched off, %s: %d %s, %d led on", path, w.Code, w.Body, asked)
		}
	}
	gone := goneBlob{ownContent{blob: "x"}}
	w := httptest.NewRecorder()
	NewServer(NewOwn(refusing{}, map[string]Own{"trivy-db": gone}), ServerConfig{}).ServeHTTP(w,
		httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/pratique/trivy-db/blobs/"+b.String(), nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("a blob that is gone is answered %d", w.Code)
	}
}

type goneBlob struct{ ownContent }

func (goneBlob) Blob(context.Context, digest.Digest) (int64, func(int64) (io.ReadCloser, error), error) {
	return 1, func(int64) (io.ReadCloser, error) { return nil, fmt.Errorf("%w: removed", pratique.ErrNotFound) }, nil
}

// TestNobodyHasOurName: no upstream can be what Pratique serves itself.
func TestNobodyHasOurName(t *testing.T) {
	if _, err := NewUpstreamIndex(map[string]string{OwnName: "https://registry.example"}); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("%v", err)
	}
}
