package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// redirecting gives an address for every blob: one that tells the content, so that a
// test sees it leak.
type redirecting struct {
	*world
	err error
}

func (r redirecting) Blob(ctx context.Context, q Request) (Blob, error) {
	b, err := r.world.Blob(ctx, q)
	if err != nil {
		return b, err
	}
	body, err := b.Open(0)
	if err != nil {
		return b, err
	}
	defer body.Close()
	content := make([]byte, b.Size)
	if _, err := body.Read(content); err != nil {
		return b, err
	}
	b.Redirect = func(context.Context) (string, error) {
		return "http://objects.invalid/" + fmt.Sprintf("%q", content) + "?X-Amz-Signature=secret", r.err
	}
	return b, nil
}

// No attack on the gate gets the address of what it does not get itself.
func TestBypassRedirect(t *testing.T) {
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			b := besiege(t, GateConfig{})
			b.see(t)
			b.testServer = serve(t, b.w.gateOver(redirecting{world: b.w}, GateConfig{Hold: 20 * time.Millisecond}), true)
			noFollow(b.testServer)
			got := a.run(t, b)
			for _, secret := range b.refused {
				if strings.Contains(got, secret) {
					t.Errorf("leaked %s:\n%s", secret, got)
				}
			}
		})
	}
}

func noFollow(s *testServer) {
	s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
}

func TestRedirect(t *testing.T) {
	b := besiege(t, GateConfig{})
	b.see(t)
	good := prefix("blobs", layerOf("good").String())
	tests := []struct {
		name   string
		method string
		path   string
		header []string
		err    error
		want   int
	}{
		{"GET", http.MethodGet, good, nil, nil, http.StatusTemporaryRedirect},
		{"a range is asked for there", http.MethodGet, good, []string{"Range", "bytes=3-"}, nil, http.StatusTemporaryRedirect},
		{"HEAD is answered here", http.MethodHead, good, nil, nil, http.StatusOK},
		{"what the client has is sent from nowhere", http.MethodGet, good, []string{"If-None-Match", `"` + layerOf("good").String() + `"`}, nil, http.StatusNotModified},
		{"no address: the bytes", http.MethodGet, good, nil, errors.New("no credentials"), http.StatusOK},
		{"refused", http.MethodGet, prefix("blobs", layerOf("bad").String()), nil, nil, http.StatusForbidden},
		{"never scanned", http.MethodGet, prefix("blobs", layerOf("fresh").String()), nil, nil, http.StatusTooManyRequests},
		{"a manifest as a blob", http.MethodGet, prefix("blobs", b.bad.Digest.String()), nil, nil, http.StatusForbidden},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, b.w.gateOver(redirecting{b.w, tt.err}, GateConfig{Hold: 1}), false)
			noFollow(s)
			resp, body := s.do(t, tt.method, tt.path, tt.header...)
			if resp.StatusCode != tt.want {
				t.Fatalf("%s %s", resp.Status, body)
			}
			location := resp.Header.Get("Location")
			if (location != "") != (tt.want == http.StatusTemporaryRedirect) {
				t.Errorf("Location %q", location)
			}
			if location != "" {
				if d := resp.Header.Get("Docker-Content-Digest"); d != layerOf("good").String() || body != "" || resp.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("digest %q, body %q, %v", d, body, resp.Header)
				}
			}
			s.lines(t, 1)
			if strings.Contains(s.log.String(), "Signature") || strings.Contains(s.log.String(), "objects.invalid") {
				t.Errorf("the address is in the log: %s", s.log.String())
			}
		})
	}
}
