package nodes

import "strings"

// imageFiles are those of containers/image, which podman, buildah, skopeo and
// CRI-O share.
func imageFiles(s settled) []File {
	// zz: drop-ins are read in order, and a later one replaces an earlier one's
	// entry for the same prefix.
	files := []File{{Path: "etc/containers/registries.conf.d/zz-pratique.conf", Mode: modePublic, Data: registriesConf(s)}}
	files = append(files, s.certificates("etc/containers/certs.d/"+s.host)...)
	if s.Username == "" {
		return files
	}
	auth := []byte("{\"auths\": {\"" + s.host + "\": {\"auth\": \"" + s.login() + "\"}}}\n")
	if s.Runtime == Podman {
		return append(files, File{Path: "root/.config/containers/auth.json", Mode: modeSecret, Data: auth})
	}
	var t text
	t.line("# Written by `pratique nodes config`: the login for Pratique.")
	t.line("[crio.image]")
	t.line(`global_auth_file = "/etc/crio/pratique-auth.json"`)
	return append(files,
		File{Path: "etc/crio/pratique-auth.json", Mode: modeSecret, Data: auth},
		File{Path: "etc/crio/crio.conf.d/zz-pratique.conf", Mode: modePublic, Data: t.Bytes()})
}

func registriesConf(s settled) []byte {
	var t text
	t.line("# Written by `pratique nodes config` for podman, buildah, skopeo and CRI-O.")
	t.line("#")
	if s.Form == Rewrite {
		t.line("# Each registry's name is replaced by Pratique's before anything is asked, so")
		t.line("# that there is no other place to go to when Pratique refuses or is down. Do not")
		t.line("# write this as [[registry.mirror]] alone: after a mirror's failure the registry")
		t.line("# itself is asked.")
	} else {
		t.line("# Pratique is asked first, and the registry behind it is blocked: without")
		t.line("# `blocked` it is asked whenever the mirror fails or refuses. Further mirrors may")
		t.line("# be added. Do not use pull-from-mirror: digest-only and tag-only each let one")
		t.line("# kind of pull past the mirrors.")
	}
	t.line("#")
	t.line("# Registries that are not named here are asked directly: there is no entry for")
	t.line("# all the others. Block the node's way to them, or refuse them in")
	t.line("# /etc/containers/policy.json.")
	for _, u := range s.Upstreams {
		location := s.host + "/" + u.Key
		t.line("")
		t.line("[[registry]]")
		t.line("prefix = %q", u.Name)
		if s.Form == Mirror {
			t.line("location = %q", u.Name)
			t.line("blocked = true")
			t.line("[[registry.mirror]]")
		}
		t.line("location = %q", location)
		if s.plain {
			t.line("insecure = true # Pratique speaks http here")
		}
	}
	return t.Bytes()
}

// dockerFiles are those of dockerd. Before 29 nothing closes it.
func dockerFiles(s settled) []File {
	files := hostsFiles(s, "etc/docker/certs.d")
	// For images that are named by Pratique's own name.
	files = append(files, s.certificates("etc/docker/certs.d/"+s.host)...)
	var t text
	t.line("Written by `pratique nodes config`.")
	t.line("")
	t.line("docker 29 and later with the containerd image store (the default of new")
	t.line("installations; `docker info -f '{{.DriverStatus}}'` names io.containerd) reads")
	t.line("/etc/docker/certs.d/*/hosts.toml, and is closed by the files in it.")
	t.line("")
	t.line("docker 20 to 28, and 29 with the older image store, IS NOT CLOSED BY ANY FILE.")
	t.line("It does not read hosts.toml, and registry-mirrors in daemon.json")
	t.line("  - is for docker.io alone,")
	t.line("  - falls back to docker.io on every refusal and failure,")
	t.line("  - does not tell a mirror which registry is meant, so that Pratique refuses.")
	t.line("No registry-mirrors is written. Do one of these:")
	t.line("  - name images by Pratique: docker pull %s/docker.io/library/nginx:1.27", s.host)
	t.line("  - block the node's way to every registry but Pratique. This is the only one")
	t.line("    that holds against people who name images otherwise.")
	t.line("Builders with a BuildKit of their own (docker buildx, driver docker-container)")
	t.line("read neither: they have a buildkitd.toml, and its mirrors fall back as well.")
	if s.Username != "" {
		t.line("")
		t.line("Before images are named by Pratique: docker login %s", s.host)
	}
	files = append(files, File{Path: "etc/docker/pratique-README.txt", Mode: modePublic, Data: t.Bytes()})
	if s.plain {
		files = append(files, File{Path: "etc/docker/daemon.json", Mode: modePublic,
			Data: []byte("{\n  \"insecure-registries\": [\"" + s.host + "\"]\n}\n")})
	}
	return files
}

// rancherFiles are those of k3s and RKE2, which write containerd's.
func rancherFiles(s settled) []File {
	dir := "etc/rancher/" + string(s.Runtime)
	certs := s.certificates(dir + "/pratique")
	var t text
	t.line("# Written by `pratique nodes config` for servers and agents alike; restart them.")
	t.line("#")
	t.line("# k3s and RKE2 try the registry itself after every endpoint here, unless the node")
	t.line("# runs with disable-default-registry-endpoint: see config.yaml.d/pratique.yaml,")
	t.line("# without which this file is open. Do not add a registry's name or \"*\" under")
	t.line("# configs: that brings the registry itself back. Pratique is told which registry")
	t.line("# is meant (?ns=), so nothing has to be rewritten.")
	t.line("mirrors:")
	for _, name := range append([]string{"*"}, names(s.Upstreams)...) {
		t.line("  %q:", name)
		t.line("    endpoint:")
		t.line("      - %q", s.Server)
	}
	if s.Username != "" || len(certs) > 0 {
		t.line("configs:")
		t.line("  %q:", s.host)
	}
	if s.Username != "" {
		t.line("    auth:")
		t.line("      username: %s", quoteYAML(s.Username))
		t.line("      password: %s", quoteYAML(s.Password))
	}
	if len(certs) > 0 {
		t.line("    tls:")
	}
	for _, f := range certs {
		key := map[string]string{"ca.crt": "ca_file", "client.cert": "cert_file", "client.key": "key_file"}[f.Path[strings.LastIndexByte(f.Path, '/')+1:]]
		t.line("      %s: %q", key, "/"+f.Path)
	}
	var c text
	c.line("# Written by `pratique nodes config`. Without this the registries themselves are")
	c.line("# asked whenever Pratique refuses or fails. Known since the releases of January")
	c.line("# 2024 (v1.26.13, v1.27.10, v1.28.6, v1.29.1); older ones cannot be closed.")
	c.line("disable-default-registry-endpoint: true")
	return append(certs,
		File{Path: dir + "/registries.yaml", Mode: s.mode(), Data: t.Bytes()},
		File{Path: dir + "/config.yaml.d/pratique.yaml", Mode: modePublic, Data: c.Bytes()})
}

func names(us []Upstream) []string {
	out := make([]string, 0, len(us))
	for _, u := range us {
		out = append(out, u.Name)
	}
	return out
}
