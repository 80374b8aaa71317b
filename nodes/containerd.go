package nodes

import "strconv"

// containerdFiles are those of containerd 1.5 and later.
func containerdFiles(s settled) []File {
	files := hostsFiles(s, "etc/containerd/certs.d")
	for _, v := range []struct{ version, runtime, table string }{
		{"2", "containerd 1.5 to 1.7", `plugins."io.containerd.grpc.v1.cri".registry`},
		{"3", "containerd 2", `plugins.'io.containerd.cri.v1.images'.registry`},
	} {
		var t text
		t.line("# Written by `pratique nodes config` for %s, to be merged by hand into", v.runtime)
		t.line("# /etc/containerd/config.toml; containerd does not read this file. A drop-in")
		t.line("# would replace the rest of this plugin's settings on some versions.")
		t.line("#")
		t.line("# Without config_path the files in certs.d are not read, and every pull goes")
		t.line("# straight to its registry. Remove registry.mirrors and registry.configs: beside")
		t.line("# config_path containerd refuses them. Then restart containerd, once; changes in")
		t.line("# certs.d need no restart.")
		t.line("version = %s", v.version)
		t.line("[%s]", v.table)
		t.line(`  config_path = "/etc/containerd/certs.d"`)
		files = append(files, File{Path: "etc/containerd/pratique-config-v" + v.version + ".toml", Mode: modePublic, Data: t.Bytes()})
	}
	return files
}

// hostsFiles are hosts.toml for every registry and for each upstream. The
// default would do, but a folder of the upstream's own name, with whatever is
// in it, takes precedence over _default: by writing one it is seen when there
// is another.
func hostsFiles(s settled, dir string) []File {
	var files []File
	add := func(registry, folder string) {
		folder = dir + "/" + folder
		files = append(files, File{Path: folder + "/hosts.toml", Mode: s.mode(), Data: hostsTOML(s, registry)})
		files = append(files, s.certificates(folder)...)
	}
	add("every registry without a folder of its own", "_default")
	for _, u := range s.Upstreams {
		add(u.Name, u.Name)
	}
	return files
}

func hostsTOML(s settled, registry string) []byte {
	var t text
	t.line("# Written by `pratique nodes config`: pulls from %s.", registry)
	t.line("#")
	t.line("# containerd tries each host below and then the server, on any failure: a")
	t.line("# refusal, a time-out, an outage. Without the server line the last resort is the")
	t.line("# registry itself. With it there is nowhere to go but Pratique.")
	t.line("server = %q", s.Server)
	hostOptions(&t, s, "", "header")
	t.line("")
	t.line("# containerd 1.6 ignores a file that has no host, and then asks the registry.")
	t.line("[host.%q]", s.Server)
	t.line("  # Both: with one of them alone, tags or content are had from the registry.")
	t.line(`  capabilities = ["pull", "resolve"]`)
	hostOptions(&t, s, "  ", "host."+strconv.Quote(s.Server)+".header")
	return t.Bytes()
}

// hostOptions are for the server and again for the host: each stands for
// itself. Paths are relative to the file.
func hostOptions(t *text, s settled, indent, header string) {
	if len(s.CA) > 0 {
		t.line(`%sca = "ca.crt"`, indent)
	}
	if len(s.Cert) > 0 {
		t.line(`%sclient = [["client.cert", "client.key"]]`, indent)
	}
	if s.Username != "" {
		t.line("%s[%s]", indent, header)
		t.line(`%s  Authorization = "Basic %s"`, indent, s.login())
	}
}
