package nodes

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// containerdConfig is what matters in containerd's config.toml.
type containerdConfig struct {
	Version int      `toml:"version"`
	Imports []string `toml:"imports"`
	Plugins map[string]struct {
		Registry struct {
			ConfigPath string         `toml:"config_path"`
			Mirrors    map[string]any `toml:"mirrors"`
		} `toml:"registry"`
	} `toml:"plugins"`
}

// criPlugins are the tables whose registry section kubelet's pulls obey.
var criPlugins = []string{"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"}

func (i *inspection) containerd() error {
	const config = "etc/containerd/config.toml"
	dirs, err := i.configPaths(config, map[string]bool{})
	if err != nil {
		return err
	}
	if len(dirs) == 0 {
		i.open(config, "no registry.config_path is set: with containerd before 2.3 kubelet's pulls do not read certs.d and go straight to the registries")
		dirs = []string{"/etc/containerd/certs.d"} // ctr and nerdctl read it all the same
	}
	for n, dir := range dirs { // the first one's _default stands before the others
		if err := i.certsD(strings.Trim(dir, "/"), certsRules{optional: n > 0}); err != nil {
			return err
		}
	}
	return nil
}

// configPaths are the folders of hosts.toml that config.toml and its imports name.
func (i *inspection) configPaths(file string, seen map[string]bool) ([]string, error) {
	data, found, err := i.read(file)
	if err != nil || !found || seen[file] {
		return nil, err
	}
	seen[file] = true
	var c containerdConfig
	if err := toml.Unmarshal(data, &c); err != nil {
		i.open(file, "cannot be read (%v), so that nothing is known of what containerd runs with", err)
		return nil, nil
	}
	var dirs []string
	for _, plugin := range criPlugins {
		registry := c.Plugins[plugin].Registry
		for _, dir := range strings.Split(registry.ConfigPath, ":") {
			if dir != "" && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
		if len(registry.Mirrors) > 0 {
			i.open(file, "registry.mirrors is set (%s): after such a mirror containerd asks the registry itself", strings.Join(slices.Sorted(maps.Keys(registry.Mirrors)), ", "))
		}
	}
	for _, pattern := range c.Imports {
		if !path.IsAbs(pattern) {
			pattern = path.Join("/", path.Dir(file), pattern)
		}
		pattern = strings.TrimPrefix(path.Clean(pattern), "/")
		files, err := fs.Glob(i.fsys, pattern)
		if err != nil {
			i.open(file, "imports %q, which cannot be read", pattern)
			continue
		}
		for _, f := range files {
			more, err := i.configPaths(f, seen)
			if err != nil {
				return nil, err
			}
			dirs = append(dirs, more...)
		}
	}
	return dirs, nil
}

// certsRules are what differs between folders of hosts.toml.
type certsRules struct {
	// optional: _default need not be here.
	optional bool
	// generated: by k3s or RKE2, whose containerd takes a file without a server
	// for one that has no registry to fall back to.
	generated bool
}

// certsD looks at every folder below dir: each is a registry's, or _default.
func (i *inspection) certsD(dir string, rules certsRules) error {
	entries, err := i.list(dir)
	if err != nil {
		return err
	}
	fallback := false
	for _, e := range entries {
		folder := path.Join(dir, e.Name())
		info, err := fs.Stat(i.fsys, folder) // follows links, as containerd does
		if errors.Is(err, fs.ErrNotExist) {
			continue // a link to nowhere is no folder to containerd either
		}
		if err != nil {
			return err
		}
		if !info.IsDir() {
			continue
		}
		fallback = fallback || e.Name() == "_default"
		data, found, err := i.read(path.Join(folder, "hosts.toml"))
		if err != nil {
			return err
		}
		if (!found || len(data) == 0) && !i.isOwnFolder(e.Name()) {
			i.open(folder, "has no hosts.toml: the folder takes precedence over _default, and %s is asked itself", folderRegistry(e.Name()))
		}
		if found && len(data) > 0 {
			i.hosts(path.Join(folder, "hosts.toml"), folderRegistry(e.Name()), data, rules)
		}
	}
	if !fallback && !rules.optional {
		i.open(path.Join(dir, "_default"), "is missing: every registry without a folder of its own is asked itself")
	}
	return nil
}

// isOwnFolder reports whether a folder is that of c.Server's own name.
func (i *inspection) isOwnFolder(name string) bool { return folderRegistry(name) == i.host }

// folderRegistry undoes containerd's spelling of a port: host_5000_ is host:5000.
func folderRegistry(name string) string {
	bare, ok := strings.CutSuffix(name, "_")
	if at := strings.LastIndexByte(bare, '_'); ok && at > 0 {
		return bare[:at] + ":" + bare[at+1:]
	}
	return name
}

// hostsFile is a hosts.toml, as strict as containerd is about types.
type hostsFile struct {
	Server string `toml:"server"`
	hostOptionsFile
	Host map[string]hostOptionsFile `toml:"host"`
}

type hostOptionsFile struct {
	Capabilities []string `toml:"capabilities"`
	SkipVerify   bool     `toml:"skip_verify"`
	OverridePath bool     `toml:"override_path"`
}

// hosts looks at one hosts.toml.
func (i *inspection) hosts(file, registry string, data []byte, rules certsRules) {
	if registry == "_default" {
		registry = "the registry"
	}
	var h hostsFile
	meta, err := toml.Decode(string(data), &h)
	if err != nil {
		i.open(file, "containerd cannot read it (%v), ignores it, and asks %s itself", err, registry)
		return
	}
	switch {
	case i.isServer(h.Server) && meta.IsDefined("server"):
	case rules.generated && !meta.IsDefined("server"):
	case h.Server == "":
		i.open(file, "has no server line: when the hosts fail or refuse, %s is asked itself", registry)
	default:
		i.open(file, "its server is %s, which is asked when the hosts fail or refuse; it has to be %s", h.Server, i.Server)
	}
	if len(h.Host) == 0 {
		i.open(file, "has no [host.…]: containerd 1.6 ignores the file and asks %s itself", registry)
	}
	i.capabilities(file, registry, "server", h.hostOptionsFile)
	for _, name := range slices.Sorted(maps.Keys(h.Host)) {
		if !i.isServer(name) {
			i.open(file, "leads to %s, which is not Pratique at %s", name, i.Server)
		}
		i.capabilities(file, registry, name, h.Host[name])
	}
}

// capabilities: what a host is not capable of is asked of the next one.
func (i *inspection) capabilities(file, registry, host string, o hostOptionsFile) {
	known := []string{"pull", "resolve", "push"}
	for _, c := range o.Capabilities {
		if !slices.Contains(append(known, "referrers"), strings.ToLower(c)) {
			i.open(file, "%s: containerd does not know capability %q, ignores the file, and asks %s itself", host, c, registry)
		}
	}
	for _, c := range known[:2] {
		if len(o.Capabilities) > 0 && !slices.ContainsFunc(o.Capabilities, func(have string) bool { return strings.EqualFold(have, c) }) {
			i.open(file, "%s lacks capability %q", host, c)
		}
	}
	if o.SkipVerify && !i.plain {
		i.note(file, "%s: skip_verify believes whoever answers in Pratique's place", host)
	}
}

// dockerDaemon is what matters in daemon.json.
type dockerDaemon struct {
	Mirrors []string `json:"registry-mirrors"`
}

func (i *inspection) docker() error {
	const config = "etc/docker/daemon.json"
	data, found, err := i.read(config)
	if err != nil {
		return err
	}
	var d dockerDaemon
	if found {
		if err := json.Unmarshal(data, &d); err != nil {
			i.open(config, "cannot be read (%v)", err)
		}
	}
	if len(d.Mirrors) > 0 {
		i.open(config, "registry-mirrors (%s): docker.io is asked when a mirror fails or refuses", strings.Join(d.Mirrors, ", "))
	}
	i.note("etc/docker/certs.d", "docker before 29, and 29 without the containerd image store, does not read hosts.toml and is closed by no file: name images by Pratique, or block the way out")
	return i.certsD("etc/docker/certs.d", certsRules{})
}
