package proxy

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"pratique"
)

// dockerHub is the key and namespace of Docker Hub, whose official images have
// a name of one element for people and "library/" in front of it on the wire.
const dockerHub = "docker.io"

// dockerHubHosts are the other names that Docker Hub goes by.
func dockerHubHosts() []string { return []string{"index.docker.io", "registry-1.docker.io"} }

// maxKey bounds an upstream's key: it is a path element and in every log line.
const maxKey = 128

// UpstreamIndex finds the configured upstream that a client names. It is what
// keeps names from being addresses: a name is looked up here and nowhere
// resolved, so one that is not configured leads to no connection. A nil index
// knows no upstream. It is immutable.
type UpstreamIndex struct {
	keys    map[string]string // lower-case key → key as configured
	aliases map[string]string // lower-case key, host or host:port → key
	hub     map[string]bool   // keys that are Docker Hub
	names   []string          // keys, sorted
}

// NewUpstreamIndex indexes upstreams, given as key → URL. A key is one path
// element in lower case; it and the URL's host[:port] must each lead to one
// upstream only. The error wraps pratique.ErrInvalid.
func NewUpstreamIndex(upstreams map[string]string) (*UpstreamIndex, error) {
	x := &UpstreamIndex{keys: map[string]string{}, aliases: map[string]string{}, hub: map[string]bool{}}
	for key := range upstreams {
		x.names = append(x.names, key)
	}
	slices.Sort(x.names)
	for _, key := range x.names {
		if key == OwnName {
			return nil, fmt.Errorf("%w upstream key %q: it is Pratique's own", pratique.ErrInvalid, key)
		}
		if len(key) > maxKey || strings.Contains(key, "/") || !pratique.ValidRepo(key) {
			return nil, fmt.Errorf("%w upstream key %q: want one element of a repository's name, such as docker.io (an upstream with a port needs a key without it)", pratique.ErrInvalid, key)
		}
		x.keys[key], x.aliases[key] = key, key
	}
	for _, key := range x.names {
		hosts, err := urlHosts(upstreams[key])
		if err != nil {
			return nil, fmt.Errorf("%w upstream %q: %w", pratique.ErrInvalid, key, err)
		}
		for _, host := range hosts {
			if err := x.alias(host, key); err != nil {
				return nil, err
			}
		}
		if slices.Contains(dockerHubHosts(), hosts[0]) {
			x.hub[key] = true
		}
	}
	if key, ok := x.aliases[dockerHub]; ok {
		x.hub[key] = true
		for _, host := range dockerHubHosts() {
			if _, taken := x.aliases[host]; !taken {
				x.aliases[host] = key
			}
		}
	}
	return x, nil
}

// alias makes host lead to key. A host that is another upstream's key is
// refused: the two would be one name for two registries.
func (x *UpstreamIndex) alias(host, key string) error {
	if other, ok := x.aliases[host]; ok && other != key {
		return fmt.Errorf("%w upstreams %q and %q: both are named %q by clients", pratique.ErrInvalid, other, key, host)
	}
	x.aliases[host] = key
	return nil
}

// urlHosts are the names by which a client may know the upstream's URL: its
// host, and with the port spelt out when it is the scheme's own.
func urlHosts(raw string) ([]string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	if u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("url %q: want http://HOST[:PORT] or https://HOST[:PORT]", raw)
	}
	host := strings.ToLower(u.Host)
	standard := map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	if bare, ok := strings.CutSuffix(host, standard); ok {
		return []string{bare, host}, nil
	}
	if u.Port() == "" {
		return []string{host, host + standard}, nil
	}
	return []string{host}, nil
}

// Keys are the configured keys, sorted.
func (x *UpstreamIndex) Keys() []string {
	if x == nil {
		return nil
	}
	return slices.Clone(x.names)
}

// Lookup finds the upstream that goes by name: its key or a host[:port] of it.
// Hosts have no case; anything but their plain ASCII spelling is not there.
func (x *UpstreamIndex) Lookup(name string) (key string, ok bool) {
	if x == nil || len(name) > maxParameter {
		return "", false
	}
	key, ok = x.aliases[lowerASCII(name)]
	return key, ok
}

// Ref is a reference that a person wrote, with the upstream's key and the
// repository's name on the wire: index.docker.io/nginx:1 is
// docker.io/library/nginx:1. The error is an *Error.
func (x *UpstreamIndex) Ref(ref pratique.Ref) (pratique.Ref, error) {
	key, ok := x.Lookup(ref.Registry)
	if !ok {
		return pratique.Ref{}, x.unknown(ref.Registry)
	}
	repo, err := x.repo(key, ref.Repo)
	if err != nil {
		return pratique.Ref{}, err
	}
	ref.Registry, ref.Repo = key, repo
	return ref, nil
}

// prefixed reads UPSTREAM/REPOSITORY, or a name of Pratique's own.
func (x *UpstreamIndex) prefixed(name string) (key, repo string, err error) {
	first, rest, _ := strings.Cut(name, "/")
	if first == OwnName { // as it is written: it is nobody's host
		if !pratique.ValidRepo(rest) {
			return "", "", Errorf(CodeNameInvalid, "%.80q is no name of a repository", name)
		}
		return OwnName, rest, nil
	}
	key, ok := x.key(first)
	if !ok {
		return "", "", x.unknown(first)
	}
	repo, err = x.repo(key, rest)
	return key, repo, err
}

// namespaced reads REPOSITORY with ?ns=UPSTREAM, as containerd asks a mirror.
// A mirror behind a path rewrite (…/v2/docker.io with override_path) puts the
// upstream in front as well: there ns and the first element are the same word.
func (x *UpstreamIndex) namespaced(ns, name string) (key, repo string, err error) {
	key, ok := x.Lookup(ns)
	if !ok {
		return "", "", x.unknown(ns)
	}
	if first, rest, ok := strings.Cut(name, "/"); ok && lowerASCII(first) == lowerASCII(ns) {
		if prefix, ok := x.key(first); ok && prefix == key {
			name = rest
		}
	}
	repo, err = x.repo(key, name)
	return key, repo, err
}

// key finds an upstream by its key alone: in a path a host is no upstream.
func (x *UpstreamIndex) key(name string) (string, bool) {
	if x == nil || len(name) > maxKey {
		return "", false
	}
	key, ok := x.keys[lowerASCII(name)]
	return key, ok
}

// repo validates a repository's name and completes that of an official image.
func (x *UpstreamIndex) repo(key, repo string) (string, error) {
	if !pratique.ValidRepo(repo) {
		return "", Errorf(CodeNameInvalid, "%.80q is no name of a repository: want lower-case words joined by . _ - and /, at most 255 characters", repo)
	}
	if x.hub[key] && !strings.Contains(repo, "/") {
		repo = "library/" + repo
	}
	return repo, nil
}

// unknown refuses an upstream that is not configured.
func (x *UpstreamIndex) unknown(name string) *Error {
	const most = 20
	names := x.Keys()
	configured := "none"
	if len(names) > most {
		configured = fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	} else if len(names) > 0 {
		configured = strings.Join(names, ", ")
	}
	return Errorf(CodeDenied, "upstream %.80q is not configured here; configured: %s", name, configured)
}

// lowerASCII lowers A to Z alone: Unicode's folding maps other letters to
// ASCII ones (the Kelvin sign to k), and a name must not change into another.
func lowerASCII(s string) string {
	lower := func(c byte) bool { return 'A' <= c && c <= 'Z' }
	for i := range len(s) {
		if lower(s[i]) {
			b := []byte(s)
			for ; i < len(b); i++ {
				if lower(b[i]) {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
