// Package nodes knows how container runtimes are configured: it writes the
// files that lead every pull of a node through Pratique and nowhere else, and
// reads a node's files for ways around it.
//
// Every runtime falls back to the registry itself when its mirror fails or
// refuses, unless its configuration leaves nothing to fall back to. What closes
// each of them is measured or read in its source, and is said in a comment of
// the file that it is in.
//
// The package is pure: configuration in, files out; files in, findings out. It
// runs no program and opens no connection.
package nodes

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"pratique"
)

// Runtime is a container runtime, by the name of its configuration.
type Runtime string

// Runtimes that Files and Inspect know.
const (
	Containerd Runtime = "containerd"
	CRIO       Runtime = "crio"
	Podman     Runtime = "podman" // and buildah, skopeo
	Docker     Runtime = "docker"
	K3s        Runtime = "k3s"
	RKE2       Runtime = "rke2"
	Talos      Runtime = "talos"
)

// Runtimes are all of them.
func Runtimes() []Runtime {
	return []Runtime{Containerd, CRIO, Podman, Docker, K3s, RKE2, Talos}
}

// Validate returns an error wrapping pratique.ErrInvalid for an unknown runtime.
func (r Runtime) Validate() error {
	if !slices.Contains(Runtimes(), r) {
		words := make([]string, 0, len(Runtimes()))
		for _, known := range Runtimes() {
			words = append(words, string(known))
		}
		return fmt.Errorf("%w runtime %q: want one of %s", pratique.ErrInvalid, string(r), strings.Join(words, ", "))
	}
	return nil
}

// Form is how podman, buildah, skopeo and CRI-O are led to Pratique.
type Form string

const (
	// Rewrite replaces the registry's name by Pratique's. It shows the clearest
	// refusals.
	Rewrite Form = "rewrite"
	// Mirror puts Pratique before the registry and blocks that: further mirrors
	// can be added by hand.
	Mirror Form = "mirror"
)

// Upstream is a registry as nodes name it.
type Upstream struct {
	// Name is the registry in image names: docker.io, 10.0.0.5:5000.
	Name string
	// Key is the upstream's key in Pratique's configuration. If empty, Name.
	Key string
}

// Config is what the files are made from.
type Config struct {
	Runtime Runtime
	// Server is where nodes reach the registry: http://HOST[:PORT] or https://…,
	// without a path.
	Server string
	// Upstreams are the registries that get an entry of their own. containerd,
	// docker, k3s, RKE2 and Talos are led to Pratique for every other registry as
	// well; podman and CRI-O know no such default. If empty, docker.io.
	Upstreams []Upstream
	// Form is for podman and CRI-O. If empty, Rewrite.
	Form Form
	// CA is the authority that signed Server's certificate, PEM. If empty, the
	// node's own authorities.
	CA []byte
	// Username and Password are for a Server behind a login. Both or neither.
	Username, Password string
	// Cert and Key are the nodes' certificate for Server, PEM. Both or neither.
	Cert, Key []byte
}

// File is one file of a node.
type File struct {
	Path string // relative to the node's root, with slashes
	Mode fs.FileMode
	Data []byte
}

// Modes of files: what holds a secret is the owner's alone.
const (
	modePublic fs.FileMode = 0o644
	modeSecret fs.FileMode = 0o600
)

// Files are the files that close a node, sorted by path. The error wraps
// pratique.ErrInvalid.
func Files(c Config) ([]File, error) {
	s, err := c.settle()
	if err != nil {
		return nil, fmt.Errorf("%w node configuration: %w", pratique.ErrInvalid, err)
	}
	var files []File
	switch c.Runtime {
	case Containerd:
		files = containerdFiles(s)
	case CRIO, Podman:
		files = imageFiles(s)
	case Docker:
		files = dockerFiles(s)
	case K3s, RKE2:
		files = rancherFiles(s)
	case Talos:
		files = talosFiles(s)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// settled is a Config that was checked and completed.
type settled struct {
	Config
	host  string // host[:port] of Server
	plain bool   // Server speaks http
}

// settle checks c and fills in its defaults.
func (c Config) settle() (settled, error) {
	s := settled{Config: c}
	if err := c.Runtime.Validate(); err != nil {
		return s, err
	}
	server, err := ParseServer(c.Server)
	if err != nil {
		return s, err
	}
	s.Server, s.host, s.plain = server.String(), server.Host, server.Scheme == "http"
	if len(s.Upstreams) == 0 {
		s.Upstreams = []Upstream{{Name: "docker.io"}}
	}
	if s.Upstreams, err = completeUpstreams(s.Upstreams); err != nil {
		return s, err
	}
	if s.Form == "" {
		s.Form = Rewrite
	}
	if s.Form != Rewrite && s.Form != Mirror {
		return s, fmt.Errorf("form %q: want rewrite or mirror", c.Form)
	}
	return s, s.checkSecrets()
}

func (s settled) checkSecrets() error {
	switch {
	case s.plain && len(s.CA)+len(s.Cert)+len(s.Key) > 0:
		return errors.New("certificates need a server at https://")
	case len(s.CA) > 0 && !x509.NewCertPool().AppendCertsFromPEM(s.CA):
		return errors.New("the CA file holds no certificate in PEM")
	case (s.Username == "") != (s.Password == ""):
		return errors.New("a username needs a password, and a password a username")
	case strings.Contains(s.Username, ":"):
		return errors.New("a username has no colon (RFC 7617)")
	case strings.ContainsFunc(s.Username+s.Password, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }):
		return errors.New("username or password hold characters that are not printed")
	}
	if len(s.Cert)+len(s.Key) == 0 {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Cert, s.Key); err != nil {
		return fmt.Errorf("certificate and key: %w", err)
	}
	return nil
}

// ParseServer reads the address of a registry: a scheme and a host, and nothing
// that one runtime would take for a path and another would drop.
func ParseServer(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !registryName.MatchString(u.Host) ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("server %q: want http://HOST[:PORT] or https://HOST[:PORT]", raw)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// registryName is a registry in the name of an image. Nothing that matches has
// to be quoted in TOML, YAML or a path.
var registryName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)

// hubNames are Docker Hub's other names: an image that is named by one of them
// would go past the entry for docker.io.
var hubNames = []string{"index.docker.io", "registry-1.docker.io"}

// ParseUpstream reads NAME or NAME=KEY.
func ParseUpstream(text string) (Upstream, error) {
	u := Upstream{}
	u.Name, u.Key, _ = strings.Cut(text, "=")
	all, err := completeUpstreams([]Upstream{u})
	if err != nil {
		return Upstream{}, err
	}
	return all[0], nil
}

// completeUpstreams checks names and fills in keys. The order is kept.
func completeUpstreams(in []Upstream) ([]Upstream, error) {
	var out []Upstream
	add := func(u Upstream) error {
		for _, other := range out {
			if other.Name == u.Name {
				if other.Key != u.Key {
					return fmt.Errorf("upstream %s: both %s and %s", u.Name, other.Key, u.Key)
				}
				return nil
			}
		}
		out = append(out, u)
		return nil
	}
	for _, u := range in {
		if !registryName.MatchString(u.Name) {
			return nil, fmt.Errorf("upstream %q: want a registry as images name it: docker.io, registry.example:5000", u.Name)
		}
		if u.Key == "" {
			u.Key = u.Name
		}
		if strings.Contains(u.Key, "/") || !pratique.ValidRepo(u.Key) {
			return nil, fmt.Errorf("upstream %s: %q cannot be part of a path; write %s=KEY with its key in Pratique's configuration", u.Name, u.Key, u.Name)
		}
		if err := add(u); err != nil {
			return nil, err
		}
	}
	for _, u := range slices.Clone(out) {
		if u.Name != "docker.io" {
			continue
		}
		for _, name := range hubNames {
			if err := add(Upstream{Name: name, Key: u.Key}); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// login is Username and Password as HTTP's Basic scheme sends them.
func (s settled) login() string {
	return base64.StdEncoding.EncodeToString([]byte(s.Username + ":" + s.Password))
}

// mode is that of a file that holds the login, if there is one.
func (s settled) mode() fs.FileMode {
	if s.Username != "" {
		return modeSecret
	}
	return modePublic
}

// certificates are CA, certificate and key as files in dir, under the names
// that containers/image and docker give them.
func (s settled) certificates(dir string) []File {
	var files []File
	for _, f := range []File{
		{Path: dir + "/ca.crt", Mode: modePublic, Data: s.CA},
		{Path: dir + "/client.cert", Mode: modePublic, Data: s.Cert},
		{Path: dir + "/client.key", Mode: modeSecret, Data: s.Key},
	} {
		if len(f.Data) > 0 {
			files = append(files, f)
		}
	}
	return files
}

// text collects the lines of a file.
type text struct{ bytes.Buffer }

func (t *text) line(format string, args ...any) {
	fmt.Fprintf(t, format, args...)
	t.WriteByte('\n')
}
