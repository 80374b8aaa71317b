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

	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"pratique/tools/images"
)

// Databases of the repository, one of March and one of November: the second
// knows two HIGH findings of Debian 12 that the first does not.
const (
	olderDatabase = "testdata/database/old.tar.gz"
	newerDatabase = "testdata/database/new.tar.gz"
	aged          = "debian-bookworm-skeleton" // the image they differ on
)

// policies is the configuration's line for a policy with these rules, which
// serves what no rule is about.
func policies(t testing.TB, rules string) string {
	t.Helper()
	path := filepath.Join(workdir(t, "policy"), "house.yaml")
	if err := os.WriteFile(path, []byte("name: house\ndefault: allow\nrules:\n"+rules), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("policies: [%q]\n", path)
}

// archived is an image of the repository's archive.
func archived(t testing.TB, name string) v1.Image {
	t.Helper()
	set, err := images.Open(filepath.Join("..", images.Archive))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.Close() })
	img, err := set.Image(name)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// labelled is img as another image: what tests push as a later build of it.
func labelled(t testing.TB, img v1.Image, build string) v1.Image {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	if c.Config.Labels == nil {
		c.Config.Labels = make(map[string]string)
	}
	c.Config.Labels["build"] = build
	out, err := mutate.ConfigFile(img, c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Push puts an image into the registry behind the tap.
func (u *Upstream) Push(t testing.TB, img v1.Image, name string) string {
	t.Helper()
	if err := crane.Push(img, u.Addr+"/"+name, crane.Insecure, crane.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return digestOf(t, img)
}

// status is what a client's GET of a manifest is answered with, and the text.
func (p *Pratique) status(t testing.TB, name string) (int, string, http.Header) {
	t.Helper()
	repo, reference, _ := strings.Cut(name, ":")
	if r, d, ok := strings.Cut(name, "@"); ok {
		repo, reference = r, d
	}
	res, body := p.Do(t, http.MethodGet, "/v2/docker.io/"+repo+"/manifests/"+reference, http.Header{"Accept": {
		"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.index.v1+json",
	}})
	return res.StatusCode, body, res.Header
}

// becomes waits until the image is answered with a status.
func (p *Pratique) becomes(t testing.TB, name string, want int, within time.Duration) (string, http.Header) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		got, body, header := p.status(t, name)
		if got == want {
			return body, header
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is answered with %d after %s, want %d: %s\n%s", name, got, within, want, body, p.Log())
		}
	}
}

// told has every client pull what is refused, and holds what it shows against
// the docs.
func told(t *testing.T, p *Pratique, u *Upstream, what, reference, rule string) {
	t.Helper()
	for _, client := range clients {
		r := client.start(t, p).Pull(t, reference, "amd64")
		if r.exit == 0 {
			t.Errorf("%s pulled %s:\n%s", client.name, reference, r.output)
			continue
		}
		if !strings.Contains(r.output, "refused by rule "+rule) {
			t.Errorf("%s does not show why %s is refused:\n%s", client.name, reference, r.output)
		}
		if client.name == "containerd" || client.name == "podman" {
			shown(t, client.name, what, r.output, p, u)
		}
	}
}

// pulled has every client pull what is served.
func pulled(t *testing.T, p *Pratique, reference string) {
	t.Helper()
	for _, client := range clients {
		if r := client.start(t, p).Pull(t, reference, "amd64"); r.exit != 0 {
			t.Errorf("%s did not get %s:\n%s", client.name, reference, r.output)
		}
	}
}

// TestGrace: a vulnerability that appears overnight warns about an image that was
// in use, and refuses it when the grace is over; one never served has no grace.
func TestGrace(t *testing.T) {
	t.Parallel() // waits most of the time
	u := StartUpstream(t)
	img := archived(t, aged)
	u.Push(t, img, "demo/used:1.0")
	u.Push(t, labelled(t, img, "2"), "demo/unused:1.0")
	const grace = time.Minute
	p := StartPratique(t, u, Options{Database: olderDatabase, Extra: policies(t,
		"  - {name: high, vulnerability: {severity: HIGH, fixable: true}, action: deny, grace: 1m}\n")})
	pulled(t, p, "demo/used:1.0")
	time.Sleep(2 * time.Second) // pulls are recorded behind the answer

	if r := p.Command(t, "db", "import", filepath.Join(root(t), newerDatabase)); r.exit != 0 {
		t.Fatal(r.output)
	}
	imported := time.Now()
	p.becomes(t, "demo/unused:1.0", http.StatusForbidden, 40*time.Second)
	var header http.Header
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		status, body, h := p.status(t, "demo/used:1.0")
		if status != http.StatusOK {
			t.Fatalf("within grace, %s after the update: %d %s", time.Since(imported), status, body)
		}
		if header = h; header.Get("Warning") != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no warning came")
		}
	}
	if w := header.Get("Warning"); !strings.Contains(w, "299") || !strings.Contains(w, "house/high") {
		t.Errorf("Warning: %s", w)
	}
	p.Stop() // a restart does not reset the clock
	p.Start(t)
	p.becomes(t, "demo/used:1.0", http.StatusForbidden, grace+20*time.Second)
	if early := time.Since(imported); early < grace {
		t.Errorf("refused %s after the update, before the grace of %s was over", early, grace)
	}
	told(t, p, u, "grace is over", "demo/used:1.0", "house/high")
}

// TestException: an exception lets through what is refused until it expires, and
// says so; one that is revoked ends at once.
func TestException(t *testing.T) {
	t.Parallel() // waits most of the time
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	p.becomes(t, images.Vulnerable, http.StatusForbidden, 40*time.Second)
	create := func(expires string) result {
		t.Helper()
		return p.Command(t, "exception", "create", "--rule", "default/fixable-critical", "--repository", "docker.io/demo/vulnerable",
			"--expires", expires, "--reason", "the fix is being rolled out", "--author", "ann@example.com", "--ticket", "SEC-1")
	}
	begun := time.Now()
	if r := create("45s"); r.exit != 0 {
		t.Fatal(r.output)
	}
	p.becomes(t, images.Vulnerable, http.StatusOK, 5*time.Second)
	if r := p.Command(t, "check", images.Vulnerable); r.exit != 0 || !strings.Contains(strings.Join(strings.Fields(r.output), " "), "the fix is being rolled out, SEC-1 (ann@example.com)") {
		t.Errorf("check does not show the exception:\n%s", r.output)
	}
	pulled(t, p, images.Vulnerable)
	p.becomes(t, images.Vulnerable, http.StatusForbidden, time.Minute)
	if early := time.Since(begun); early < 44*time.Second { // it began at a full second
		t.Errorf("it ended after %s", early)
	}
	told(t, p, u, "exception expired", images.Vulnerable, "default/fixable-critical")

	if r := create("1d"); r.exit != 0 {
		t.Fatal(r.output)
	}
	p.becomes(t, images.Vulnerable, http.StatusOK, 5*time.Second)
	list := p.Command(t, "exception", "list", "-o", "json")
	id := list.output[strings.LastIndex(list.output, `"ex-`)+1:]
	id = id[:strings.IndexByte(id, '"')]
	if r := p.Command(t, "exception", "revoke", id, "--reason", "rolled out", "--author", "ann@example.com"); r.exit != 0 {
		t.Fatal(r.output)
	}
	if status, body, _ := p.status(t, images.Vulnerable); status != http.StatusForbidden {
		t.Errorf("after it was revoked: %d %s", status, body)
	}
	if r := create("400d"); r.exit == 0 || !strings.Contains(r.output, "90") {
		t.Errorf("longer than is allowed: %d %s", r.exit, r.output)
	}
}

// TestCooldown: an image that nobody knew yesterday is not run today.
func TestCooldown(t *testing.T) {
	t.Parallel() // waits most of the time
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{Extra: policies(t, "  - {name: quarantine, cooldown: {youngerThan: 45s}, action: deny}\n")})
	first := time.Now()
	p.becomes(t, images.Clean, http.StatusForbidden, 40*time.Second)
	told(t, p, u, "cooldown", images.Clean, "house/quarantine")
	p.becomes(t, images.Clean, http.StatusOK, time.Minute)
	if early := time.Since(first); early < 45*time.Second {
		t.Errorf("served after %s", early)
	}
	pulled(t, p, images.Clean)
}

// TestTagMoved: the digest that its tag does not name any more is refused by every
// door, also to who asks by digest.
func TestTagMoved(t *testing.T) {
	t.Parallel() // waits most of the time
	u := StartUpstream(t)
	img := archived(t, "debian-bookworm-patched-skeleton")
	old := u.Push(t, img, "demo/moving:1.0")
	p := StartPratique(t, u, Options{TagTTL: "1s", Extra: policies(t, "  - {name: moved, tagMoved: {longerThan: 3s}, action: deny}\n")})
	p.becomes(t, "demo/moving:1.0", http.StatusOK, 40*time.Second)
	next := u.Push(t, labelled(t, img, "2"), "demo/moving:1.0")
	time.Sleep(1500 * time.Millisecond)
	p.becomes(t, "demo/moving:1.0", http.StatusOK, 40*time.Second) // what it names now
	p.becomes(t, "demo/moving@"+old, http.StatusForbidden, 40*time.Second)
	told(t, p, u, "its tag moved on", "demo/moving@"+old, "house/moved")
	pulled(t, p, "demo/moving@"+next)
}

// TestOutdated: a patch version that is known here and may be had makes the older
// one outdated; the refusal names it.
func TestOutdated(t *testing.T) {
	t.Parallel() // waits most of the time
	u := StartUpstream(t)
	img := archived(t, "debian-bookworm-patched-skeleton")
	u.Push(t, img, "demo/series:1.2.3")
	u.Push(t, labelled(t, img, "4"), "demo/series:1.2.4")
	u.Push(t, labelled(t, archived(t, "debian-bullseye-skeleton"), "5"), "demo/series:1.2.5") // breaks policy: no reason to move
	p := StartPratique(t, u, Options{Database: newerDatabase, Extra: policies(t,
		"  - {name: old, outdated: {within: patch, longerThan: 1s}, action: deny}\n"+
			"  - {name: high, vulnerability: {severity: HIGH}, action: deny}\n")})
	if status, body, _ := p.status(t, "demo/series:1.2.3"); status != http.StatusOK {
		t.Errorf("before anything newer is known: %d %s", status, body)
	}
	body, _ := p.becomes(t, "demo/series:1.2.3", http.StatusForbidden, 60*time.Second)
	if !strings.Contains(body, "1.2.4") || strings.Contains(body, "1.2.5") {
		t.Errorf("the refusal does not name 1.2.4 alone: %s", body)
	}
	told(t, p, u, "outdated", "demo/series:1.2.3", "house/old")
	pulled(t, p, "demo/series:1.2.4")
}

// TestEndOfLifeBase: few findings on a release that nobody looks after any more
// mean little.
func TestEndOfLifeBase(t *testing.T) {
	t.Parallel() // waits most of the time
	u := StartUpstream(t)
	u.Push(t, archived(t, "alpine39-apkdb"), "demo/alpine:3.9")
	p := StartPratique(t, u, Options{Extra: policies(t, "  - {name: eol, endOfLife: {within: 30d}, action: deny}\n")})
	p.becomes(t, "demo/alpine:3.9", http.StatusForbidden, 40*time.Second)
	told(t, p, u, "end of life", "demo/alpine:3.9", "house/eol")
	p.becomes(t, images.Clean, http.StatusOK, 40*time.Second)
}
