// Package proxytest provides an upstream registry that runs in the test's own
// process, remembers everything that it was asked, and fails as told; and
// contracts of package store in memory.
package proxytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// Upstream is a registry on loopback: the pull side, with pages, ranges and
// referrers, and its own token service. It serves what the test put there.
type Upstream struct {
	*httptest.Server
	t testing.TB

	mu        sync.Mutex
	blobs     map[string][]byte   // by repository@digest
	manifests map[string]manifest // by repository@digest
	tags      map[string][]tag    // by repository, in the order in which they came
	seen      []string
	faults    []*fault
	auth      *auth
	referrers bool
}

type manifest struct {
	mediaType string
	raw       []byte
}

type tag struct {
	name   string
	digest digest.Digest
}

// New starts an upstream that ends with the test.
func New(t testing.TB) *Upstream {
	t.Helper()
	u := &Upstream{
		t:         t,
		blobs:     make(map[string][]byte),
		manifests: make(map[string]manifest),
		tags:      make(map[string][]tag),
		referrers: true,
	}
	u.Server = httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

// Host is host:port of the upstream.
func (u *Upstream) Host() string { return strings.TrimPrefix(u.URL, "http://") }

// Blob puts content into a repository.
func (u *Upstream) Blob(repo, mediaType string, content []byte) pratique.Descriptor {
	u.mu.Lock()
	defer u.mu.Unlock()
	d := digest.FromBytes(content)
	u.blobs[repo+"@"+d.String()] = content
	return pratique.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

// Manifest puts a manifest into a repository, and a tag if there is one, which
// may have named another before.
func (u *Upstream) Manifest(repo, name, mediaType string, raw []byte) digest.Digest {
	u.mu.Lock()
	defer u.mu.Unlock()
	d := digest.FromBytes(raw)
	u.manifests[repo+"@"+d.String()] = manifest{mediaType, raw}
	if name != "" {
		u.tags[repo] = append(slices.DeleteFunc(u.tags[repo], func(t tag) bool { return t.name == name }), tag{name, d})
	}
	return d
}

// Image puts an image with an empty config and these layers into a repository
// and returns its manifest.
func (u *Upstream) Image(repo, name string, layers ...[]byte) (digest.Digest, []byte) {
	u.t.Helper()
	doc := map[string]any{
		"schemaVersion": 2,
		"mediaType":     pratique.MediaTypeImageManifest,
		"config":        u.Blob(repo, pratique.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","layers":%d}`, len(layers))),
	}
	descriptors := []pratique.Descriptor{}
	for _, layer := range layers {
		descriptors = append(descriptors, u.Blob(repo, "application/vnd.oci.image.layer.v1.tar+gzip", layer))
	}
	doc["layers"] = descriptors
	raw, err := json.Marshal(doc)
	if err != nil {
		u.t.Fatal(err)
	}
	return u.Manifest(repo, name, pratique.MediaTypeImageManifest, raw), raw
}

// Untag removes a tag; Remove removes a blob or manifest.
func (u *Upstream) Untag(repo, name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tags[repo] = slices.DeleteFunc(u.tags[repo], func(t tag) bool { return t.name == name })
}

// Remove removes a blob or manifest from a repository.
func (u *Upstream) Remove(repo string, d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.blobs, repo+"@"+d.String())
	delete(u.manifests, repo+"@"+d.String())
}

// NoReferrers makes the upstream one without the referrers API.
func (u *Upstream) NoReferrers() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.referrers = false
}

// Seen returns the requests since the last call, in order, each as "GET /path"
// with " Range: …" or " Authorization: scheme" behind it where these came.
func (u *Upstream) Seen() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.seen
	u.seen = nil
	return seen
}

// Expect fails the test unless the requests since the last call of Seen or
// Expect were exactly these, in any order.
func (u *Upstream) Expect(want ...string) {
	u.t.Helper()
	got := u.Seen()
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
		u.t.Errorf("the upstream saw (-want +got):\n%s", diff)
	}
}

func (u *Upstream) serve(w http.ResponseWriter, r *http.Request) {
	line := r.Method + " " + r.URL.RequestURI()
	if v := r.Header.Get("Range"); v != "" {
		line += " Range: " + v
	}
	if v := r.Header.Get("Authorization"); v != "" {
		scheme, _, _ := strings.Cut(v, " ")
		line += " Authorization: " + scheme
	}
	u.mu.Lock()
	u.seen = append(u.seen, line)
	handle := u.faulty(line)
	a := u.auth
	u.mu.Unlock()
	next := http.Handler(http.HandlerFunc(u.answer))
	if a != nil {
		next = a.wrap(next)
	}
	if handle != nil {
		handle(w, r, next)
		return
	}
	next.ServeHTTP(w, r)
}

func (u *Upstream) answer(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	for kind, handle := range map[string]func(http.ResponseWriter, *http.Request, string, string){
		"/manifests/": u.manifest, "/blobs/": u.blob, "/tags/": u.list, "/referrers/": u.refer,
	} {
		if repo, last, ok := strings.Cut(path, kind); ok {
			handle(w, r, repo, last)
			return
		}
	}
	fail(w, http.StatusNotFound, "NAME_UNKNOWN")
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"the upstream says no"}]}`, code)
}

func (u *Upstream) manifest(w http.ResponseWriter, r *http.Request, repo, reference string) {
	for _, t := range u.tags[repo] {
		if t.name == reference {
			reference = t.digest.String()
		}
	}
	m, ok := u.manifests[repo+"@"+reference]
	if !ok {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", m.mediaType)
	w.Header().Set("Docker-Content-Digest", reference)
	w.Header().Set("Content-Length", fmt.Sprint(len(m.raw)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(m.raw)
	}
}

func (u *Upstream) blob(w http.ResponseWriter, r *http.Request, repo, d string) {
	content, ok := u.blobs[repo+"@"+d]
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
		return
	}
	u.mu.Unlock() // a slow reader must not stop the others
	defer u.mu.Lock()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

func (u *Upstream) list(w http.ResponseWriter, r *http.Request, repo, _ string) {
	all, ok := u.tags[repo]
	if !ok {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	names := []string{}
	for _, t := range all {
		names = append(names, t.name)
	}
	slices.Sort(names)
	if last := r.URL.Query().Get("last"); last != "" {
		names = names[slices.Index(names, last)+1:]
	}
	const most = 3 // a small page, so that every list has some
	if len(names) > most {
		names = names[:most]
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?n=%d&last=%s>; rel="next"`, repo, most, names[most-1]))
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repo, "tags": names})
}

func (u *Upstream) refer(w http.ResponseWriter, _ *http.Request, repo, d string) {
	if !u.referrers {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	found := []pratique.Descriptor{}
	for key, m := range u.manifests {
		img, err := pratique.ParseManifest(m.mediaType, m.raw)
		if err == nil && strings.HasPrefix(key, repo+"@") && img.Subject != nil && img.Subject.Digest.String() == d {
			found = append(found, pratique.Descriptor{MediaType: m.mediaType, Digest: img.Digest, Size: img.Size, ArtifactType: img.ArtifactType})
		}
	}
	slices.SortFunc(found, func(a, b pratique.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	w.Header().Set("Content-Type", pratique.MediaTypeImageIndex)
	_ = json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "mediaType": pratique.MediaTypeImageIndex, "manifests": found})
}
