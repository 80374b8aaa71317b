package web

import (
	"fmt"
	"net/http"
	"strings"

	"pratique"
)

// dockerHub is what a name without a registry means.
const dockerHub = "docker.io"

// resolve reads a reference as people type it. The first element is an upstream
// when it is the name of one; otherwise the rules are Docker's: a first element
// with a dot or colon, or localhost, is a registry (here: an unknown one), and
// everything else is on Docker Hub, official images under library/.
func (s *server) resolve(typed string) (pratique.Ref, error) {
	typed = strings.TrimSpace(typed)
	for _, scheme := range []string{"docker://", "oci://", "https://", "http://"} {
		typed = strings.TrimPrefix(typed, scheme)
	}
	if typed == "" {
		return pratique.Ref{}, badRequest("no reference given", "name an image, for example docker.io/library/nginx:1.27")
	}
	if strings.HasPrefix(typed, "sha256:") || strings.HasPrefix(typed, "sha512:") {
		return pratique.Ref{}, badRequest(fmt.Sprintf("%q is a digest without a repository", typed), "write REPOSITORY@"+typed)
	}
	first, rest, hasSlash := strings.Cut(typed, "/")
	if hasSlash {
		if key, ok := s.upstream(first); ok {
			return s.parse(key, rest, typed)
		}
		if strings.ContainsAny(first, ".:") || first == "localhost" {
			return pratique.Ref{}, s.unknownUpstream(first, rest)
		}
	}
	key, ok := s.hub()
	if !ok {
		return pratique.Ref{}, badRequest(fmt.Sprintf("reference %q names no upstream and %s is not configured", typed, dockerHub),
			"write UPSTREAM/REPOSITORY:TAG with one of: "+s.upstreamList())
	}
	return s.parse(key, typed, typed)
}

// upstream finds the key of a registry by any of its names.
func (s *server) upstream(name string) (string, bool) {
	if s.Upstreams == nil {
		return "", false
	}
	return s.Upstreams.Lookup(name)
}

// hub finds the key of Docker Hub, whatever it is configured as.
func (s *server) hub() (string, bool) {
	for _, name := range []string{dockerHub, "registry-1.docker.io", "index.docker.io"} {
		if key, ok := s.upstream(name); ok {
			return key, true
		}
	}
	return "", false
}

// parse reads what follows the upstream. Docker Hub's official images live
// under library/, whether people write it or not.
func (s *server) parse(key, rest, typed string) (pratique.Ref, error) {
	name, _, _ := strings.Cut(rest, "@")
	if hub, ok := s.hub(); ok && key == hub && !strings.Contains(name, "/") {
		rest = "library/" + rest
	}
	ref, err := pratique.ParseRef(key + "/" + rest)
	if err != nil {
		return pratique.Ref{}, &apiError{
			status:  http.StatusBadRequest,
			message: fmt.Sprintf("%q is not an image reference", typed),
			hint:    "write UPSTREAM/REPOSITORY:TAG or UPSTREAM/REPOSITORY@sha256:…, in lower case: docker.io/library/nginx:1.27",
			err:     err,
		}
	}
	return ref, nil
}

// unknownUpstream also serves those who paste the name that they pull by, with
// Pratique's own address in front.
func (s *server) unknownUpstream(first, rest string) error {
	second, _, _ := strings.Cut(rest, "/")
	if _, ok := s.upstream(second); ok {
		return badRequest(fmt.Sprintf("registry %q is not an upstream of this server", first),
			fmt.Sprintf("leave out the address of Pratique itself: %s", rest))
	}
	return badRequest(fmt.Sprintf("registry %q is not an upstream of this server", first),
		"configured are: "+s.upstreamList()+"; add it under upstreams to pull from it")
}

func (s *server) upstreamList() string {
	if s.Upstreams == nil || len(s.Upstreams.Keys()) == 0 {
		return "none"
	}
	return strings.Join(s.Upstreams.Keys(), ", ")
}
