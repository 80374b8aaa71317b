package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"pratique/internal/config"
	"pratique/nodes"
)

func nodesConfigCommand() command {
	return command{
		name:  "nodes config",
		short: "write a container runtime's configuration",
		long: `
Writes the files that make a node pull through the registry at --server and
nowhere else, also when that refuses or is down. Without --dir they are printed,
each after a line "-- PATH --"; with --dir they are written below DIR (/ for this
node). A file that is there and differs is shown and kept, unless --force is given.

Runtimes: containerd, crio, podman (buildah and skopeo too), docker, k3s, rke2,
talos. docker before 29 is closed by no file; what is written says what to do.

Upstreams are the registries as images name them. One with a port, or with
another key in Pratique's configuration, is NAME=KEY. --config takes them from
that configuration. Then try ` + "`pratique nodes doctor`" + `.`,
		example: []string{
			"pratique nodes config --runtime containerd --server https://pratique.example:5000 --ca ca.crt --dir /",
			"pratique nodes config --runtime podman --server http://10.0.0.9:5000 --upstream docker.io --upstream ghcr.io",
			"pratique nodes config --runtime crio --server http://10.0.0.9:5000 --upstream 10.0.0.5:5000=lab --form mirror",
		},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			flags := newNodeFlags(fs)
			form := fs.String("form", string(nodes.Rewrite), "for podman and crio: `rewrite` names, or mirror before a blocked registry")
			dir := fs.String("dir", "", "write below `DIR` instead of printing")
			force := fs.Bool("force", false, "overwrite files that differ")
			return func(_ context.Context, c *console, args []string) error {
				if err := want("nodes config", args); err != nil {
					return err
				}
				cfg, err := flags.config(c)
				if err != nil {
					return err
				}
				cfg.Form = nodes.Form(*form)
				files, err := nodes.Files(cfg)
				if err != nil {
					return err
				}
				if *dir == "" {
					return printFiles(c.out, files)
				}
				return writeFiles(c.out, *dir, files, *force)
			}
		},
	}
}

// nodeFlags are those that describe nodes and the way to Pratique.
type nodeFlags struct {
	runtime, server, ca, username, passwordFile, cert, key, file *string
	upstreams                                                    []string
}

func newNodeFlags(fs *flag.FlagSet) *nodeFlags {
	f := &nodeFlags{
		runtime:      fs.String("runtime", "", "container `runtime` of the node"),
		server:       fs.String("server", "", "`URL` at which nodes reach the registry (not its admin address)"),
		file:         fs.String("config", "", "take the upstreams from this configuration `file` of Pratique"),
		ca:           fs.String("ca", "", "`file` with the authority that signed the registry's certificate"),
		username:     fs.String("username", "", "`name` for a registry behind a login"),
		passwordFile: fs.String("password-file", "", "`file` with the password"),
		cert:         fs.String("cert", "", "`file` with the nodes' certificate for the registry"),
		key:          fs.String("key", "", "`file` with its private key"),
	}
	fs.Func("upstream", "a registry as images name it, `NAME[=KEY]`; may be repeated (default docker.io)", func(s string) error {
		f.upstreams = append(f.upstreams, s)
		return nil
	})
	return f
}

// config reads what the flags name.
func (f *nodeFlags) config(c *console) (nodes.Config, error) {
	cfg := nodes.Config{Runtime: nodes.Runtime(*f.runtime), Server: *f.server, Username: *f.username}
	if *f.runtime == "" || *f.server == "" {
		return cfg, errors.New("--runtime and --server are needed")
	}
	if len(f.upstreams) > 0 && *f.file != "" {
		return cfg, errors.New("--upstream or --config, not both")
	}
	for _, text := range f.upstreams {
		u, err := nodes.ParseUpstream(text)
		if err != nil {
			return cfg, err
		}
		cfg.Upstreams = append(cfg.Upstreams, u)
	}
	if *f.file != "" {
		server, err := config.Load(*f.file, c.environ, nil)
		if err != nil {
			return cfg, err
		}
		cfg.Upstreams = nodeUpstreams(server)
	}
	for _, in := range []struct {
		path string
		to   *[]byte
	}{{*f.ca, &cfg.CA}, {*f.cert, &cfg.Cert}, {*f.key, &cfg.Key}} {
		if in.path == "" {
			continue
		}
		var err error
		if *in.to, err = os.ReadFile(in.path); err != nil {
			return cfg, err
		}
	}
	if *f.passwordFile != "" {
		raw, err := os.ReadFile(*f.passwordFile)
		if err != nil {
			return cfg, err
		}
		cfg.Password = strings.TrimRight(string(raw), "\r\n")
	}
	return cfg, nil
}

// nodeUpstreams are the names by which images on nodes may be of a configured
// upstream: its key, when that reads as a registry, and its URL's host.
func nodeUpstreams(cfg config.Config) []nodes.Upstream {
	var out []nodes.Upstream
	for _, key := range slices.Sorted(maps.Keys(cfg.Upstreams)) {
		if strings.Contains(key, ".") || key == "localhost" {
			out = append(out, nodes.Upstream{Name: key, Key: key})
		}
		if u, err := url.Parse(cfg.Upstreams[key].URL); err == nil && u.Host != "" && strings.ToLower(u.Host) != key {
			out = append(out, nodes.Upstream{Name: strings.ToLower(u.Host), Key: key})
		}
	}
	return out
}

// printFiles lists files as txtar does.
func printFiles(w io.Writer, files []nodes.File) error {
	for _, f := range files {
		if _, err := fmt.Fprintf(w, "-- %s --\n%s", f.Path, f.Data); err != nil {
			return err
		}
		if len(f.Data) > 0 && f.Data[len(f.Data)-1] != '\n' {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
	}
	return nil
}
