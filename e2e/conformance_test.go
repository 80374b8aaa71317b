//go:build e2e

package e2e

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"pratique/tools/images"
)

var (
	// conformanceTotal is a line of the table of totals.
	conformanceTotal = regexp.MustCompile(`(?m)^ *(Pass|Skip|FAIL|Error)\.+: +(\d+)$`)
	// conformanceAPI is a line of the table of APIs.
	conformanceAPI = regexp.MustCompile(`(?m)^ *([A-Z][A-Za-z ]+?)\.+: +(\w+)$`)
)

// TestConformance runs the OCI distribution-spec's own program in its read-only
// mode. It is judged by its table: after printing that, it panics for want of
// tests that push.
func TestConformance(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	mirror := httptest.NewServer(namespaced(p, "docker.io"))
	t.Cleanup(mirror.Close)

	for _, sample := range []string{images.Clean, images.MultiArch} {
		p.decide(t, "docker.io/"+sample)
		repository, tag, _ := strings.Cut(sample, ":")
		for form, env := range map[string][]string{
			"prefix": {"OCI_REGISTRY=" + p.Registry, "OCI_REPO1=docker.io/" + repository},
			"ns":     {"OCI_REGISTRY=" + strings.TrimPrefix(mirror.URL, "http://"), "OCI_REPO1=" + repository},
		} {
			t.Run(form+" "+repository, func(t *testing.T) {
				cmd := exec.Command(binary(t, "conformance"))
				cmd.Dir = workdir(t, "oci")
				cmd.Env = append(os.Environ(), append(env, "OCI_TLS=disabled",
					"OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
					"OCI_RO_DATA_TAGS="+tag, "OCI_RO_DATA_MANIFESTS="+u.Digest(t, sample), "OCI_RO_DATA_REFERRERS="+u.Digest(t, sample),
					"OCI_RO_DATA_BLOBS="+strings.Join(u.layers(t, sample), " "), "OCI_RESULTS_DIR="+cmd.Dir)...)
				judge(t, run(t, cmd).output)
			})
		}
	}
}

// judge reads the tables: nothing failed, and everything that a registry has to
// do for pulls was tried.
func judge(t *testing.T, output string) {
	t.Helper()
	total := map[string]string{}
	for _, m := range conformanceTotal.FindAllStringSubmatch(output, -1) {
		total[m[1]] = m[2]
	}
	if total["FAIL"] != "0" || total["Error"] != "0" || total["Skip"] != "0" || total["Pass"] == "0" || total["Pass"] == "" {
		t.Errorf("totals %v", total)
	}
	api := map[string]string{}
	for _, m := range conformanceAPI.FindAllStringSubmatch(output, -1) {
		api[m[1]] = m[2]
	}
	for _, name := range []string{"Ping", "Tag listing", "Blob get", "Blob head", "Manifest get by digest", "Manifest get by tag",
		"Manifest head by digest", "Manifest head by tag", "Referrers", "Invalid Manifest Digest", "Read Only Inputs"} {
		if api[name] != "Pass" {
			t.Errorf("%s: %q", name, api[name])
		}
	}
	if t.Failed() {
		t.Log(output)
		return
	}
	t.Logf("OCI conformance: %s passed, %s failed, %s errors", total["Pass"], total["FAIL"], total["Error"])
}

// namespaced is what containerd's mirror requests look like: every request gets
// ?ns=.
func namespaced(p *Pratique, ns string) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: p.Registry})
		q := r.Out.URL.Query()
		q.Set("ns", ns)
		r.Out.URL.RawQuery = q.Encode()
	}}
}
