package proxy

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pratique"
)

const hexDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func testIndex(t testing.TB) *UpstreamIndex {
	t.Helper()
	x, err := NewUpstreamIndex(map[string]string{
		"docker.io": "https://registry-1.docker.io",
		"ghcr.io":   "https://ghcr.io",
		"lab":       "http://127.0.0.1:7001",
		"corp":      "https://Registry.Corp.example:443",
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestParse(t *testing.T) {
	hub := func(repo, tag string) pratique.Ref { return pratique.Ref{Registry: "docker.io", Repo: repo, Tag: tag} }
	lab := func(repo, tag string) pratique.Ref { return pratique.Ref{Registry: "lab", Repo: repo, Tag: tag} }
	tests := []struct {
		target string
		kind   kind
		ref    pratique.Ref
	}{
		{"/v2", kindBase, pratique.Ref{}},
		{"/v2/", kindBase, pratique.Ref{}},
		{"/v2/?ns=nobody.example", kindBase, pratique.Ref{}},
		{"/v2/docker.io/library/nginx/manifests/1.27", kindManifest, hub("library/nginx", "1.27")},
		{"/v2/docker.io/nginx/manifests/1.27", kindManifest, hub("library/nginx", "1.27")},
		{"/v2/docker.io/grafana/grafana/manifests/latest", kindManifest, hub("grafana/grafana", "latest")},
		{"/v2/Docker.IO/library/nginx/manifests/1.27", kindManifest, hub("library/nginx", "1.27")},
		{"/v2/docker.io/nginx/manifests/" + hexDigest, kindManifest, pratique.Ref{Registry: "docker.io", Repo: "library/nginx", Digest: hexDigest}},
		{"/v2/lab/app/blobs/" + hexDigest, kindBlob, pratique.Ref{Registry: "lab", Repo: "app", Digest: hexDigest}},
		{"/v2/lab/app/referrers/" + hexDigest + "?artifactType=a/b", kindReferrers, pratique.Ref{Registry: "lab", Repo: "app", Digest: hexDigest}},
		{"/v2/lab/app/tags/list?n=5&last=1.0", kindTags, lab("app", "")},
		{"/v2/lab/manifests/tags/list", kindTags, lab("manifests", "")},
		{"/v2/lab/tags/list/manifests/list", kindManifest, lab("tags/list", "list")},
		{"/v2/lab/blobs/manifests/blobs", kindManifest, lab("blobs", "blobs")},

		{"/v2/library/nginx/manifests/1.27?ns=docker.io", kindManifest, hub("library/nginx", "1.27")},
		{"/v2/nginx/manifests/1.27?ns=DOCKER.io", kindManifest, hub("library/nginx", "1.27")},
		{"/v2/library/nginx/manifests/1.27?ns=registry-1.docker.io", kindManifest, hub("library/nginx", "1.27")},
		{"/v2/library/nginx/manifests/1.27?ns=index.docker.io", kindManifest, hub("library/nginx", "1.27")},
		{"/v2/library/nginx/manifests/1.27?ns=registry-1.docker.io:443", kindManifest, hub("library/nginx", "1.27")},
		{"/v2/app/manifests/1?ns=127.0.0.1:7001", kindManifest, lab("app", "1")},
		{"/v2/app/manifests/1?ns=lab", kindManifest, lab("app", "1")},
		{"/v2/a/b/manifests/1?ns=registry.corp.example", kindManifest, pratique.Ref{Registry: "corp", Repo: "a/b", Tag: "1"}},
		{"/v2/a/b/manifests/1?ns=registry.corp.example:443", kindManifest, pratique.Ref{Registry: "corp", Repo: "a/b", Tag: "1"}},
		// A mirror behind a path rewrite says the upstream twice.
		{"/v2/docker.io/library/nginx/manifests/1?ns=docker.io", kindManifest, hub("library/nginx", "1")},
		// Elsewhere ns rules, and the rest is the repository's own name.
		{"/v2/lab/app/manifests/1?ns=127.0.0.1:7001", kindManifest, lab("lab/app", "1")},
		{"/v2/ghcr.io/a/manifests/1?ns=docker.io", kindManifest, hub("ghcr.io/a", "1")},
		{"/v2/docker.io/manifests/1?ns=lab", kindManifest, lab("docker.io", "1")},
	}
	for _, tt := range tests {
		t.Run(tt.target, func(t *testing.T) {
			p, err := parse(httptest.NewRequest(http.MethodGet, tt.target, nil), testIndex(t))
			if err != nil {
				t.Fatal(err)
			}
			if p.kind != tt.kind {
				t.Errorf("kind = %q, want %q", p.kind, tt.kind)
			}
			if diff := cmp.Diff(tt.ref, p.Ref); diff != "" {
				t.Errorf("ref (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseParameters(t *testing.T) {
	r := httptest.NewRequest(http.MethodHead, "/v2/app/tags/list?n=0&last=1.0&ns=lab", nil)
	r.RemoteAddr = "[::ffff:192.0.2.7]:4711"
	r.Header.Set("X-Forwarded-For", "198.51.100.1")
	r.Header.Set("Forwarded", "for=198.51.100.1")
	p, err := parse(r, testIndex(t))
	if err != nil {
		t.Fatal(err)
	}
	want := parsed{
		Request: Request{Ref: pratique.Ref{Registry: "lab", Repo: "app"}, Head: true, Client: Client{Addr: netip.MustParseAddr("192.0.2.7")}, N: 0, Last: "1.0"},
		kind:    kindTags, name: "app", ns: "lab",
	}
	if diff := cmp.Diff(want, p, cmp.AllowUnexported(parsed{}), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	long := strings.Repeat("a", 256)
	tests := []struct {
		name, method, target string
		want                 string
	}{
		{"not the API", "GET", "/", "404 UNSUPPORTED"},
		{"version 1", "GET", "/v1/repositories", "404 UNSUPPORTED"},
		{"a path that only begins alike", "GET", "/v2x/", "404 UNSUPPORTED"},
		{"the catalog", "GET", "/v2/_catalog", "404 UNSUPPORTED"},
		{"no reference", "GET", "/v2/lab/app/manifests/", "404 UNSUPPORTED"},
		{"no endpoint", "GET", "/v2/lab/app", "404 UNSUPPORTED"},
		{"trailing slash", "GET", "/v2/lab/app/manifests/1/", "404 UNSUPPORTED"},
		{"trailing slash after a list", "GET", "/v2/lab/app/tags/list/", "404 UNSUPPORTED"},
		{"upload", "POST", "/v2/lab/app/blobs/uploads/", "405 UNSUPPORTED"},
		{"push", "PUT", "/v2/lab/app/manifests/1", "405 UNSUPPORTED"},
		{"patch", "PATCH", "/v2/lab/app/blobs/uploads/1", "405 UNSUPPORTED"},
		{"delete", "DELETE", "/v2/lab/app/manifests/" + hexDigest, "405 UNSUPPORTED"},
		{"push of the base", "POST", "/v2/", "405 UNSUPPORTED"},
		{"an upstream that is not configured", "GET", "/v2/quay.io/a/manifests/1", "403 DENIED"},
		{"no upstream at all", "GET", "/v2/nginx/manifests/1", "403 DENIED"},
		{"ns not configured", "GET", "/v2/a/manifests/1?ns=quay.io", "403 DENIED"},
		{"ns empty", "GET", "/v2/lab/a/manifests/1?ns=", "403 DENIED"},
		{"ns with another port", "GET", "/v2/a/manifests/1?ns=127.0.0.1:7002", "403 DENIED"},
		{"ns without the port", "GET", "/v2/a/manifests/1?ns=127.0.0.1", "403 DENIED"},
		{"ns as another spelling of the address", "GET", "/v2/a/manifests/1?ns=127.1:7001", "403 DENIED"},
		{"ns as a number", "GET", "/v2/a/manifests/1?ns=2130706433:7001", "403 DENIED"},
		{"ns as IPv6", "GET", "/v2/a/manifests/1?ns=[::ffff:127.0.0.1]:7001", "403 DENIED"},
		{"ns with a user", "GET", "/v2/a/manifests/1?ns=user@docker.io", "403 DENIED"},
		{"ns as a URL", "GET", "/v2/a/manifests/1?ns=https://docker.io", "403 DENIED"},
		{"ns with a path", "GET", "/v2/a/manifests/1?ns=docker.io/x", "403 DENIED"},
		{"ns with a dot at the end", "GET", "/v2/a/manifests/1?ns=docker.io.", "403 DENIED"},
		{"ns with a space", "GET", "/v2/a/manifests/1?ns=%20docker.io", "403 DENIED"},
		{"ns with a zero byte", "GET", "/v2/a/manifests/1?ns=docker.io%00", "403 DENIED"},
		{"ns in punycode", "GET", "/v2/a/manifests/1?ns=xn--docer-8nf.io", "403 DENIED"},
		{"ns with the Kelvin sign", "GET", "/v2/a/manifests/1?ns=doc%E2%84%AAer.io", "403 DENIED"},
		{"ns in full width", "GET", "/v2/a/manifests/1?ns=%EF%BD%84ocker.io", "403 DENIED"},
		{"ns twice", "GET", "/v2/a/manifests/1?ns=docker.io&ns=lab", "400 NAME_INVALID"},
		{"prefix with a port", "GET", "/v2/127.0.0.1:7001/app/manifests/1", "403 DENIED"},
		{"prefix with a user", "GET", "/v2/u@lab/app/manifests/1", "403 DENIED"},
		{"prefix that is an alias", "GET", "/v2/registry-1.docker.io/library/nginx/manifests/1", "403 DENIED"},
		{"prefix alone", "GET", "/v2/docker.io/manifests/1", "400 NAME_INVALID"},
		{"empty name", "GET", "/v2//manifests/1", "400 NAME_INVALID"},
		{"two slashes", "GET", "/v2/lab//app/manifests/1", "400 NAME_INVALID"},
		{"two slashes at the front", "GET", "/v2//lab/app/manifests/1", "400 NAME_INVALID"},
		{"dots", "GET", "/v2/lab/x/../app/manifests/1", "400 NAME_INVALID"},
		{"dots to another upstream", "GET", "/v2/lab/../docker.io/nginx/manifests/1", "400 NAME_INVALID"},
		{"one dot", "GET", "/v2/lab/./app/manifests/1", "400 NAME_INVALID"},
		{"encoded slash", "GET", "/v2/lab%2fapp/manifests/1", "400 NAME_INVALID"},
		{"encoded slash in upper case", "GET", "/v2/lab/x%2Fapp/manifests/1", "400 NAME_INVALID"},
		{"encoded dots", "GET", "/v2/lab/%2e%2e/app/manifests/1", "400 NAME_INVALID"},
		{"encoded letter", "GET", "/v2/lab/%61pp/manifests/1", "400 NAME_INVALID"},
		{"encoded percent", "GET", "/v2/lab/%2561pp/manifests/1", "400 NAME_INVALID"},
		{"encoded colon of a digest", "GET", "/v2/lab/app/blobs/sha256%3A" + hexDigest[7:], "400 NAME_INVALID"},
		{"upper case in a name", "GET", "/v2/lab/App/manifests/1", "400 NAME_INVALID"},
		{"upper case in a name with ns", "GET", "/v2/App/manifests/1?ns=lab", "400 NAME_INVALID"},
		{"a backslash", "GET", `/v2/lab/a\b/manifests/1`, "400 NAME_INVALID"},
		{"a long name", "GET", "/v2/lab/" + long + "/manifests/1", "400 NAME_INVALID"},
		{"a very long path", "GET", "/v2/lab/" + strings.Repeat(long, 9) + "/manifests/1", "400 NAME_INVALID"},
		{"a semicolon in the query", "GET", "/v2/a/manifests/1?x=1;ns=lab", "400 NAME_INVALID"},
		{"a bad escape in the query", "GET", "/v2/a/manifests/1?ns=%zz", "400 NAME_INVALID"},
		{"conformance: a bad tag", "GET", "/v2/lab/app/manifests/.INVALID_MANIFEST_NAME", "404 MANIFEST_UNKNOWN"},
		{"a tag of 129 characters", "GET", "/v2/lab/app/manifests/" + long[:129], "404 MANIFEST_UNKNOWN"},
		{"conformance: a bad digest", "GET", "/v2/lab/app/manifests/sha256:totallywrong", "400 DIGEST_INVALID"},
		{"a bad digest of a blob", "GET", "/v2/lab/app/blobs/sha256:totallywrong", "400 DIGEST_INVALID"},
		{"a tag for a blob", "GET", "/v2/lab/app/blobs/latest", "400 DIGEST_INVALID"},
		{"a digest in upper case", "GET", "/v2/lab/app/blobs/" + strings.ToUpper(hexDigest), "400 DIGEST_INVALID"},
		{"a digest of another kind", "GET", "/v2/lab/app/blobs/sha384:" + strings.Repeat("a", 96), "400 DIGEST_INVALID"},
		{"a tag of referrers", "GET", "/v2/lab/app/referrers/latest", "400 DIGEST_INVALID"},
		{"n is no number", "GET", "/v2/lab/app/tags/list?n=x", "400 UNSUPPORTED"},
		{"n is negative", "GET", "/v2/lab/app/tags/list?n=-1", "400 UNSUPPORTED"},
		{"n overflows", "GET", "/v2/lab/app/tags/list?n=99999999999999999999", "400 UNSUPPORTED"},
		{"last is no tag", "GET", "/v2/lab/app/tags/list?last=../x", "400 UNSUPPORTED"},
		{"a long artifact type", "GET", "/v2/lab/app/referrers/" + hexDigest + "?artifactType=" + long + "a", "400 UNSUPPORTED"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, "/", nil)
			u, err := url.ParseRequestURI(tt.target)
			if err != nil {
				t.Fatal(err)
			}
			r.URL = u
			p, err := parse(r, testIndex(t))
			if got := code(err); got != tt.want {
				t.Errorf("answer = %q, want %q (%v, ref %s)", got, tt.want, err, p.Ref)
			}
			if tt.want == "403 DENIED" && !strings.Contains(err.Error(), "configured: corp, docker.io, ghcr.io, lab") {
				t.Errorf("%q does not say what is configured", err)
			}
		})
	}
}

func TestNilIndexKnowsNobody(t *testing.T) {
	for _, target := range []string{"/v2/docker.io/library/nginx/manifests/1", "/v2/nginx/manifests/1?ns=docker.io"} {
		if _, err := parse(httptest.NewRequest(http.MethodGet, target, nil), nil); code(err) != deniedCode {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestNewUpstreamIndexRefuses(t *testing.T) {
	tests := map[string]map[string]string{
		"a key with a port":             {"localhost:5000": "http://localhost:5000"},
		"a key with a slash":            {"a/b": "http://a"},
		"a key in upper case":           {"Lab": "http://lab"},
		"an empty key":                  {"": "http://lab"},
		"no scheme":                     {"lab": "127.0.0.1:5000"},
		"another scheme":                {"lab": "ftp://lab"},
		"two upstreams with one host":   {"a": "http://lab:5000", "b": "http://LAB:5000"},
		"a host that is another's key":  {"ghcr.io": "https://mirror.example", "b": "https://ghcr.io"},
		"a host with its standard port": {"a": "https://x.example", "b": "https://x.example:443"},
	}
	for name, upstreams := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := NewUpstreamIndex(upstreams); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("error = %v, want ErrInvalid", err)
			}
		})
	}
}

func TestIndexRef(t *testing.T) {
	got, err := testIndex(t).Ref(pratique.Ref{Registry: "index.docker.io", Repo: "nginx", Tag: "1"})
	if err != nil || got.String() != "docker.io/library/nginx:1" {
		t.Errorf("Ref = %v, %v", got, err)
	}
	// The hub's rule belongs to the hub, under whatever key.
	x, err := NewUpstreamIndex(map[string]string{"hub": "https://registry-1.docker.io", "docker.io.mirror": "https://m.example"})
	if err != nil {
		t.Fatal(err)
	}
	for registry, want := range map[string]string{"hub": "hub/library/nginx", "registry-1.docker.io": "hub/library/nginx", "docker.io.mirror": "docker.io.mirror/nginx"} {
		got, err := x.Ref(pratique.Ref{Registry: registry, Repo: "nginx"})
		if err != nil || got.Repository() != want {
			t.Errorf("Ref(%s) = %v, %v, want %s", registry, got, err, want)
		}
	}
}

// FuzzParse: whatever is accepted is in the grammar, names a configured
// upstream, and stands literally in the path.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"/v2/", "/v2/lab/app/manifests/1", "/v2/lab/app/blobs/" + hexDigest, "/v2/a/tags/list?n=1&ns=lab",
		"/v2/lab%2fapp/manifests/1", "/v2/lab/../app/manifests/1", "/v2/a/manifests/1?ns=docker.io&ns=lab", "/v2/docker.io/nginx/referrers/" + hexDigest,
	} {
		f.Add(s)
	}
	x := testIndex(f)
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Skip()
		}
		p, err := parse(&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}, x)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Status() < 400 || e.Status() >= 500 {
				t.Fatalf("%q: %v", target, err)
			}
			return
		}
		if p.kind == kindBase {
			return
		}
		switch p.Ref.Registry {
		case "docker.io", "ghcr.io", "lab", "corp":
		default:
			t.Fatalf("%q: upstream %q", target, p.Ref.Registry)
		}
		if !pratique.ValidRepo(p.Ref.Repo) || p.Ref.Tag != "" && !pratique.ValidTag(p.Ref.Tag) {
			t.Fatalf("%q: %v", target, p.Ref)
		}
		if p.Ref.Digest != "" {
			if _, err := pratique.ParseDigest(p.Ref.Digest.String()); err != nil {
				t.Fatal(err)
			}
		}
		name := strings.TrimPrefix(p.Ref.Repo, "library/")
		if !strings.Contains(u.EscapedPath(), "/"+name+"/") || strings.ContainsAny(u.EscapedPath(), "%\\") {
			t.Fatalf("%q was read as %v", target, p.Ref)
		}
	})
}
