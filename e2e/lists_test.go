//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pratique/tools/images"
)

// listing is an upstream with lists of its own; the rest is the stock one's.
func listing(t *testing.T, u *Upstream, lists map[string]string) *Upstream {
	t.Helper()
	stock := u.tap.Config.Handler
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := lists[r.URL.Path]
		if !ok {
			stock.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(r.URL.Path, "/referrers/") {
			w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		}
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return &Upstream{Addr: strings.TrimPrefix(s.URL, "http://"), sample: u.sample}
}

// TestTagsList holds tags/list to distribution-spec 1.1, "Listing Tags".
func TestTagsList(t *testing.T) {
	t.Parallel()
	u := listing(t, StartUpstream(t), map[string]string{
		"/v2/demo/many/tags/list":  `{"name":"demo/many","tags":["1.0","1.1","1.10","2.0","latest"]}`,
		"/v2/demo/empty/tags/list": `{"name":"demo/empty","tags":[]}`,
		"/v2/demo/null/tags/list":  `{"name":"demo/null","tags":null}`,
	})
	p := StartPratique(t, u, Options{})
	next := func(query string) string { return "</v2/docker.io/demo/many/tags/list?" + query + `>; rel="next"` }
	tests := map[string]struct {
		path   string
		status int
		body   string
		link   string
	}{
		"all":                   {"/v2/docker.io/demo/many/tags/list", 200, `{"name":"docker.io/demo/many","tags":["1.0","1.1","1.10","2.0","latest"]}`, ""},
		"a page":                {"/v2/docker.io/demo/many/tags/list?n=2", 200, `{"name":"docker.io/demo/many","tags":["1.0","1.1"]}`, next("last=1.1&n=2")},
		"the next page":         {"/v2/docker.io/demo/many/tags/list?n=2&last=1.1", 200, `{"name":"docker.io/demo/many","tags":["1.10","2.0"]}`, next("last=2.0&n=2")},
		"the last page":         {"/v2/docker.io/demo/many/tags/list?n=2&last=2.0", 200, `{"name":"docker.io/demo/many","tags":["latest"]}`, ""},
		"a page of all":         {"/v2/docker.io/demo/many/tags/list?n=5", 200, `{"name":"docker.io/demo/many","tags":["1.0","1.1","1.10","2.0","latest"]}`, ""},
		"a page of more":        {"/v2/docker.io/demo/many/tags/list?n=1000000", 200, `{"name":"docker.io/demo/many","tags":["1.0","1.1","1.10","2.0","latest"]}`, ""},
		"n=0 is an empty list":  {"/v2/docker.io/demo/many/tags/list?n=0", 200, `{"name":"docker.io/demo/many","tags":[]}`, ""},
		"n=0 after a tag":       {"/v2/docker.io/demo/many/tags/list?n=0&last=1.0", 200, `{"name":"docker.io/demo/many","tags":[]}`, ""},
		"last alone":            {"/v2/docker.io/demo/many/tags/list?last=1.10", 200, `{"name":"docker.io/demo/many","tags":["2.0","latest"]}`, ""},
		"last is the end":       {"/v2/docker.io/demo/many/tags/list?last=latest", 200, `{"name":"docker.io/demo/many","tags":[]}`, ""},
		"last is gone":          {"/v2/docker.io/demo/many/tags/list?n=2&last=1.11", 200, `{"name":"docker.io/demo/many","tags":["2.0","latest"]}`, ""},
		"last is past the end":  {"/v2/docker.io/demo/many/tags/list?last=zz", 200, `{"name":"docker.io/demo/many","tags":[]}`, ""},
		"through a mirror":      {"/v2/demo/many/tags/list?n=1&ns=docker.io", 200, `{"name":"demo/many","tags":["1.0"]}`, `</v2/demo/many/tags/list?last=1.0&n=1&ns=docker.io>; rel="next"`},
		"no tags":               {"/v2/docker.io/demo/empty/tags/list", 200, `{"name":"docker.io/demo/empty","tags":[]}`, ""},
		"no tags, said as null": {"/v2/docker.io/demo/null/tags/list", 200, `{"name":"docker.io/demo/null","tags":[]}`, ""},
		"n below nothing":       {"/v2/docker.io/demo/many/tags/list?n=-1", 400, "", ""},
		"n is no number":        {"/v2/docker.io/demo/many/tags/list?n=two", 400, "", ""},
		"n does not fit":        {"/v2/docker.io/demo/many/tags/list?n=99999999999999999999", 400, "", ""},
		"last is no tag":        {"/v2/docker.io/demo/many/tags/list?last=../x", 400, "", ""},
		"repository not there":  {"/v2/docker.io/demo/none/tags/list", 404, "", ""},
		"upstream not there":    {"/v2/ghcr.io/demo/many/tags/list", 403, "", ""},
		"tags/list in the name": {"/v2/docker.io/demo/tags/list/tags/list", 404, "", ""},
		"a slash at the end":    {"/v2/docker.io/demo/many/tags/list/", 404, "", ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			res, body := p.Do(t, http.MethodGet, tc.path, nil)
			if res.StatusCode != tc.status || res.Header.Get("Link") != tc.link {
				t.Errorf("GET = %s, Link %q, want %d, %q: %s", res.Status, res.Header.Get("Link"), tc.status, tc.link, body)
			}
			if tc.status == 200 && strings.TrimSpace(body) != tc.body {
				t.Errorf("GET = %s, want %s", body, tc.body)
			}
			if code := errorCode(t, body); tc.status >= 400 && code == "" {
				t.Errorf("no error document: %s", body)
			}
			head, nothing := p.Do(t, http.MethodHead, tc.path, nil)
			if head.StatusCode != tc.status || nothing != "" || head.Header.Get("Link") != tc.link || tc.status == 200 && head.ContentLength != int64(len(body)) {
				t.Errorf("HEAD = %s, %d bytes announced, body %q; GET has %d", head.Status, head.ContentLength, nothing, len(body))
			}
		})
	}

	t.Run("following Link", func(t *testing.T) {
		for _, path := range []string{"/v2/docker.io/demo/many/tags/list?n=1", "/v2/demo/many/tags/list?n=2&ns=docker.io"} {
			var all []string
			for at := path; at != ""; {
				res, body := p.Do(t, http.MethodGet, at, nil)
				var page struct{ Tags []string }
				if err := json.Unmarshal([]byte(body), &page); err != nil || len(all) > 5 {
					t.Fatalf("%v: %s", err, body)
				}
				all = append(all, page.Tags...)
				at, _, _ = strings.Cut(strings.TrimPrefix(res.Header.Get("Link"), "<"), ">")
			}
			if diff := cmp.Diff([]string{"1.0", "1.1", "1.10", "2.0", "latest"}, all); diff != "" {
				t.Errorf("%s (-want +got):\n%s", path, diff)
			}
		}
	})
}

// errorCode is the code of the first error in an error document, "" if body is
// none.
func errorCode(t testing.TB, body string) string {
	t.Helper()
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || len(doc.Errors) == 0 || doc.Errors[0].Message == "" {
		return ""
	}
	return doc.Errors[0].Code
}

const (
	signature = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:1111111111111111111111111111111111111111111111111111111111111111","size":7,"artifactType":"application/vnd.example.signature","annotations":{"a":"<b>"}}`
	sbom      = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:2222222222222222222222222222222222222222222222222222222222222222","size":8,"artifactType":"application/spdx+json"}`
)

func referrersIndex(manifests ...string) string {
	return `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` + strings.Join(manifests, ",") + `]}`
}

// TestReferrers holds referrers to distribution-spec 1.1, "Listing Referrers".
func TestReferrers(t *testing.T) {
	t.Parallel()
	stock := StartUpstream(t)
	clean, multi, bad := stock.Digest(t, images.Clean), stock.Digest(t, images.MultiArch), stock.Digest(t, images.Vulnerable)
	u := listing(t, stock, map[string]string{
		"/v2/demo/clean/referrers/" + clean:     referrersIndex(signature, sbom),
		"/v2/demo/multiarch/referrers/" + multi: referrersIndex(),
		"/v2/demo/vulnerable/referrers/" + bad:  referrersIndex(signature),
		"/v2/demo/broken/referrers/" + clean:    `{"errors":[]}`,
		"/v2/demo/broken/manifests/" + clean:    "", // no manifest
	})
	p := StartPratique(t, u, Options{})
	for _, sample := range []string{images.Clean, images.MultiArch, images.Vulnerable} {
		p.decide(t, "docker.io/"+sample)
	}
	nobody := "sha256:" + strings.Repeat("3", 64)
	of := func(repository, digest string) string { return "/v2/docker.io/" + repository + "/referrers/" + digest }
	filter := func(artifactType string) string { return "?artifactType=" + url.QueryEscape(artifactType) }
	tests := map[string]struct {
		path     string
		status   int
		listed   []string // what stands in manifests, as it was written
		filtered bool
	}{
		"all":                         {of("demo/clean", clean), 200, []string{signature, sbom}, false},
		"one type":                    {of("demo/clean", clean) + filter("application/spdx+json"), 200, []string{sbom}, true},
		"one type, as it was written": {of("demo/clean", clean) + filter("application/vnd.example.signature"), 200, []string{signature}, true},
		"a type that none has":        {of("demo/clean", clean) + filter("application/none"), 200, nil, true},
		"an empty type is no filter":  {of("demo/clean", clean) + filter(""), 200, []string{signature, sbom}, false},
		"through a mirror":            {"/v2/demo/clean/referrers/" + clean + "?ns=docker.io", 200, []string{signature, sbom}, false},
		"none":                        {of("demo/multiarch", multi), 200, nil, false},
		"none, filtered":              {of("demo/multiarch", multi) + filter("application/none"), 200, nil, true},
		"nobody knows the subject":    {of("demo/clean", nobody), 200, nil, false},
		"refused subject":             {of("demo/vulnerable", bad), 403, nil, false},
		"no digest":                   {of("demo/clean", "1.0"), 400, nil, false},
		"a wrong digest":              {of("demo/clean", "sha256:totallywrong"), 400, nil, false},
		"a type longer than any":      {of("demo/clean", clean) + filter(strings.Repeat("a", 300)), 400, nil, false},
		"upstream sends no index":     {of("demo/broken", clean), 502, nil, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			res, body := p.Do(t, http.MethodGet, tc.path, nil)
			if res.StatusCode != tc.status {
				t.Fatalf("GET = %s %s, want %d", res.Status, body, tc.status)
			}
			if tc.status != 200 {
				if errorCode(t, body) == "" {
					t.Errorf("no error document: %s", body)
				}
				return
			}
			var index struct {
				SchemaVersion int
				MediaType     string
				Manifests     []json.RawMessage
			}
			if err := json.Unmarshal([]byte(body), &index); err != nil || index.SchemaVersion != 2 || index.MediaType != "application/vnd.oci.image.index.v1+json" || index.Manifests == nil {
				t.Errorf("%v: no image index, or manifests is null: %s", err, body)
			}
			var listed []string
			for _, m := range index.Manifests {
				listed = append(listed, string(m))
			}
			if diff := cmp.Diff(tc.listed, listed); diff != "" {
				t.Errorf("manifests (-want +got):\n%s", diff)
			}
			if got := res.Header.Get("OCI-Filters-Applied"); (got == "artifactType") != tc.filtered || got != "" && !tc.filtered {
				t.Errorf("OCI-Filters-Applied = %q", got)
			}
			if got := res.Header.Get("Content-Type"); got != "application/vnd.oci.image.index.v1+json" {
				t.Errorf("Content-Type = %q", got)
			}
			head, nothing := p.Do(t, http.MethodHead, tc.path, nil)
			if head.StatusCode != 200 || nothing != "" || head.ContentLength != int64(len(body)) {
				t.Errorf("HEAD = %s, %d bytes announced, body %q; GET has %d", head.Status, head.ContentLength, nothing, len(body))
			}
		})
	}
}
