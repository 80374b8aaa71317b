package upstream_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
)

func TestTags(t *testing.T) {
	u := proxytest.New(t)
	want := []string{}
	for i := range 8 { // three pages
		want = append(want, fmt.Sprintf("v%d", i))
		u.Image("app", want[i])
	}
	got, err := client(t, u).Tags(t.Context(), "app")
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	u.Expect("GET /v2/app/tags/list?n=1000", "GET /v2/app/tags/list?n=3&last=v2", "GET /v2/app/tags/list?n=3&last=v5")
	if _, err := client(t, u, func(cfg *upstream.Config) { cfg.MaxTags = 7 }).Tags(t.Context(), "app"); err == nil {
		t.Error("a list longer than the limit was cut")
	}
	_, err = client(t, u).Tags(t.Context(), "none")
	is(t, err, proxy.CodeNameUnknown, 404)
}

func TestEmptyTagLists(t *testing.T) {
	for body, ok := range map[string]bool{
		`{"name":"app","tags":[]}`:        true,
		`{"name":"app","tags":null}`:      true, // distribution says so
		`{"name":"app"}`:                  false,
		`{}`:                              false,
		`[]`:                              false,
		``:                                false,
		`<html>`:                          false,
		`{"name":"app","tags":"v1"}`:      false,
		`{"name":"app","tags":["a",1]}`:   false,
		`{"errors":[{"code":"UNKNOWN"}]}`: false,
	} {
		u := proxytest.New(t)
		u.Fault("GET", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { fmt.Fprint(w, body) })
		got, err := client(t, u).Tags(t.Context(), "app")
		if (err == nil) != ok || len(got) > 0 {
			t.Errorf("%s: %v, %v", body, got, err)
		}
	}
}

func TestLinks(t *testing.T) {
	tests := []struct {
		name, link string
		ok         bool
	}{
		{"relative to the path", `<list?n=3&last=v2>; rel="next"`, true},
		{"quotes left out", `</v2/app/tags/list?n=3&last=v2>; rel=next`, true},
		{"absolute", `<HOST/v2/app/tags/list?n=3&last=v2>; rel="next"`, true},
		{"another relation", `<http://169.254.169.254/>; rel="prev"`, true},
		{"another host", `<http://127.0.0.1:1/v2/app/tags/list>; rel="next"`, false},
		{"credentials", `<http://a:b@HOSTPORT/v2/app/tags/list?n=3&last=v2>; rel="next"`, false},
		{"itself", `</v2/app/tags/list?n=1000>; rel="next"`, false},
		{"nonsense", `<%zz>; rel="next"`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := proxytest.New(t)
			for i := range 5 {
				u.Image("app", fmt.Sprintf("v%d", i))
			}
			link := strings.NewReplacer("HOSTPORT", u.Host(), "HOST", u.URL).Replace(tt.link)
			u.Fault("GET", 1, proxytest.Header("Link", link))
			_, err := client(t, u).Tags(t.Context(), "app")
			if (err == nil) != tt.ok {
				t.Errorf("err = %v", err)
			}
		})
	}
}

// Pages that never end are noticed.
func TestEndlessPages(t *testing.T) {
	u := proxytest.New(t)
	n := 0
	u.Fault("GET", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		n++
		w.Header().Set("Link", fmt.Sprintf(`</v2/app/tags/list?page=%d>; rel="next"`, n))
		fmt.Fprintf(w, `{"tags":["t%d"]}`, n)
	})
	_, err := client(t, u, func(cfg *upstream.Config) { cfg.MaxTags = 50 }).Tags(t.Context(), "app")
	is(t, err, proxy.CodeTooManyRequests, 502)
	u.Heal()
	u.Fault("GET", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		n++
		w.Header().Set("Link", fmt.Sprintf(`</v2/app/tags/list?page=%d>; rel="next"`, n))
		fmt.Fprint(w, `{"tags":[]}`)
	})
	_, err = client(t, u).Tags(t.Context(), "app")
	is(t, err, proxy.CodeTooManyRequests, 502)
}

// artifact puts a manifest that refers to subject.
func artifact(t *testing.T, u *proxytest.Upstream, subject digest.Digest, kind string) pratique.Descriptor {
	t.Helper()
	config := u.Blob("app", pratique.MediaTypeEmptyJSON, []byte("{}"))
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": pratique.MediaTypeImageManifest, "artifactType": kind, "config": config, "layers": []any{},
		"subject": pratique.Descriptor{MediaType: pratique.MediaTypeImageManifest, Digest: subject, Size: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := u.Manifest("app", "", pratique.MediaTypeImageManifest, raw)
	return pratique.Descriptor{MediaType: pratique.MediaTypeImageManifest, Digest: d, Size: int64(len(raw)), ArtifactType: kind}
}

func children(t *testing.T, raw []byte) []pratique.Descriptor {
	t.Helper()
	img, err := pratique.ParseManifest(pratique.MediaTypeImageIndex, raw)
	if err != nil {
		t.Fatal(err)
	}
	return img.Children
}

func TestReferrers(t *testing.T) {
	u := proxytest.New(t)
	d, _ := u.Image("app", "v1")
	sbom := artifact(t, u, d, "application/spdx+json")
	got, err := client(t, u).Referrers(t.Context(), "app", d)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]pratique.Descriptor{sbom}, children(t, got)); diff != "" {
		t.Error(diff)
	}
	u.Expect("GET /v2/app/referrers/" + d.String())
}

func TestReferrersPages(t *testing.T) {
	u := proxytest.New(t)
	d, _ := u.Image("app", "v1")
	path := "GET /v2/app/referrers/" + d.String()
	page := func(link, child string) proxytest.Fault {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", pratique.MediaTypeImageIndex)
			if link != "" {
				w.Header().Set("Link", "<"+link+">; rel=\"next\"")
			}
			fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":"x","digest":%q,"size":1,"more":"kept"}]}`,
				pratique.MediaTypeImageIndex, digest.FromString(child))
		}
	}
	u.Fault(path, 1, page("?page=2", "a"))
	u.Fault(path+"?page=2", 1, page("", "b"))
	got, err := client(t, u).Referrers(t.Context(), "app", d)
	if err != nil {
		t.Fatal(err)
	}
	var digests []digest.Digest
	for _, c := range children(t, got) {
		digests = append(digests, c.Digest)
	}
	if diff := cmp.Diff([]digest.Digest{digest.FromString("a"), digest.FromString("b")}, digests); diff != "" {
		t.Error(diff)
	}
	if strings.Count(string(got), `"more":"kept"`) != 2 {
		t.Errorf("fields were lost: %s", got)
	}
}

func TestReferrersTagSchema(t *testing.T) {
	d := digest.FromString("subject")
	tag := "sha256-" + d.Encoded()
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":"x","digest":%q,"size":1}]}`,
		pratique.MediaTypeImageIndex, digest.FromString("sig"))
	tests := []struct {
		name  string
		setup func(u *proxytest.Upstream)
		want  int // children, -1 = an error
	}{
		{"an index", func(u *proxytest.Upstream) { u.Manifest("app", tag, pratique.MediaTypeImageIndex, index) }, 1},
		{"no tag", func(*proxytest.Upstream) {}, 0},
		{"an image under the tag", func(u *proxytest.Upstream) { u.Image("app", tag) }, 0},
		{"nonsense under the tag", func(u *proxytest.Upstream) { u.Manifest("app", tag, pratique.MediaTypeImageIndex, []byte("{")) }, -1},
		{"the upstream fails", func(u *proxytest.Upstream) { u.Fault("GET /v2/app/manifests/", 0, proxytest.Status(500)) }, -1},
		{"the upstream refuses", func(u *proxytest.Upstream) { u.Fault("GET /v2/app/manifests/", 0, proxytest.Status(403)) }, -1},
		{"the API fails", func(u *proxytest.Upstream) {
			u.Manifest("app", tag, pratique.MediaTypeImageIndex, index)
			u.Fault("GET /v2/app/referrers/", 0, proxytest.Status(500))
		}, -1},
		{"the API refuses", func(u *proxytest.Upstream) { u.Fault("GET /v2/app/referrers/", 0, proxytest.Status(403)) }, -1},
		{"the API is a web page", func(u *proxytest.Upstream) {
			u.Manifest("app", tag, pratique.MediaTypeImageIndex, index)
			u.Fault("GET /v2/app/referrers/", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { fmt.Fprint(w, "<html>") })
		}, 1},
		{"the API sends nonsense", func(u *proxytest.Upstream) {
			u.Fault("GET /v2/app/referrers/", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.Header().Set("Content-Type", pratique.MediaTypeImageIndex)
				fmt.Fprint(w, `{"manifests":[]}`)
			})
		}, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := proxytest.New(t)
			u.NoReferrers()
			tt.setup(u)
			got, err := client(t, u).Referrers(t.Context(), "app", d)
			if tt.want < 0 {
				if err == nil {
					t.Errorf("no error: %s", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if n := len(children(t, got)); n != tt.want {
				t.Errorf("%d referrers, want %d", n, tt.want)
			}
		})
	}
}
