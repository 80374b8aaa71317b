package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique/proxy"
)

// TestPublicUpstreamLeadsInside: an upstream that is not configured as private
// must not lead Pratique to a private address, by a redirect or by the realm of
// its challenge. Everything here is on loopback, so the upstream's own address,
// and no other, is let through as if it were public.
func TestPublicUpstreamLeadsInside(t *testing.T) {
	asked := 0
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer inside.Close()
	lead := http.NotFound
	public := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { lead(w, r) }))
	defer public.Close()

	c, err := New("lab", Config{URL: public.URL, RetryPause: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dialer := net.Dialer{ControlContext: func(ctx context.Context, network, address string, raw syscall.RawConn) error {
		if "http://"+address == public.URL {
			return nil
		}
		return guard(false)(ctx, network, address, raw)
	}}
	c.http.Transport.(*http.Transport).DialContext = dialer.DialContext

	_, port, _ := strings.Cut(strings.TrimPrefix(inside.URL, "http://"), ":")
	for name, f := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, inside.URL, http.StatusTemporaryRedirect)
		},
		"redirect to a name": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://localhost:"+port, http.StatusTemporaryRedirect)
		},
		"realm": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, inside.URL))
			w.WriteHeader(http.StatusUnauthorized)
		},
	} {
		t.Run(name, func(t *testing.T) {
			lead = f
			_, _, err := c.Manifest(t.Context(), "app", "v1")
			check := func(err error) {
				t.Helper()
				var e *proxy.Error
				if !errors.Is(err, errForbidden) || !errors.As(err, &e) || e.Status() != http.StatusBadGateway {
					t.Errorf("%v, want a 502 for a forbidden address", err)
				}
			}
			check(err)
			_, _, err = c.Blob(t.Context(), "app", digest.FromString("x"), 0)
			check(err)
		})
	}
	if asked > 0 {
		t.Errorf("the private address was asked %d times", asked)
	}
}
