//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"testing"

	"pratique/tools/images"
)

// TestVerdictsAreRecalled: the server is wired so that a warm pull is decided
// from memory, whatever way leads to it, and what is refused stays refused.
func TestVerdictsAreRecalled(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	for _, c := range []struct {
		sample string
		status int
	}{{images.Clean, http.StatusOK}, {images.Vulnerable, http.StatusForbidden}, {images.MultiArch, http.StatusOK}, {images.AllRefused, http.StatusForbidden}} {
		path := "/v2/docker.io/" + strings.Replace(c.sample, ":", "/manifests/", 1)
		before := 0.0
		for range 3 {
			before = p.Metric(t, "pratique_gate_recalled_total")
			if res, body := p.Do(t, http.MethodGet, path, nil); res.StatusCode != c.status {
				t.Errorf("%s = %s, want %d: %s", c.sample, res.Status, c.status, body)
			}
		}
		if after := p.Metric(t, "pratique_gate_recalled_total"); after <= before {
			t.Errorf("%s: decided anew by a request that changed nothing", c.sample)
		}
	}
}
