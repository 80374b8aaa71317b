package nodes

import (
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// rancherRegistries is what matters in registries.yaml.
type rancherRegistries struct {
	Mirrors map[string]struct {
		Endpoint []string `yaml:"endpoint"`
	} `yaml:"mirrors"`
	Configs map[string]any `yaml:"configs"`
}

func (i *inspection) rancher() error {
	dir := "etc/rancher/" + string(i.Runtime)
	file := dir + "/registries.yaml"
	data, found, err := i.read(file)
	if err != nil {
		return err
	}
	var r rancherRegistries
	switch {
	case !found:
		i.open(file, "is missing: every registry is asked itself")
	default:
		if err := yaml.Unmarshal(data, &r); err != nil {
			i.open(file, "cannot be read (%v)", err)
		}
	}
	if _, all := r.Mirrors["*"]; found && !all {
		i.open(file, `has no mirror "*": registries without an entry are asked themselves`)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Mirrors)) {
		if len(r.Mirrors[name].Endpoint) == 0 {
			i.open(file, "mirror %q has no endpoint: the registry itself is asked", name)
		}
		for _, endpoint := range r.Mirrors[name].Endpoint {
			if !i.isServer(endpoint) {
				i.open(file, "mirror %q leads to %s, which is not Pratique at %s", name, endpoint, i.Server)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Configs)) {
		// k3s makes a default endpoint for each of configs, and keeps it whatever
		// disable-default-registry-endpoint says.
		if name != i.host {
			i.open(file, "configs has %q: that brings the registry itself back as the last endpoint", name)
		}
	}
	if err := i.rancherFlags(dir); err != nil {
		return err
	}
	certs := "var/lib/rancher/" + string(i.Runtime) + "/agent/etc/containerd/certs.d"
	entries, err := i.list(certs)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		i.note(certs, "is not there: %s has not started with this configuration yet, or keeps its data elsewhere", i.Runtime)
		return nil
	}
	return i.certsD(certs, certsRules{generated: true})
}

// rancherFlags reads the node's own options, of which later files win.
func (i *inspection) rancherFlags(dir string) error {
	files := []string{dir + "/config.yaml"}
	entries, err := i.list(dir + "/config.yaml.d")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".yaml") {
			files = append(files, dir+"/config.yaml.d/"+e.Name())
		}
	}
	var flags struct {
		NoDefault bool `yaml:"disable-default-registry-endpoint"`
		Embedded  bool `yaml:"embedded-registry"`
	}
	for _, file := range files {
		data, found, err := i.read(file)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		if err := yaml.Unmarshal(data, &flags); err != nil {
			i.open(file, "cannot be read (%v)", err)
		}
	}
	if !flags.NoDefault {
		i.open(dir+"/config.yaml.d", "disable-default-registry-endpoint is not true: the registries themselves are asked when Pratique fails or refuses")
	}
	if flags.Embedded {
		i.open(dir, "embedded-registry is on: nodes give each other what they have, without asking Pratique")
	}
	return nil
}
