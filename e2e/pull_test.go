//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"testing"

	"pratique/tools/images"
)

// refusal is how every refusal of the shipped policy begins.
const refusal = "refused by rule default/fixable-critical: "

// pullCase is one line of the matrix: what is asked for and what must come of it.
type pullCase struct {
	name    string
	sample  string
	digest  bool   // ask by digest, not by tag
	arch    string // if empty, amd64
	refused bool
	again   bool // pulled again and again by TestSecondPull
}

var matrix = []pullCase{
	{name: "image by tag", sample: images.Clean, again: true},
	{name: "image by digest", sample: images.Clean, digest: true},
	{name: "index by tag", sample: images.MultiArch},
	{name: "index by digest", sample: images.MultiArch, digest: true, again: true},
	{name: "index by tag, other platform", sample: images.MultiArch, arch: "arm64"},
	{name: "refused image by tag", sample: images.Vulnerable, refused: true, again: true},
	{name: "refused image by digest", sample: images.Vulnerable, digest: true, refused: true},
	{name: "refused index by tag", sample: images.AllRefused, refused: true},
	{name: "refused index by digest", sample: images.AllRefused, digest: true, refused: true, again: true},
	{name: "index with one refused child, by that platform", sample: images.Mixed, refused: true},
	{name: "index with one refused child, by another platform", sample: images.Mixed, arch: "arm64"},
}

func (c pullCase) platform() string {
	if c.arch == "" {
		return "amd64"
	}
	return c.arch
}

// reference is what a person types after docker.io/.
func (c pullCase) reference(t testing.TB, u *Upstream) string {
	if !c.digest {
		return c.sample
	}
	repository, _, _ := strings.Cut(c.sample, ":")
	return repository + "@" + u.Digest(t, c.sample)
}

// check pulls and holds the result against the case.
func (c pullCase) check(t *testing.T, cl Client, u *Upstream) result {
	t.Helper()
	r := cl.Pull(t, c.reference(t, u), c.platform())
	child := u.Child(t, c.sample, c.platform())
	kept, keeps := cl.Manifest(t, digestOf(t, child))
	switch {
	case c.refused && r.exit == 0:
		t.Errorf("pulled, should have been refused:\n%s", r.output)
	case c.refused && keeps:
		t.Errorf("refused, but the client keeps its manifest:\n%s", r.output)
	case !c.refused && r.exit != 0:
		t.Errorf("exit code %d, should have been served:\n%s", r.exit, r.output)
	case !c.refused:
		want, err := child.RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		if string(kept) != string(want) {
			t.Errorf("the client keeps this manifest:\n%s\nupstream has\n%s", kept, want)
		}
	}
	return r
}

// TestPull is the matrix of clients and cases. What each client shows when it is
// refused is in docs/clients.md.
func TestPull(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	for _, client := range clients {
		t.Run(client.name, func(t *testing.T) {
			for _, c := range matrix {
				if client.nodeOnly && c.arch != "" {
					continue
				}
				t.Run(c.name, func(t *testing.T) {
					// A store of its own for each: what an earlier case left would be
					// taken for pulled.
					r := c.check(t, client.start(t, p), u)
					if c.refused {
						if !c.digest || c.sample != images.AllRefused { // reads as the image by digest
							shown(t, client.name, c.name, r.output, p, u)
						}
						if !strings.Contains(r.output, refusal) && !knownSilent(client.name, c) {
							t.Errorf("%s does not show why:\n%s", client.name, r.output)
						}
					}
				})
			}
		})
	}

	fetched := make(map[string]int)
	for _, r := range u.Requests() {
		if r.Blob() && r.Status == http.StatusOK {
			fetched[r.Path[strings.LastIndexByte(r.Path, '/'):]]++
		}
	}
	for blob, n := range fetched {
		if n != 1 {
			t.Errorf("upstream sent %s %d times", blob, n)
		}
	}
	if len(fetched) == 0 {
		t.Error("the tap saw no blob: it measures nothing")
	}
}

// knownSilent are the clients that show something else; docs/clients.md says
// what.
func knownSilent(client string, c pullCase) bool { return false }

// TestSecondPull: what was decided once costs no upstream content and no scan,
// is answered without the upstream, and after a restart too.
func TestSecondPull(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{TagTTL: "0s"})
	work := func() [3]float64 {
		return [3]float64{
			p.Metric(t, "pratique_scanner_analyses_total"),
			p.Metric(t, "pratique_scanner_scans_total"),
			p.Metric(t, "pratique_upstream_received_bytes_total"),
		}
	}
	everything := func(t *testing.T) {
		for _, client := range clients {
			for _, c := range matrix {
				if !c.again {
					continue
				}
				t.Run(client.name+"/"+c.name, func(t *testing.T) { c.check(t, client.start(t, p), u) })
			}
		}
	}

	for _, c := range matrix {
		c.check(t, newCrane(t, p), u)
	}
	first := work()
	if first[0] == 0 || first[1] == 0 || first[2] == 0 {
		t.Fatalf("first pulls counted analyses, scans, bytes = %v: nothing is measured", first)
	}
	u.Forget()

	t.Run("upstream up", func(t *testing.T) {
		everything(t)
		for _, r := range u.Requests() {
			if r.Method != http.MethodHead {
				t.Errorf("upstream was asked: %s", r)
			}
		}
		if again := work(); again[0] != first[0] || again[1] != first[1] {
			t.Errorf("analyses, scans = %v, were %v", again[:2], first[:2])
		}
	})

	u.Stop()
	t.Run("upstream stopped", everything)
	p.Stop()
	p.Start(t)
	t.Run("restarted, upstream stopped", func(t *testing.T) {
		everything(t)
		if again := work(); again != [3]float64{} {
			t.Errorf("after a restart, analyses, scans, bytes = %v, want none", again)
		}
	})
}
