package proxy

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"pratique"
)

// kind is what a request is for.
type kind string

// Kinds of requests; the words are those of logs and metrics.
const (
	kindNone      kind = "none" // none of the pull side's
	kindBase      kind = "base" // /v2/, "is this a registry?"
	kindManifest  kind = "manifest"
	kindBlob      kind = "blob"
	kindTags      kind = "tags"
	kindReferrers kind = "referrers"
)

// parsed is a request after parsing: nothing downstream looks at the URL again.
type parsed struct {
	Request
	kind kind
	// name and ns are as the client wrote them, for answers that name the
	// repository or link to it.
	name, ns string
}

// maxPath bounds a request's path: a name of 255, a tag of 128 or a sha512
// digest, an upstream's key and the words between fit three times over.
const maxPath = 2048

// maxParameter bounds a query parameter that is passed on.
const maxParameter = 256

// parse reads a request once. On an error parsed holds what was understood,
// for the log. Nothing is unescaped, cleaned or joined: what is not literally
// in the grammar of OCI distribution-spec 1.1 is refused, because two parsers
// that repair a name differently are a way around a rule on names.
func parse(r *http.Request, upstreams *UpstreamIndex) (parsed, error) {
	p := parsed{kind: kindNone}
	p.N = -1
	p.Head = r.Method == http.MethodHead
	p.Client = Client{Addr: clientAddr(r.RemoteAddr)}
	path := r.URL.EscapedPath()
	if path != "/v2" && !strings.HasPrefix(path, "/v2/") {
		return p, &Error{Code: CodeUnsupported, HTTPStatus: http.StatusNotFound, Message: "no such page: this is a registry, its API begins at /v2/"}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return p, Errorf(CodeUnsupported, "%.16q: this registry is read-only; push to the upstream", r.Method)
	}
	path = strings.TrimPrefix(strings.TrimPrefix(path, "/v2"), "/")
	if path == "" {
		p.kind = kindBase
		return p, nil
	}
	if len(path) > maxPath {
		return p, Errorf(CodeNameInvalid, "the path is longer than %d bytes", maxPath)
	}
	if strings.IndexByte(path, '%') >= 0 {
		return p, Errorf(CodeNameInvalid, "percent-encoding is not accepted in names, tags and digests")
	}
	k, name, reference, ok := split(path)
	if !ok {
		return p, &Error{Code: CodeUnsupported, HTTPStatus: http.StatusNotFound, Message: "no such endpoint: manifests, blobs, tags/list and referrers of a repository are served"}
	}
	p.kind, p.name = k, name
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return p, Errorf(CodeNameInvalid, "the query cannot be read")
	}
	if err := p.repository(query, upstreams); err != nil {
		return p, err
	}
	if err := p.reference(reference); err != nil {
		return p, err
	}
	return p, p.parameters(query)
}

// split takes a path below /v2/ apart from its end, where the fixed words are,
// so that a repository may hold those words in its name.
func split(path string) (k kind, name, reference string, ok bool) {
	if name, ok := strings.CutSuffix(path, "/tags/list"); ok {
		return kindTags, name, "", true
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return kindNone, "", "", false
	}
	path, reference = path[:i], path[i+1:]
	i = strings.LastIndexByte(path, '/')
	if i < 0 || reference == "" {
		return kindNone, "", "", false
	}
	name = path[:i]
	switch path[i+1:] {
	case "manifests":
		return kindManifest, name, reference, true
	case "blobs":
		return kindBlob, name, reference, true
	case "referrers":
		return kindReferrers, name, reference, true
	}
	return kindNone, "", "", false
}

// repository finds the upstream and the repository in the name and ?ns=.
func (p *parsed) repository(query url.Values, upstreams *UpstreamIndex) error {
	for element := range strings.SplitSeq(p.name, "/") {
		if element == "" || element == "." || element == ".." {
			return Errorf(CodeNameInvalid, "a name has no empty, . or .. elements")
		}
	}
	var err error
	switch ns := query["ns"]; len(ns) {
	case 0:
		p.Ref.Registry, p.Ref.Repo, err = upstreams.prefixed(p.name)
	case 1:
		p.ns = ns[0]
		p.Ref.Registry, p.Ref.Repo, err = upstreams.namespaced(ns[0], p.name)
	default:
		// Taking the first where another taker takes the last is a way around.
		err = Errorf(CodeNameInvalid, "more than one ns parameter")
	}
	var e *Error
	if errors.As(err, &e) && e.Code == CodeDenied && (p.kind == kindManifest || p.kind == kindBlob) {
		e.Bare = true
	}
	return err
}

// reference reads the last element of the path as the kind wants it.
func (p *parsed) reference(s string) error {
	switch {
	case p.kind == kindTags:
		return nil
	case p.kind == kindManifest && !strings.Contains(s, ":"):
		if !pratique.ValidTag(s) {
			return Errorf(CodeManifestUnknown, "no tag can be named %.140q", s)
		}
		p.Ref.Tag = s
		return nil
	}
	d, err := pratique.ParseDigest(s)
	if err != nil {
		return &Error{Code: CodeDigestInvalid, Message: "want sha256:<64 hex digits> or sha512:<128 hex digits>, all lower-case", Err: err}
	}
	p.Ref.Digest = d
	return nil
}

// parameters reads the rest of the query.
func (p *parsed) parameters(query url.Values) error {
	bad := func(name string) error {
		return &Error{Code: CodeUnsupported, HTTPStatus: http.StatusBadRequest, Message: "parameter " + name + " cannot be read"}
	}
	switch p.kind {
	case kindTags:
		if query.Has("n") {
			n, err := strconv.Atoi(query.Get("n"))
			if err != nil || n < 0 {
				return bad("n")
			}
			p.N = n
		}
		p.Last = query.Get("last")
		if p.Last != "" && !pratique.ValidTag(p.Last) {
			return bad("last")
		}
	case kindReferrers:
		p.ArtifactType = query.Get("artifactType")
		if len(p.ArtifactType) > maxParameter {
			return bad("artifactType")
		}
	default:
	}
	return nil
}

// clientAddr is the peer of the connection; headers that claim another are
// never read. A zero Addr is no address.
func clientAddr(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
