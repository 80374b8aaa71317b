//go:build e2e && clients

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCosign: what the real cosign signs and attests, in both of the ways in which
// it keeps that. It takes long to build, so the test has a
// build tag of its own: `make clients`.
func TestCosign(t *testing.T) {
	u := StartUpstream(t)
	dir := workdir(t, "cosign")
	cosign := func(args ...string) {
		t.Helper()
		cmd := exec.Command(binary(t, "cosign"), args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=", "HOME="+dir)
		if r := run(t, cmd); r.exit != 0 {
			t.Fatalf("cosign %s:\n%s", strings.Join(args, " "), r.output)
		}
	}
	cosign("generate-key-pair")
	const provenance = `{"buildDefinition":{"buildType":"https://example.com/build","externalParameters":{"source":"git+https://example.com/acme/app"}},"runDetails":{"builder":{"id":"https://example.com/builder"}}}`
	if err := os.WriteFile(filepath.Join(dir, "provenance.json"), []byte(provenance), 0o600); err != nil {
		t.Fatal(err)
	}
	offline := []string{"--key", "cosign.key", "--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry", "--yes"}
	img := archived(t, "debian-bookworm-patched-skeleton")
	push := func(build string) string {
		return u.Addr + "/demo/cosign@" + u.Push(t, labelled(t, img, build), "demo/cosign:"+build)
	}
	for build, layout := range map[string]string{"bundle": "--new-bundle-format=true", "legacy": "--new-bundle-format=false"} {
		at := push(build)
		cosign(append(append([]string{"sign", layout}, offline...), at)...)
		cosign(append(append([]string{"attest", layout, "--type", "slsaprovenance1", "--predicate", "provenance.json"}, offline...), at)...)
		cosign(append(append([]string{"sign", layout}, offline...), push("signed-"+build))...)
	}
	push("unsigned")

	p := StartPratique(t, u, Options{TagTTL: "1s", Extra: trusting(t, filepath.Join(dir, "cosign.pub"), onlySigned+
		"  - {name: built, provenance: {by: [release], builder: [\"https://example.com/builder\"], source: [\"git+https://example.com/acme/*\"]}, action: deny}\n")})
	for _, build := range []string{"bundle", "legacy"} {
		p.becomes(t, "demo/cosign:"+build, http.StatusOK, 20*time.Second)
		if body, _ := p.becomes(t, "demo/cosign:signed-"+build, http.StatusForbidden, 20*time.Second); !strings.Contains(body, "house/built") || strings.Contains(body, "house/signed") {
			t.Errorf("signed-%s is refused for another reason: %s", build, body)
		}
		pulled(t, p, "demo/cosign:"+build)
	}
	if body, _ := p.becomes(t, "demo/cosign:unsigned", http.StatusForbidden, 20*time.Second); !strings.Contains(body, "house/signed") {
		t.Errorf("unsigned: %s", body)
	}
}
