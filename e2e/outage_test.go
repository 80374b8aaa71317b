//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOutageUnderEveryRule: what is cached and may be had goes on being had when
// its upstream is gone, under rules that look at signatures, tags, versions, bases
// and lists of exploits, whose answers have all become old; through a restart too.
// What none of that was known of is not let through for it.
func TestOutageUnderEveryRule(t *testing.T) {
	t.Parallel() // waits most of the time
	u := StartUpstream(t)
	release := newSigner(t)
	img := archived(t, "debian-bookworm-patched-skeleton")
	used := u.Push(t, labelled(t, img, "used"), "demo/outage:1.0.0")
	release.sign(t, u, "demo/outage", used)
	child := labelled(t, img, "child")
	index := pushIndex(t, u, "demo/outage:2.0.0", child, labelled(t, img, "other"))
	release.sign(t, u, "demo/outage", index)
	u.Push(t, labelled(t, img, "unsigned"), "demo/outage:unsigned")
	kev := filepath.Join(workdir(t, "kev"), "kev.json")
	list := fmt.Sprintf(`{"dateReleased": %q, "count": 1, "vulnerabilities": [{"cveID": "CVE-2021-44228", "dateAdded": "2021-12-10"}]}`, time.Now().UTC().Format(time.RFC3339))
	if err := os.WriteFile(kev, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	extra := trusting(t, release.public, onlySigned+`
  - {name: no-latest, match: {tag: [latest]}, always: {}, action: deny}
  - {name: moved, tagMoved: {longerThan: 1s}, action: deny}
  - {name: old, outdated: {within: patch, longerThan: 1s}, action: deny}
  - {name: base, baseOutdated: {longerThan: 1s}, action: deny}
  - {name: exploited, vulnerability: {kev: true}, action: deny, grace: 1d}
  - {name: unused, unusedFor: {longerThan: 90d}, action: deny}
`)
	extra = strings.Replace(extra, "trust: {", "trust: {recheck: 1m, ", 1) + fmt.Sprintf("exploits: {kev: %q}\n", kev)
	p := StartPratique(t, u, Options{TagTTL: "1s", Hold: 10 * time.Second, Extra: extra})
	layers, err := child.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	had := []string{"demo/outage:1.0.0", "demo/outage@" + used, "demo/outage:2.0.0", "demo/outage@" + index, "demo/outage@" + digestOf(t, child)}
	all := func(when string) {
		t.Helper()
		for _, name := range had {
			if status, body, _ := p.status(t, name); status != http.StatusOK {
				t.Errorf("%s, %s: %d %s", when, name, status, body)
			}
		}
		if res, _ := p.Do(t, http.MethodGet, "/v2/docker.io/demo/outage/blobs/"+layer.String(), nil); res.StatusCode != http.StatusOK {
			t.Errorf("%s, a layer: %s", when, res.Status)
		}
	}
	for _, name := range had {
		p.becomes(t, name, http.StatusOK, 40*time.Second)
	}
	p.becomes(t, "demo/outage:unsigned", http.StatusForbidden, 40*time.Second)
	res, _ := p.Do(t, http.MethodGet, "/v2/docker.io/demo/outage/blobs/"+layer.String(), nil)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("a layer: %s", res.Status)
	}

	u.Stop()
	all("at once")
	time.Sleep(62 * time.Second) // verdicts are no longer remembered, signatures are to be looked for again
	all("a minute later")
	p.Stop()
	p.Start(t)
	all("after a restart")
	if status, body, _ := p.status(t, "demo/outage:unsigned"); status != http.StatusForbidden {
		t.Errorf("what was refused: %d %s", status, body)
	}
}
