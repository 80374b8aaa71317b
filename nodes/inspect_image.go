package nodes

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// registriesFile is what matters in registries.conf, version 2.
type registriesFile struct {
	Registries []registryEntry `toml:"registry"`
}

type registryEntry struct {
	Prefix   string        `toml:"prefix"`
	Location string        `toml:"location"`
	Blocked  bool          `toml:"blocked"`
	Digests  bool          `toml:"mirror-by-digest-only"`
	Mirrors  []mirrorEntry `toml:"mirror"`

	file string
}

type mirrorEntry struct {
	Location string `toml:"location"`
	From     string `toml:"pull-from-mirror"`
}

func (i *inspection) image() error {
	files, err := i.registriesFiles()
	if err != nil {
		return err
	}
	entries := make(map[string]registryEntry) // the last of a prefix wins
	for _, file := range files {
		data, _, err := i.read(file)
		if err != nil {
			return err
		}
		var r registriesFile
		if err := toml.Unmarshal(data, &r); err != nil {
			i.open(file, "cannot be read (%v): nothing is pulled until it is mended, and nothing is known of it", err)
			continue
		}
		for _, e := range r.Registries {
			if e.Prefix == "" {
				e.Prefix = e.Location
			}
			e.file = file
			entries[e.Prefix] = e
		}
	}
	for _, prefix := range slices.Sorted(maps.Keys(entries)) {
		i.entry(entries[prefix])
	}
	for _, u := range i.Upstreams {
		if _, ok := entries[u.Name]; !ok {
			i.open("etc/containers/registries.conf.d", "has no entry for %s, which is asked itself", u.Name)
		}
	}
	return i.others()
}

// registriesFiles are the files that root's podman reads, in order.
func (i *inspection) registriesFiles() ([]string, error) {
	homes := []string{"etc/containers"}
	const user = "root/.config/containers"
	if i.Runtime == Podman {
		_, found, err := i.read(user + "/registries.conf")
		switch {
		case err != nil:
			return nil, err
		case found: // it stands for the system's files, drop-ins included
			i.note(user+"/registries.conf", "stands in place of /etc/containers/registries.conf and its drop-ins")
			homes = []string{user}
		default:
			homes = append(homes, user)
		}
	}
	var files []string
	for _, home := range homes {
		if _, found, err := i.read(home + "/registries.conf"); err != nil {
			return nil, err
		} else if found {
			files = append(files, home+"/registries.conf")
		}
		entries, err := i.list(home + "/registries.conf.d")
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".conf") && !e.IsDir() {
				files = append(files, home+"/registries.conf.d/"+e.Name())
			}
		}
	}
	return files, nil
}

// entry looks at what stands for one prefix.
func (i *inspection) entry(e registryEntry) {
	source := e.Location
	if source == "" {
		source = e.Prefix
	}
	for _, m := range e.Mirrors {
		if !i.isHost(m.Location) {
			i.open(e.file, "%s: its mirror %s is not Pratique at %s", e.Prefix, m.Location, i.host)
		}
		if m.From != "" && m.From != "all" {
			i.open(e.file, "%s: pull-from-mirror = %q sends other pulls past the mirror", e.Prefix, m.From)
		}
	}
	if e.Digests && len(e.Mirrors) > 0 {
		i.open(e.file, "%s: mirror-by-digest-only sends tags past the mirror", e.Prefix)
	}
	switch {
	case e.Blocked || i.isHost(source):
	case len(e.Mirrors) > 0:
		i.open(e.file, "%s is not blocked: %s is asked when the mirror fails or refuses", e.Prefix, source)
	default:
		i.open(e.file, "%s is asked itself (location %s)", e.Prefix, source)
	}
}

// others tells about registries without an entry, unless policy.json refuses them.
func (i *inspection) others() error {
	const file = "etc/containers/policy.json"
	data, _, err := i.read(file)
	if err != nil {
		return err
	}
	var policy struct {
		Default []struct {
			Type string `json:"type"`
		} `json:"default"`
		Transports map[string]map[string]any `json:"transports"`
	}
	if json.Unmarshal(data, &policy) == nil && len(policy.Default) > 0 && policy.Default[0].Type == "reject" {
		if _, all := policy.Transports["docker"][""]; !all {
			return nil
		}
	}
	i.note("etc/containers/registries.conf.d", "registries without an entry are asked directly; block the way to them, or refuse them in /%s", file)
	return nil
}
