//go:build goexperiment.jsonv2

package analyze

import (
	"archive/tar"
	"fmt"
	"path"
	"slices"
	"strings"

	"pratique"
)

// databases are the paths at which Trivy's analyzers look for the operating
// system and its packages, by what they tell. Trivy's walker reads regular files
// at these exact paths; a symbolic or hard link there is passed over in silence.
// Source: requiredFiles in pkg/fanal/analyzer/os and pkg/fanal/analyzer/pkg.
var databases = map[string][]string{
	"dpkg": {"var/lib/dpkg/status", "var/lib/dpkg/status.d"},
	"apk":  {"lib/apk/db/installed", "usr/lib/apk/db/installed"},
	"rpm": {
		"usr/lib/sysimage/rpm/Packages", "var/lib/rpm/Packages",
		"usr/lib/sysimage/rpm/Packages.db", "var/lib/rpm/Packages.db",
		"usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite", "usr/share/rpm/rpmdb.sqlite",
	},
	"rpmqa": {"var/lib/rpmmanifest/container-manifest-2"},
	"os": {
		"etc/os-release", "usr/lib/os-release", "etc/alpine-release", "etc/debian_version", "etc/lsb-release",
		"etc/redhat-release", "etc/centos-release", "etc/rocky-release", "etc/almalinux-release", "etc/oracle-release",
		"etc/fedora-release", "usr/lib/fedora-release", "etc/system-release", "usr/lib/system-release",
	},
}

// released are release files that nothing but the OS-specific analyzers read:
// a link from one of them to a file of another name is how distributions ship
// them, and the operating system is found by os-release all the same.
var released = []string{"etc/lsb-release", "etc/redhat-release", "etc/centos-release", "etc/system-release"}

// pathCheck looks at the entries of a layer before Trivy's walker does.
type pathCheck struct {
	links    map[string]string // symbolic links of this layer, cleaned target
	seen     map[string]bool   // database files of this layer
	problems []pratique.Problem
}

func newPathCheck() *pathCheck {
	return &pathCheck{links: make(map[string]string), seen: make(map[string]bool)}
}

func (c *pathCheck) add(p, source, format string, args ...any) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, pratique.Problem{Path: printable(p), Source: source, Message: printable(fmt.Sprintf(format, args...))})
	}
}

// entry looks at one header.
func (c *pathCheck) entry(h *tar.Header) {
	name := strings.TrimLeft(path.Clean(h.Name), "/")
	if name == ".." || strings.HasPrefix(name, "../") {
		// A runtime keeps it inside the root; Trivy's analyzers know no such path.
		inside := strings.TrimLeft(path.Clean("/"+h.Name), "/")
		if kind, ok := databaseAt(inside); ok {
			c.add(name, kind, "a package database under a path out of the root is not read")
		}
		return
	}
	switch h.Typeflag {
	case tar.TypeReg:
		c.file(name)
	case tar.TypeSymlink:
		target := h.Linkname
		if !strings.HasPrefix(target, "/") {
			target = path.Join("/", path.Dir(name), target)
		}
		target = strings.TrimLeft(path.Clean("/"+target), "/")
		c.links[name] = target
		c.link(name, target, "symbolic link")
	case tar.TypeLink:
		c.link(name, strings.TrimLeft(path.Clean("/"+h.Linkname), "/"), "hard link")
	case tar.TypeDir, tar.TypeXGlobalHeader:
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if kind, ok := databaseAt(name); ok {
			c.add(name, kind, "the package database is a device, not a file")
		}
	default:
		// containerd and Docker refuse such an entry; what extracts it gets a file
		// that Trivy has not read.
		c.add(name, "tar", "entry of type %q is not read", string(rune(h.Typeflag)))
	}
}

// file looks at a regular file: is it a database twice, or one that a symbolic
// link of this layer puts elsewhere?
func (c *pathCheck) file(name string) {
	if kind, ok := databaseAt(name); ok {
		if c.seen[name] {
			c.add(name, kind, "the package database is in the layer twice")
		}
		c.seen[name] = true
		return
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		target, ok := c.links[dir]
		if !ok {
			continue
		}
		real := path.Join(target, strings.TrimPrefix(name, dir+"/"))
		if kind, ok := databaseAt(real); ok {
			c.add(name, kind, "a package database written through a symbolic link is not read")
		}
		return
	}
}

// link looks at a link at, or above, the place of a database. It is harmless
// when it leads to a place where the same kind of database is looked for: Debian
// ships etc/os-release as a link, merged-/usr systems lib, openSUSE var/lib/rpm.
func (c *pathCheck) link(name, target, what string) {
	for kind, paths := range databases {
		hidden, led := "", false
		for _, p := range paths {
			var to string
			switch {
			case p == name:
				to = target
			case strings.HasPrefix(p, name+"/"):
				to = target + strings.TrimPrefix(p, name)
			case kind == "dpkg" && strings.HasPrefix(name, p+"/"): // a file in status.d
				to = target
				led = led || strings.HasPrefix(to, p+"/")
			default:
				continue
			}
			hidden = p
			led = led || slices.Contains(paths, to)
		}
		if hidden == "" || led || slices.Contains(released, name) {
			continue
		}
		c.add(name, kind, "%s to %q hides the package database %s from the analyzer", what, target, hidden)
	}
}

// databaseAt tells whether a path is one that Trivy's analyzers read.
func databaseAt(name string) (kind string, ok bool) {
	for kind, paths := range databases {
		if slices.Contains(paths, name) || kind == "dpkg" && path.Dir(name) == "var/lib/dpkg/status.d" {
			return kind, true
		}
	}
	return "", false
}
