package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pratique"
)

func TestCanaryIsAlwaysRefused(t *testing.T) {
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	names, err := NewUpstreamIndex(map[string]string{"docker.io": "https://registry-1.docker.io", "lab": "http://10.0.0.5:5000"})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	next := registryFuncs{
		manifest: func(_ context.Context, r Request) (Manifest, error) {
			asked++
			return Manifest{Image: pratique.Image{Digest: digest, MediaType: "x/y"}, Raw: []byte("{}")}, nil
		},
		blob: func(context.Context, Request) (Blob, error) {
			asked++
			return Blob{}, Errorf(CodeBlobUnknown, "no such blob")
		},
		tags: func(context.Context, Request) (TagList, error) { asked++; return TagList{}, nil },
		referrers: func(context.Context, Request) (Referrers, error) {
			asked++
			return Referrers{Index: []byte("{}")}, nil
		},
	}
	server := NewServer(NewCanary(next), ServerConfig{Upstreams: names, BareHead: true})
	for _, tc := range []struct {
		path    string
		refused bool
	}{
		{"/v2/docker.io/pratique-canary/refused/manifests/1", true},
		{"/v2/pratique-canary/refused/manifests/1?ns=docker.io", true},
		{"/v2/lab/pratique-canary/manifests/1", true},
		{"/v2/docker.io/pratique-canary/manifests/1", true},
		{"/v2/lab/team/pratique-canary/deep/manifests/" + digest, true},
		{"/v2/lab/xpratique-canary/pratique-canary/manifests/1", true},
		{"/v2/lab/team/pratique-canary/blobs/" + digest, true},
		{"/v2/lab/team/pratique-canary/tags/list", true},
		{"/v2/lab/team/pratique-canary/referrers/" + digest, true},
		{"/v2/lab/team/manifests/pratique-canary", false},
		{"/v2/lab/xpratique-canary/manifests/1", false},
		{"/v2/lab/pratique-canaryx/manifests/1", false},
		{"/v2/lab/a/pratique-canary2/b/manifests/1", false},
		{"/v2/lab/team/app/blobs/" + digest, false},
		{"/v2/lab/team/app/tags/list", false},
		{"/v2/lab/team/app/referrers/" + digest, false},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			asked = 0
			w := httptest.NewRecorder()
			server.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, tc.path, nil))
			// A bare HEAD would keep a node from falling back that otherwise would.
			if refused := w.Code == http.StatusForbidden; refused != tc.refused {
				t.Errorf("%s %s = %d, refused should be %t", method, tc.path, w.Code, tc.refused)
			}
			if (asked == 0) != tc.refused {
				t.Errorf("%s %s: the registry behind was asked %d times", method, tc.path, asked)
			}
			if !tc.refused || method == http.MethodHead {
				continue
			}
			var body struct {
				Errors []struct{ Code, Message string }
			}
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || len(body.Errors) != 1 ||
				body.Errors[0].Code != string(CodeDenied) || !strings.HasPrefix(body.Errors[0].Message, "refused by rule gate/canary: ") {
				t.Errorf("%s: %v: %s", tc.path, err, w.Body)
			}
		}
	}
}
