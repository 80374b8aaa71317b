package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
)

func TestTagLists(t *testing.T) {
	p := newPulled(t)
	for _, tag := range []string{"a", "b", "c"} {
		p.lab.Image("app", tag)
	}
	list := func() (proxy.TagList, error) {
		return p.Tags(t.Context(), proxy.Request{Ref: ref(t, "lab/app:x"), N: -1})
	}
	for range 2 {
		got, err := list()
		if diff := cmp.Diff([]string{"a", "b", "c"}, got.Tags); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	p.lab.Expect("GET /v2/app/tags/list?n=1000")
	p.lab.Image("app", "d")
	p.wait(time.Minute)
	if got, err := list(); err != nil || !slices.Contains(got.Tags, "d") {
		t.Errorf("%v, %v", got, err)
	}
	down(p.lab)
	p.wait(100 * 24 * time.Hour)
	if got, err := list(); err != nil || len(got.Tags) != 4 {
		t.Errorf("upstream down: %v, %v", got, err)
	}
	if _, err := p.Tags(t.Context(), proxy.Request{Ref: ref(t, "lab/other:x"), N: -1}); !proxy.Down(err) {
		t.Errorf("never listed: %v", err)
	}
	p.lab.Heal()
	_, err := p.Tags(t.Context(), proxy.Request{Ref: ref(t, "lab/other:x"), N: -1})
	wants(t, err, proxy.CodeNameUnknown, 404)
}

func TestTagPages(t *testing.T) {
	ordered := []string{"a", "b", "c", "d"}
	mixed := []string{"alpha", "Beta", "gamma"} // the spec's order ignores case
	tests := []struct {
		name string
		tags []string
		n    int
		last string
		want []string
		more bool
	}{
		{"all", ordered, -1, "", ordered, false},
		{"first page", ordered, 2, "", []string{"a", "b"}, true},
		{"second page", ordered, 2, "b", []string{"c", "d"}, false},
		{"page larger than the rest", ordered, 9, "c", []string{"d"}, false},
		{"exactly all", ordered, 4, "", ordered, false},
		{"nothing asked for", ordered, 0, "", []string{}, false},
		{"after the last", ordered, -1, "d", []string{}, false},
		{"after a tag that is gone", ordered, -1, "bb", []string{"c", "d"}, false},
		{"before all", ordered, 1, "A", []string{"a"}, true},
		{"after all", ordered, 1, "zz", []string{}, false},
		{"mixed case, there", mixed, -1, "Beta", []string{"gamma"}, false},
		{"mixed case, gone", mixed, -1, "Beth", []string{"gamma"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPulled(t)
			r := proxy.Request{Ref: ref(t, "lab/app:x"), N: tt.n, Last: tt.last}
			if err := p.state.SetTagList(t.Context(), r.Ref, tt.tags, p.clock()); err != nil {
				t.Fatal(err)
			}
			got, err := p.Tags(t.Context(), r)
			if diff := cmp.Diff(proxy.TagList{Tags: tt.want, More: tt.more}, got); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

func TestReferrersAreFiltered(t *testing.T) {
	p := newPulled(t)
	d, _ := p.lab.Image("app", "v1")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"digest":%q,"size":1,"artifactType":"sig","own":1.0},{"digest":%q,"size":1,"artifactType":"sbom"}]}`,
		pratique.MediaTypeImageIndex, digest.FromString("1"), digest.FromString("2"))
	p.lab.Fault("GET /v2/app/referrers/", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", pratique.MediaTypeImageIndex)
		fmt.Fprint(w, index)
	})
	for artifactType, want := range map[string]int{"": 2, "sig": 1, "none": 0} {
		got, err := p.Referrers(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+d.String()), ArtifactType: artifactType})
		if err != nil {
			t.Fatal(err)
		}
		var doc struct{ Manifests []json.RawMessage }
		if err := json.Unmarshal(got.Index, &doc); err != nil || doc.Manifests == nil || len(doc.Manifests) != want || got.Filtered != (artifactType != "") {
			t.Errorf("%q: %s, %v", artifactType, got.Index, err)
		}
		if artifactType == "sig" && !strings.Contains(string(got.Index), `"own":1.0`) {
			t.Errorf("changed: %s", got.Index)
		}
		if artifactType == "" && string(got.Index) != index {
			t.Errorf("changed: %s", got.Index)
		}
	}
	p.lab.Heal()
	down(p.lab)
	if _, err := p.Referrers(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+d.String())}); !proxy.Down(err) {
		t.Errorf("upstream down: %v", err)
	}
}
