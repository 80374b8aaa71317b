package nodes

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"

	"pratique"
)

// Problem is something that Inspect found in a node's files.
type Problem struct {
	Path string // relative to the node's root
	// Open says that pulls can go past Pratique; else it is only worth knowing.
	Open bool
	Text string
}

// Inspect reads the files of a node, whose root is fsys, and reports ways around
// c.Server. No problem is no proof: what a runtime was started with, and what
// else it reads, is not in these files. The error is that of a file which is
// there and cannot be read.
func Inspect(fsys fs.FS, c Config) ([]Problem, error) {
	s, err := c.settle()
	if err != nil {
		return nil, fmt.Errorf("%w node configuration: %w", pratique.ErrInvalid, err)
	}
	i := &inspection{fsys: fsys, settled: s}
	switch c.Runtime {
	case Containerd:
		err = i.containerd()
	case CRIO, Podman:
		err = i.image()
	case Docker:
		err = i.docker()
	case K3s, RKE2:
		err = i.rancher()
	case Talos:
		i.note("", "a Talos node has no files to look at: compare `talosctl get registriesconfig -o yaml` with `pratique nodes config --runtime talos`")
	}
	return i.problems, err
}

// inspection collects problems.
type inspection struct {
	settled
	fsys     fs.FS
	problems []Problem
}

func (i *inspection) open(path, format string, args ...any) {
	i.problems = append(i.problems, Problem{Path: path, Open: true, Text: fmt.Sprintf(format, args...)})
}

func (i *inspection) note(path, format string, args ...any) {
	i.problems = append(i.problems, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
}

// read returns a file's text; found is false when there is none.
func (i *inspection) read(path string) (data []byte, found bool, err error) {
	data, err = fs.ReadFile(i.fsys, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return data, err == nil, err
}

// list returns the names in a folder, sorted; none when there is no folder.
func (i *inspection) list(path string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(i.fsys, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// isServer reports whether address, as a runtime reads it, is c.Server: the same
// scheme, host and port, and no path but the API's.
func (i *inspection) isServer(address string) bool {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	path := strings.Trim(u.Path, "/")
	return u.Scheme+"://"+spelt(u.Scheme, u.Host) == i.scheme()+"://"+spelt(i.scheme(), i.host) && (path == "" || path == "v2")
}

func (i *inspection) scheme() string {
	scheme, _, _ := strings.Cut(i.Server, ":")
	return scheme
}

// spelt is a host with its port, which may be left out where it is the scheme's.
func spelt(scheme, host string) string {
	if strings.Contains(host, ":") {
		return strings.ToLower(host)
	}
	return strings.ToLower(host) + map[string]string{"http": ":80", "https": ":443"}[scheme]
}

// isHost reports whether a reference without a scheme begins with c.Server's host.
func (i *inspection) isHost(location string) bool {
	host, _, _ := strings.Cut(location, "/")
	return spelt(i.scheme(), host) == spelt(i.scheme(), i.host)
}
