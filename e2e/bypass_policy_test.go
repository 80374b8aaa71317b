//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"pratique/tools/images"
)

// critical are the vulnerabilities of the refused image for which a fix exists.
var critical = []string{"CVE-2022-35951", "CVE-2025-27151", "CVE-2025-49844"}

// bypassRules each refuse the repositories that they name, and let others through.
const bypassRules = `
  - {name: critical, match: {repository: [demo/x-*, demo/v-*, demo/g-*]}, vulnerability: {severity: CRITICAL, fixable: true}, action: deny}
  - {name: banned, match: {repository: [demo/b-*]}, always: {}, action: deny}
  - {name: moved, match: {repository: [demo/moved]}, tagMoved: {longerThan: 1s}, action: deny}
  - {name: quarantine, match: {repository: [demo/young]}, cooldown: {youngerThan: 1d}, action: deny}
  - {name: old, match: {repository: [demo/series]}, outdated: {within: patch, longerThan: 1s}, action: deny}
  - {name: signed, match: {repository: [demo/s-*]}, signature: {by: [release]}, action: deny}
  - {name: built, match: {repository: [demo/p-*]}, provenance: {by: [release]}, action: deny}
  - {name: office, match: {repository: [demo/office]}, except: {client: [192.0.2.0/24]}, always: {}, action: deny}
  - {name: no-dev, match: {repository: [demo/tagged], tag: [dev]}, always: {}, action: deny}
  - {name: graced, match: {repository: [demo/graced]}, vulnerability: {severity: CRITICAL}, action: deny, grace: 14d}
  - {name: small, match: {repository: [demo/expressed]}, expression: 'findings.exists(f, f.severity == "CRITICAL" && f.id.startsWith("CVE-2025-"))', action: deny}
  - {name: early, match: {repository: [demo/unread]}, unscanned: {}, action: allow}
  - {name: pause, match: {repository: [demo/pause]}, action: exempt, lifts: [banned, critical, graced], message: the sandbox}
  - {name: from-lab, match: {upstream: [lab], repository: [demo/b-upstream]}, action: exempt, lifts: [banned], message: of the lab}
  - {name: windows, match: {platform: [windows/amd64]}, action: exempt, lifts: [banned], message: nobody runs it}
  - {name: charts, match: {artifactType: [application/vnd.cncf.helm.*]}, action: exempt, lifts: [banned], message: no images}
  - {name: by-tag, match: {repository: [demo/b-tag], tag: [stable]}, action: exempt, lifts: [banned], message: known}
  - {name: by-client, match: {client: [192.0.2.7]}, action: exempt, lifts: [banned], message: the scanner's}
`

// audit is a policy that only warns: it refuses nothing itself, and lifts nothing.
const audit = `name: audit
mode: warn
default: allow
rules:
  - {name: all, vulnerability: {}, action: deny}
`

// fort is a siege of images that are refused for what is not in them alone.
type fort struct {
	*siege
	words []string // pairs of a word and what it stands for
	bad   v1.Image
	vex   string
}

// make makes an image of its own: with a layer that no other has. What may be had
// and what may not never share a layer.
func (f *fort) make(t *testing.T, build string) v1.Image {
	t.Helper()
	layer, err := random.Layer(2048, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(labelled(t, f.bad, build), layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// plant pushes an image that is to be refused, and makes {word}, {word-config} and
// {word-layer} stand for it.
func (f *fort) plant(t *testing.T, img v1.Image, word string, names ...string) string {
	t.Helper()
	for _, name := range names {
		f.u.Push(t, img, name)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	f.secrets.addImage(t, word, img)
	d := digestOf(t, img)
	f.refused = append(f.refused, d)
	f.words = append(f.words, "{"+word+"}", d, "{"+word+"-config}", m.Config.Digest.String(), "{"+word+"-layer}", m.Layers[len(m.Layers)-1].Digest.String())
	return d
}

// sides are all requests for an image of a repository but those by tag.
func sides(repo, word string) []string {
	var out []string
	for _, part := range []string{"manifests/{w}", "blobs/{w}", "blobs/{w-config}", "blobs/{w-layer}"} {
		part = strings.ReplaceAll(part, "{w", "{"+word)
		out = append(out, "/v2/docker.io/"+repo+"/"+part, "/v2/"+repo+"/"+part+"?ns=docker.io", "/v2/"+repo+"/"+part+"?ns={host}")
	}
	return append(both(out...), "GET /v2/docker.io/"+repo+"/referrers/{"+word+"}", "GET /v2/docker.io/"+repo+"/blobs/{"+word+"-layer}\nRange: bytes=0-99",
		"GET /v2/docker.io/"+repo+"/manifests/{"+word+"}\nIf-None-Match: \"{"+word+"}\"")
}

// all are all requests for an image.
func all(repo, tag, word string) []string {
	return append(both("/v2/docker.io/"+repo+"/manifests/"+tag, "/v2/"+repo+"/manifests/"+tag+"?ns=docker.io", "/v2/"+repo+"/manifests/"+tag+"?ns={host}"), sides(repo, word)...)
}

// headed are requests with more headers.
func headed(header string, requests []string) []string {
	out := make([]string, len(requests))
	for i, r := range requests {
		out[i] = r + "\n" + header
	}
	return out
}

// openVEX is a document with one statement about each vulnerability.
func openVEX(t *testing.T, id, status, at string, products ...map[string]any) string {
	t.Helper()
	var statements []any
	for _, cve := range critical {
		s := map[string]any{"vulnerability": map[string]any{"name": cve}, "products": products, "status": status, "timestamp": at}
		switch status {
		case "not_affected":
			s["justification"] = "vulnerable_code_not_present"
		case "affected":
			s["action_statement"] = "update"
		}
		statements = append(statements, s)
	}
	raw, err := json.Marshal(map[string]any{
		"@context": "https://openvex.dev/ns/v0.2.0", "@id": "https://vendor.example/" + id, "author": "vendor", "version": 1, "timestamp": at, "statements": statements,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// product is an OpenVEX product, with subcomponents.
func product(id string, parts ...string) map[string]any {
	out := map[string]any{"@id": id}
	var subs []any
	for _, p := range parts {
		subs = append(subs, map[string]any{"@id": p})
	}
	if len(subs) > 0 {
		out["subcomponents"] = subs
	}
	return out
}

// exceptionID is how the answer to `exception create` names it.
var exceptionID = regexp.MustCompile(`ex-[0-9a-f]+`)

// except makes an exception from the rule house/critical, or from a finding where
// args name one, and returns its id.
func (f *fort) except(t *testing.T, args ...string) string {
	t.Helper()
	if strings.Contains(strings.Join(args, " "), "--finding") {
		args = append([]string{"exception", "create"}, args...)
	} else {
		args = append([]string{"exception", "create", "--rule", "house/critical"}, args...)
	}
	if !strings.Contains(strings.Join(args, " "), "--expires") {
		args = append(args, "--expires", "1d")
	}
	r := f.Command(t, append(args, "--reason", "an attempt", "--author", "eve@example.com")...)
	id := exceptionID.FindString(r.output)
	if r.exit != 0 || id == "" {
		t.Fatalf("pratique %s: %d %s", strings.Join(args, " "), r.exit, r.output)
	}
	return id
}

// policyAttempt is a way around a policy.
type policyAttempt struct {
	name     string
	prepare  func(t *testing.T)
	requests []string
}

// fortify starts a Pratique with all of the images that attempts are about,
// scanned and cached.
func fortify(t *testing.T) (f *fort, attempts []policyAttempt) {
	t.Helper()
	u := StartUpstream(t)
	f = &fort{siege: &siege{u: u, secrets: secrets{}}, bad: u.Child(t, images.Vulnerable, "amd64")}
	f.words = []string{"{host}", u.Addr, "{none}", "sha256:" + strings.Repeat("0", 64)}
	release, stranger := newSigner(t), newSigner(t)

	known := []string{}
	attempt := func(name string, prepare func(t *testing.T), requests ...string) {
		attempts = append(attempts, policyAttempt{name, prepare, requests})
	}
	// simple is an image of a repository of its own, decided before it is attacked.
	simple := func(repo string) string {
		known = append(known, repo+":1.0")
		return f.plant(t, f.make(t, repo), strings.TrimPrefix(repo, "demo/"), repo+":1.0")
	}
	excepted := func(name, repo string, args ...string) {
		d := simple("demo/" + repo)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "{digest}", d)
		}
		attempt("exception "+name, func(t *testing.T) { f.except(t, args...) }, all("demo/"+repo, "1.0", repo)...)
	}

	// Exceptions that are not about what is asked for.
	other := f.u.Push(t, f.make(t, "other"), "demo/free:1.0")
	excepted("for another repository", "x-repository", "--repository", "docker.io/demo/x-repositories")
	excepted("for repositories below it", "x-below", "--repository", "docker.io/demo/x-below/**")
	excepted("for a repository it begins with", "x-begins", "--repository", "docker.io/demo/x-begin")
	excepted("for a repository that ends like it", "x-ends", "--repository", "lab/**/x-ends")
	excepted("for another upstream", "x-upstream", "--repository", "lab/demo/x-upstream")
	excepted("for another digest of the repository", "x-digest", "--repository", "docker.io/demo/x-digest", "--digest", other)
	excepted("for its digest in another repository", "x-elsewhere", "--repository", "docker.io/demo/x-nowhere", "--digest", "{digest}")
	excepted("for another platform", "x-platform", "--repository", "docker.io/demo/x-platform", "--platform", "linux/arm64")
	excepted("for one of three findings", "x-finding", "--repository", "docker.io/demo/x-finding", "--finding", critical[0])
	excepted("for another package", "x-package", "--repository", "docker.io/demo/x-package", "--finding", critical[0], "--package", "redi")
	excepted("for another version", "x-version", "--repository", "docker.io/demo/x-version", "--finding", critical[0], "--package", "pkg:generic/redis@7.0.5")
	excepted("for a rule of another policy", "x-policy", "--rule", "audit/all", "--repository", "docker.io/demo/x-policy")
	attempts[len(attempts)-1].prepare = func(t *testing.T) {
		if r := f.Command(t, "exception", "create", "--rule", "audit/all", "--repository", "docker.io/demo/x-policy", "--expires", "1d", "--reason", "an attempt", "--author", "eve"); r.exit != 0 {
			t.Fatal(r.output)
		}
	}
	simple("demo/x-revoked")
	attempt("exception revoked", func(t *testing.T) {
		id := f.except(t, "--repository", "docker.io/demo/x-revoked")
		f.becomes(t, "demo/x-revoked:1.0", http.StatusOK, 10*time.Second)
		f.send(t, "GET /v2/docker.io/demo/x-revoked/blobs/{x-revoked-layer}") // and remembered
		if r := f.Command(t, "exception", "revoke", id, "--reason", "over", "--author", "eve"); r.exit != 0 {
			t.Fatal(r.output)
		}
	}, all("demo/x-revoked", "1.0", "x-revoked")...)
	simple("demo/x-expired")
	attempt("exception expired", func(t *testing.T) {
		f.except(t, "--repository", "docker.io/demo/x-expired", "--expires", "8s")
		f.becomes(t, "demo/x-expired:1.0", http.StatusOK, 6*time.Second)
		f.send(t, "GET /v2/docker.io/demo/x-expired/blobs/{x-expired-layer}")
		time.Sleep(9 * time.Second)
	}, all("demo/x-expired", "1.0", "x-expired")...)
	child := f.make(t, "child")
	index := pushIndex(t, u, "demo/x-index:1.0", child, f.make(t, "arm"))
	f.plant(t, child, "child")
	f.words = append(f.words, "{x-index}", index)
	f.refused = append(f.refused, index)
	known = append(known, "demo/x-index:1.0")
	attempt("exception by digest of the index", func(t *testing.T) { f.except(t, "--digest", index) },
		append(sides("demo/x-index", "child"), both("/v2/docker.io/demo/x-index/manifests/1.0", "/v2/docker.io/demo/x-index/manifests/{x-index}", "/v2/docker.io/demo/x-index/blobs/{x-index}")...)...)

	// Statements that are not about what is asked for.
	f.vex = workdir(t, "vex")
	stated := func(name, repo, status string, products func(digest string) []map[string]any) {
		d := simple("demo/" + repo)
		for i, p := range products(d) {
			file := filepath.Join(f.vex, fmt.Sprintf("%s-%d.json", repo, i))
			if err := os.WriteFile(file, []byte(openVEX(t, repo, status, "2026-01-01T00:00:00Z", p)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		attempt("statement "+name, nil, all("demo/"+repo, "1.0", repo)...)
	}
	stated("about another image", "v-image", "not_affected", func(string) []map[string]any {
		return []map[string]any{product(other), product("pkg:oci/v-image@" + strings.Replace(other, ":", "%3A", 1) + "?repository_url=docker.io/demo/v-image")}
	})
	stated("about another repository", "v-repository", "not_affected", func(string) []map[string]any {
		return []map[string]any{product("pkg:oci/v-repository?repository_url=docker.io/other/v-repository"), product("pkg:oci/v-repository"), product("pkg:oci/v-repository?repository_url=DOCKER.IO/demo/v-repositories")}
	})
	stated("about another tag and platform", "v-tag", "not_affected", func(string) []map[string]any {
		return []map[string]any{product("pkg:oci/v-tag?repository_url=docker.io/demo/v-tag&tag=1.1"), product("pkg:oci/v-tag?repository_url=docker.io/demo/v-tag&arch=arm64")}
	})
	stated("about another package", "v-package", "not_affected", func(d string) []map[string]any {
		return []map[string]any{product("pkg:generic/redis@7.0.5"), product("pkg:deb/debian/redi"), product(d, "pkg:deb/debian/redis-tools@1"), product("pkg:npm/redis")}
	})
	stated("under investigation", "v-open", "under_investigation", func(d string) []map[string]any { return []map[string]any{product(d)} })
	stated("taken back later", "v-back", "not_affected", func(d string) []map[string]any {
		if err := os.WriteFile(filepath.Join(f.vex, "v-back-later.json"), []byte(openVEX(t, "later", "affected", "2026-02-01T00:00:00Z", product(d))), 0o600); err != nil {
			t.Fatal(err)
		}
		return []map[string]any{product(d)}
	})

	// Exempt rules, and how they may be met.
	simple("demo/b-elsewhere")
	attempt("exempt in another repository of the same image", func(t *testing.T) {
		f.u.Push(t, f.copyOf(t, "demo/b-elsewhere"), "demo/pause:1.0")
		f.becomes(t, "demo/pause:1.0", http.StatusOK, 40*time.Second) // there it may be had
	}, all("demo/b-elsewhere", "1.0", "b-elsewhere")...)
	simple("demo/b-upstream")
	attempt("exempt through another upstream", func(t *testing.T) {
		f.decide(t, "lab/demo/b-upstream:1.0")
		if res, body := f.Do(t, http.MethodGet, "/v2/lab/demo/b-upstream/manifests/1.0", nil); res.StatusCode != http.StatusOK {
			t.Fatalf("through the lab: %s %s", res.Status, body)
		}
	}, all("demo/b-upstream", "1.0", "b-upstream")...)
	simple("demo/b-cases")
	attempt("exempt, by other spellings", nil, both("/v2/docker.io/demo/PAUSE/manifests/1.0", "/v2/docker.io/demo/b-cases%2f..%2fpause/manifests/{b-cases}", "/v2/docker.io/demo/b-cases/../pause/manifests/{b-cases}",
		"/v2/docker.io/demo/pause/../b-cases/manifests/1.0", "/v2/demo/b-upstream/manifests/{b-upstream}?ns=lab.",
		"/v2/docker.io/lab/demo/b-upstream/manifests/1.0", "/v2/lab/docker.io/demo/b-upstream/manifests/1.0", "/v2/docker.io/demo/b-upstream/manifests/1.0?ns=lab")...)
	attempt("exempt, by a digest that its repository does not hold", nil, both("/v2/docker.io/demo/pause/manifests/{b-cases}", "/v2/docker.io/demo/pause/blobs/{b-cases}",
		"/v2/docker.io/demo/pause/blobs/{b-cases-layer}", "/v2/docker.io/demo/pause/blobs/{b-cases-config}", "/v2/demo/pause/blobs/{b-cases-layer}?ns=docker.io")...)
	chart := f.make(t, "chart")
	f.plant(t, typed(t, chart, "application/vnd.cncf.helm.config.v1+json"), "b-chart", "demo/b-chart:1.0")
	known = append(known, "demo/b-chart:1.0")
	attempt("exempt for charts, by what it says of itself", nil, append(all("demo/b-chart", "1.0", "b-chart"),
		headed("Accept: application/vnd.cncf.helm.config.v1+json", all("demo/b-chart", "1.0", "b-chart"))...)...)
	f.plant(t, f.make(t, "stable"), "b-tag", "demo/b-tag:stable")
	known = append(known, "demo/b-tag:stable")
	attempt("exempt by a tag that moved on, by digest", func(t *testing.T) {
		f.becomes(t, "demo/b-tag:stable", http.StatusOK, 40*time.Second)
		f.u.Push(t, f.make(t, "next stable"), "demo/b-tag:stable")
		time.Sleep(1100 * time.Millisecond)
		f.decide(t, "docker.io/demo/b-tag:stable")
		f.becomes(t, "demo/b-tag:stable", http.StatusOK, 40*time.Second)
	}, sides("demo/b-tag", "b-tag")...)
	f.plant(t, f.make(t, "latest"), "b-tags", "demo/b-tag:other")
	known = append(known, "demo/b-tag:other")
	attempt("exempt by another tag", nil, append(all("demo/b-tag", "other", "b-tags"), both("/v2/docker.io/demo/b-tag/manifests/stable@{b-tags}", "/v2/docker.io/demo/b-tag/manifests/STABLE", "/v2/docker.io/demo/b-tag/manifests/{b-tags}?tag=stable")...)...)
	simple("demo/b-client")
	attempt("exempt by an address that a header names", nil,
		headed("X-Forwarded-For: 192.0.2.7\nX-Real-IP: 192.0.2.7\nForwarded: for=192.0.2.7\nTrue-Client-IP: 192.0.2.7\nCF-Connecting-IP: 192.0.2.7\nX-Client-IP: 192.0.2.7", all("demo/b-client", "1.0", "b-client"))...)
	attempt("exempt by the PROXY protocol", nil, "RAW PROXY TCP4 192.0.2.7 192.0.2.1 1 80\r\nGET /v2/docker.io/demo/b-client/manifests/1.0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"RAW \r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x00\x01\x00\x50GET /v2/docker.io/demo/b-client/manifests/1.0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	attempt("exempt for another platform, asked for", nil, headed("X-Platform: windows/amd64\nUser-Agent: docker/28 (windows)\nAccept: application/vnd.oci.image.manifest.v1+json;platform=windows", all("demo/b-client", "1.0", "b-client"))...)

	// Clients, tags and time.
	simple("demo/office")
	attempt("excepted by an address that a header names", nil, headed("X-Forwarded-For: 192.0.2.7, 127.0.0.1\nForwarded: for=\"192.0.2.7:80\"\nX-Envoy-External-Address: 192.0.2.7", all("demo/office", "1.0", "office"))...)
	f.plant(t, f.make(t, "dev"), "tagged", "demo/tagged:dev")
	known = append(known, "demo/tagged:dev")
	attempt("refused by its tag, asked for by digest", nil, append(all("demo/tagged", "dev", "tagged"), both("/v2/docker.io/demo/tagged/manifests/DEV", "/v2/docker.io/demo/tagged/manifests/dev%20", "/v2/docker.io/demo/tagged/manifests/dev@{tagged}")...)...)
	f.plant(t, f.make(t, "before"), "moved", "demo/moved:1.0")
	known = append(known, "demo/moved:1.0")
	attempt("tag moved on", func(t *testing.T) {
		f.u.Push(t, f.make(t, "after"), "demo/moved:1.0")
		time.Sleep(1100 * time.Millisecond)
		f.status(t, "demo/moved:1.0") // sees that it moved
		f.becomes(t, "demo/moved@"+f.digest("moved"), http.StatusForbidden, 60*time.Second)
	}, append(sides("demo/moved", "moved"), "GET /v2/docker.io/demo/moved/manifests/1.0@{moved}", "GET /v2/docker.io/demo/moved/manifests/{moved}?tag=1.0")...)
	attempt("tag that moved on was had by digest meanwhile", func(t *testing.T) { // memories of both doors
		for range 3 {
			f.status(t, "demo/moved:1.0")
			f.status(t, "demo/moved@"+f.digest("moved"))
		}
	}, sides("demo/moved", "moved")...)
	young := f.make(t, "young")
	f.plant(t, created(t, young, time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)), "young", "demo/young:1.0")
	known = append(known, "demo/young:1.0")
	attempt("cooldown of an image that claims to be old", nil, all("demo/young", "1.0", "young")...)
	f.plant(t, f.make(t, "1.2.3"), "series", "demo/series:1.2.3")
	f.u.Push(t, f.make(t, "1.2.4"), "demo/series:1.2.4")
	known = append(known, "demo/series:1.2.3")
	attempt("outdated", func(t *testing.T) { f.becomes(t, "demo/series:1.2.3", http.StatusForbidden, 90*time.Second) }, all("demo/series", "1.2.3", "series")...)
	simple("demo/graced")
	attempt("grace of what was never served", nil, all("demo/graced", "1.0", "graced")...)
	attempt("grace by having been served where it is exempt", func(t *testing.T) {
		f.u.Push(t, f.copyOf(t, "demo/graced"), "demo/pause:2.0")
		f.becomes(t, "demo/pause:2.0", http.StatusOK, 40*time.Second)
		time.Sleep(2 * time.Second) // pulls are recorded behind the answer
	}, all("demo/graced", "1.0", "graced")...)
	simple("demo/expressed")
	attempt("expression", nil, all("demo/expressed", "1.0", "expressed")...)

	// Signatures of others, and over others.
	simple("demo/s-none")
	attempt("not signed", nil, all("demo/s-none", "1.0", "s-none")...)
	stranger.sign(t, u, "demo/s-stranger", simple("demo/s-stranger"))
	attempt("signed by a stranger", nil, all("demo/s-stranger", "1.0", "s-stranger")...)
	release.sign(t, u, "demo/s-other", other)
	moved := simple("demo/s-other")
	f.u.Push(t, f.pull(t, "demo/s-other:"+strings.Replace(other, ":", "-", 1)+".sig"), "demo/s-other:"+strings.Replace(moved, ":", "-", 1)+".sig")
	attempt("signature over another image", nil, all("demo/s-other", "1.0", "s-other")...)
	release.sign(t, u, "demo/s-unlisted", pushIndex(t, u, "demo/s-unlisted:index", f.make(t, "listed")))
	simple("demo/s-unlisted")
	attempt("signed index that does not list it", func(t *testing.T) { f.status(t, "demo/s-unlisted:index") }, all("demo/s-unlisted", "1.0", "s-unlisted")...)
	release.sign(t, u, "demo/s-elsewhere", simple("demo/s-repository"))
	attempt("signed in a repository where nobody asked for it", nil, all("demo/s-repository", "1.0", "s-repository")...)
	release.sign(t, u, "demo/p-signed", simple("demo/p-signed"))
	attempt("signed, and without provenance", nil, all("demo/p-signed", "1.0", "p-signed")...)

	// A policy that only warns lets nothing unscanned through.
	unread := f.make(t, "unread")
	f.plant(t, unread, "unread", "demo/unread:1.0")
	attempt("not scanned, and one policy of two only warns", nil, all("demo/unread", "1.0", "unread")...)

	f.siege.words = strings.NewReplacer(f.words...)
	path := filepath.Join(workdir(t, "policy"), "audit.yaml")
	if err := os.WriteFile(path, []byte(audit), 0o600); err != nil {
		t.Fatal(err)
	}
	extra := strings.Replace(trusting(t, release.public, bypassRules), "policies: [", fmt.Sprintf("policies: [%q, ", path), 1) + fmt.Sprintf("vex: {files: [%q]}\n", f.vex)
	f.Pratique = StartPratique(t, u, Options{Hold: 300 * time.Millisecond, TagTTL: "1s", Extra: extra})
	for _, name := range known {
		f.decide(t, "docker.io/"+name)
	}
	secret := f.layer(t, unread)
	u.Slow(func(r *http.Request) time.Duration {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+secret) {
			return time.Hour
		}
		return 0
	})
	t.Cleanup(func() {
		u.Slow(nil)
		u.tap.CloseClientConnections()
	})
	return f, attempts
}

// digest is what {word} stands for.
func (f *fort) digest(word string) string { return f.siege.words.Replace("{" + word + "}") }

// layer is the digest of an image's own layer.
func (f *fort) layer(t *testing.T, img v1.Image) string {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return m.Layers[len(m.Layers)-1].Digest.String()
}

// created is img with another claim about when it was made.
func created(t *testing.T, img v1.Image, at time.Time) v1.Image {
	t.Helper()
	out, err := mutate.CreatedAt(img, v1.Time{Time: at})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// typedImage is an image whose manifest says another artifactType, which the
// library's own type of a manifest does not hold.
type typedImage struct {
	v1.Image
	raw []byte
}

func typed(t *testing.T, img v1.Image, artifactType string) v1.Image {
	t.Helper()
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	doc["artifactType"] = artifactType
	if raw, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	return typedImage{img, raw}
}

func (i typedImage) RawManifest() ([]byte, error) { return i.raw, nil }
func (i typedImage) Digest() (v1.Hash, error)     { return partial.Digest(i) }
func (i typedImage) Size() (int64, error)         { return int64(len(i.raw)), nil }

// pull reads an image from the registry behind the tap.
func (f *fort) pull(t *testing.T, name string) v1.Image {
	t.Helper()
	img, err := crane.Pull(f.u.Addr+"/"+name, crane.Insecure, crane.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// copyOf is what repo's 1.0 names.
func (f *fort) copyOf(t *testing.T, repo string) v1.Image { return f.pull(t, repo+":1.0") }

// TestBypassPolicy tries the ways around rules that look at more than an image's
// content: an exception, a statement, an exempt rule or a grace that is about
// something else; a fact that one door does not know. Every part of every image
// is asked for by every name, and no byte of it may come.
func TestBypassPolicy(t *testing.T) {
	t.Parallel()
	f, attempts := fortify(t)
	requests := 0
	for _, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			if a.prepare != nil {
				a.prepare(t)
			}
			for range 2 { // the second time by what is remembered
				for _, request := range a.requests {
					requests++
					f.check(t, request, f.send(t, request), false)
				}
			}
		})
	}
	// A control: what is exempt is had, and seen.
	for _, part := range []string{"manifests/{b-elsewhere}", "blobs/{b-elsewhere-config}", "blobs/{b-elsewhere-layer}"} {
		if got := f.send(t, "GET /v2/docker.io/demo/pause/"+part); f.secrets.find(got) == "" {
			t.Errorf("where it may be had, %s: nothing found in %.300q", part, got)
		}
	}
	if len(attempts) < 40 {
		t.Errorf("%d attempts, want 40 or more", len(attempts))
	}
	t.Logf("bypass: %d named attempts at policies, %d requests", len(attempts), requests)
}

// TestBypassGraceUnscanned: what a rule let through before its first scan was not
// served before the findings of that scan, and has no grace from them.
func TestBypassGraceUnscanned(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	f := &fort{siege: &siege{u: u, secrets: secrets{}}, bad: u.Child(t, images.Vulnerable, "amd64"), words: []string{"{host}", u.Addr}}
	f.plant(t, f.make(t, "early"), "early", "demo/early:1.0")
	f.siege.words = strings.NewReplacer(f.words...)
	f.Pratique = StartPratique(t, u, Options{Hold: 300 * time.Millisecond, TagTTL: "1h", Extra: policies(t, `
  - {name: graced, vulnerability: {severity: CRITICAL}, action: deny, grace: 14d}
  - {name: early, unscanned: {}, action: allow}
`)})
	if status, body, _ := f.status(t, "demo/early:1.0"); status != http.StatusOK {
		t.Fatalf("unscanned: %d %s", status, body)
	}
	f.becomes(t, "demo/early:1.0", http.StatusForbidden, 60*time.Second)
	time.Sleep(2 * time.Second) // pulls are recorded behind the answer
	for _, request := range all("demo/early", "1.0", "early") {
		f.check(t, request, f.send(t, request), false)
	}
}
