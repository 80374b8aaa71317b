//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"pratique/tools/images"
)

// canary is in the upstream, and refused by every Pratique.
const canary = "docker.io/team/pratique-canary:1"

// node is a client that runs with the files of `pratique nodes config`.
type node struct {
	Client
	runtime string
	root    string   // the node's files
	pull    string   // the doctor's --pull
	env     []string // of pull
}

// nodeClients are the clients that read what is generated.
var nodeClients = withSlow([]nodeClient{
	{"containerd", func(t testing.TB, p *Pratique, edit func(string)) node {
		return containerdNode(t, p, edit, StartContainerd(t, nil), viaCRI(t))
	}},
	{"containerd 2", func(t testing.TB, p *Pratique, edit func(string)) node {
		return containerdNode(t, p, edit, startContainerd(t, binary(t, "containerd2"), containerdConfig2, nil), viaCRI(t))
	}},
	{"ctr", func(t testing.TB, p *Pratique, edit func(string)) node {
		return containerdNode(t, p, edit, StartContainerd(t, nil), func(c *Containerd) (Client, string) {
			return c.Ctr(), need(t, "ctr") + " --address " + c.socket + " images pull --snapshotter native --hosts-dir " + c.hosts
		})
	}},
	{"podman", func(t testing.TB, p *Pratique, edit func(string)) node { return podmanNode(t, p, "rewrite", edit) }},
	{"podman mirror", func(t testing.TB, p *Pratique, edit func(string)) node { return podmanNode(t, p, "mirror", edit) }},
	{"skopeo", func(t testing.TB, p *Pratique, edit func(string)) node {
		root := generate(t, p.Registry, "podman", edit)
		c := &Skopeo{need(t, "skopeo"), workdir(t, "skopeo"), registriesConf(root), p}
		return node{Client: c, runtime: "podman", root: root,
			pull: c.binary + " --registries-conf " + c.conf + " --override-os linux --override-arch amd64 copy docker://{} oci:" + filepath.Join(c.dir, "canary") + ":pulled",
			env:  []string{"HOME=" + c.dir}}
	}},
	{"buildah", func(t testing.TB, p *Pratique, edit func(string)) node {
		root := generate(t, p.Registry, "podman", edit)
		c := &Buildah{Podman{need(t, "buildah"), workdir(t, "buildah"), registriesConf(root)}}
		return node{Client: c, runtime: "podman", root: root, pull: strings.Join(c.command("pull", "--policy", "always").Args, " "), env: c.command().Env}
	}},
})

type nodeClient struct {
	name  string
	start func(t testing.TB, p *Pratique, edit func(root string)) node
}

// withSlow adds those that take minutes to build, with E2E_CLIENTS=all.
func withSlow(clients []nodeClient) []nodeClient {
	if os.Getenv("E2E_CLIENTS") != "all" {
		return clients
	}
	return append(clients,
		nodeClient{"containerd 1.7", func(t testing.TB, p *Pratique, edit func(string)) node {
			return containerdNode(t, p, edit, startContainerd(t, binary(t, "containerd17"), containerdConfig1, nil), viaCRI(t))
		}})
}

// viaCRI pulls as kubelet does.
func viaCRI(t testing.TB) func(*Containerd) (Client, string) {
	return func(c *Containerd) (Client, string) {
		return c.CRI(), binary(t, "criclient") + " " + c.socket + " pull"
	}
}

// Buildah is podman's sister, with a store of its own.
type Buildah struct{ Podman }

func (c *Buildah) command(args ...string) *exec.Cmd {
	args = append([]string{"--root", filepath.Join(c.dir, "root"), "--runroot", filepath.Join(c.dir, "run"), "--storage-driver", "vfs"}, args...)
	cmd := exec.Command(c.binary, args...)
	cmd.Env = append(os.Environ(), "HOME="+c.dir, "CONTAINERS_REGISTRIES_CONF="+c.conf, "XDG_RUNTIME_DIR="+c.dir)
	return cmd
}

// Pull implements Client.
func (c *Buildah) Pull(t testing.TB, reference, arch string) result {
	return run(t, c.command("pull", "--policy", "always", "--os", "linux", "--arch", arch, "docker.io/"+reference))
}

// generate writes a node's files and lets a test spoil them.
func generate(t testing.TB, server, runtime string, edit func(root string), args ...string) string {
	t.Helper()
	root := workdir(t, "node")
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	r := run(t, exec.Command(binary(t, "pratique"), append([]string{"nodes", "config", "--runtime", runtime, "--server", server, "--dir", root}, args...)...))
	if r.exit != 0 {
		t.Fatal(r.output)
	}
	if runtime == "containerd" { // what a person merges by hand
		if err := os.Rename(filepath.Join(root, "etc/containerd/pratique-config-v2.toml"), filepath.Join(root, "etc/containerd/config.toml")); err != nil {
			t.Fatal(err)
		}
	}
	if edit != nil {
		edit(root)
	}
	return root
}

func registriesConf(root string) string {
	return filepath.Join(root, "etc/containers/registries.conf.d/zz-pratique.conf")
}

func containerdNode(t testing.TB, p *Pratique, edit func(string), c *Containerd, client func(*Containerd) (Client, string)) node {
	root := generate(t, p.Registry, "containerd", edit)
	if err := os.CopyFS(c.hosts, os.DirFS(filepath.Join(root, "etc/containerd/certs.d"))); err != nil {
		t.Fatal(err)
	}
	cl, pull := client(c)
	return node{Client: cl, runtime: "containerd", root: root, pull: pull}
}

func podmanNode(t testing.TB, p *Pratique, form string, edit func(string)) node {
	root := generate(t, p.Registry, "podman", edit, "--form", form)
	c := &Podman{need(t, "podman"), workdir(t, "podman"), registriesConf(root)}
	return node{Client: c, runtime: "podman", root: root, pull: strings.Join(c.command("pull").Args, " "), env: c.command().Env}
}

// examined is what `pratique nodes doctor -o json` says.
type examined struct {
	Outcome  string
	Why      []string
	Pratique struct{ Answer string }
	Upstream struct{ Answer string }
	Pull     *struct{ Exit int }
	exit     int
	text     string
}

// doctor examines n, whose files are in root.
func (n node) doctor(t testing.TB, p *Pratique, u *Upstream, root string) examined {
	t.Helper()
	return n.doctorAt(t, "http://"+p.Registry, u, root)
}

func (n node) doctorAt(t testing.TB, server string, u *Upstream, root string, args ...string) examined {
	t.Helper()
	cmd := exec.Command(binary(t, "pratique"), append([]string{"nodes", "doctor", "-o", "json", "--runtime", n.runtime, "--server", server,
		"--root", root, "--canary", canary, "--direct", "http://" + u.Addr, "--pull", n.pull}, args...)...)
	cmd.Env = append(os.Environ(), n.env...)
	r := run(t, cmd)
	e := examined{exit: r.exit, text: r.output}
	if err := json.Unmarshal([]byte(r.stdout), &e); err != nil {
		t.Fatalf("%v:\n%s", err, r.output)
	}
	return e
}

// pushCanary puts the canary into the upstream, past Pratique.
func pushCanary(t testing.TB, u *Upstream) {
	t.Helper()
	ref, err := name.ParseReference(u.Addr+"/team/pratique-canary:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, u.sample[images.Clean].(v1.Image)); err != nil {
		t.Fatal(err)
	}
}

// past lists what others than Pratique asked the upstream.
func past(u *Upstream) []string {
	var out []string
	for _, r := range u.Requests() {
		if !strings.HasPrefix(r.Agent, "pratique/") {
			out = append(out, r.String())
		}
	}
	return out
}

// TestNodesConfig: with the generated files alone, and no bare HEAD to help, a
// node gets what is allowed, and nothing past Pratique: not what is refused, not
// what it has in its own store since it was allowed, not when Pratique is gone.
func TestNodesConfig(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	pushCanary(t, u)
	shipped, err := os.ReadFile("../configs/policies/default.yaml")
	if err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(workdir(t, "policy"), "policy.yaml")
	decree := func(text string) {
		if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	decree(strings.Replace(string(shipped), "action: deny", "action: warn", 1)) // the first rule's: fixable-critical
	p := StartPratique(t, u, Options{Head: "403", Extra: fmt.Sprintf("policies: [%q]", policy)})
	nodes := make(map[string]node)
	for _, c := range nodeClients {
		nodes[c.name] = c.start(t, p, nil)
	}
	each := func(name string, f func(*testing.T, node)) {
		for _, c := range nodeClients {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				u.Forget()
				f(t, nodes[c.name])
				if went := past(u); len(went) > 0 {
					t.Errorf("went past Pratique:\n%s", strings.Join(went, "\n"))
				}
			})
		}
	}
	for _, sample := range []string{images.Clean, images.Vulnerable} {
		// Decided from here on: without the bare HEAD containerd is told 429 at once.
		if r := newCrane(t, p).Pull(t, sample, "amd64"); r.exit != 0 {
			t.Fatal(r.output)
		}
	}
	each("allowed", func(t *testing.T, n node) {
		for _, sample := range []string{images.Clean, images.Vulnerable} {
			if r := n.Pull(t, sample, "amd64"); r.exit != 0 {
				t.Errorf("%s: exit %d:\n%s", sample, r.exit, r.output)
			}
		}
	})
	p.Stop()
	decree(string(shipped))
	p.Start(t)
	each("refused, and in the node's store", func(t *testing.T, n node) {
		if r := n.Pull(t, images.Vulnerable, "amd64"); r.exit == 0 {
			t.Errorf("pulled:\n%s", r.output)
		}
	})
	each("refused, and new", func(t *testing.T, n node) {
		if r := n.Pull(t, images.AllRefused, "amd64"); r.exit == 0 {
			t.Errorf("pulled:\n%s", r.output)
		}
	})
	for _, c := range nodeClients {
		t.Run("doctor/"+c.name, func(t *testing.T) {
			e := nodes[c.name].doctor(t, p, u, nodes[c.name].root)
			if e.exit != 0 || e.Outcome != "closed" || e.Pratique.Answer != "refused" || e.Upstream.Answer != "has" {
				t.Errorf("exit %d:\n%s", e.exit, e.text)
			}
		})
	}
	p.Stop()
	each("Pratique is gone", func(t *testing.T, n node) {
		if r := n.Pull(t, images.MultiArch, "amd64"); r.exit == 0 {
			t.Errorf("pulled:\n%s", r.output)
		}
	})
}

// openings leave a way around in the files of a node: the mistakes that are made.
var openings = []struct {
	client, name string
	edit         func(t testing.TB, root string, u *Upstream)
	bySight      bool // only the files show it: this client does not use it
}{
	{client: "containerd", name: "server is the registry", edit: func(t testing.TB, root string, u *Upstream) {
		rewrite(t, filepath.Join(root, "etc/containerd/certs.d/docker.io/hosts.toml"), "\nserver = \"http://", "\nserver = \"http://"+u.Addr+"\" # \"http://")
	}},
	{client: "ctr", name: "a second host", edit: func(t testing.TB, root string, u *Upstream) {
		rewrite(t, filepath.Join(root, "etc/containerd/certs.d/docker.io/hosts.toml"), "", "[host.\"http://"+u.Addr+"\"]\n")
	}},
	{client: "containerd", name: "an upstream before Pratique", edit: func(t testing.TB, root string, u *Upstream) {
		rewrite(t, filepath.Join(root, "etc/containerd/certs.d/docker.io/hosts.toml"), "[host.", "[host.\"http://"+u.Addr+"\"]\n[host.")
	}},
	{client: "containerd", name: "no _default", bySight: true, edit: func(t testing.TB, root string, _ *Upstream) {
		if err := os.RemoveAll(filepath.Join(root, "etc/containerd/certs.d/_default")); err != nil {
			t.Fatal(err)
		}
	}},
	{client: "podman", name: "a mirror that is not blocked", edit: func(t testing.TB, root string, u *Upstream) {
		rewrite(t, registriesConf(root), "prefix = \"docker.io\"\n", "prefix = \"docker.io\"\nlocation = \""+u.Addr+"\"\ninsecure = true\n[[registry.mirror]]\n")
	}},
	{client: "skopeo", name: "no entry for the repository", edit: func(t testing.TB, root string, u *Upstream) {
		rewrite(t, registriesConf(root), "", "[[registry]]\nprefix = \"docker.io/team\"\ninsecure = true\nlocation = \""+u.Addr+"/team\"\n")
	}},
	{client: "buildah", name: "a mirror for digests alone", edit: func(t testing.TB, root string, u *Upstream) {
		rewrite(t, registriesConf(root), "prefix = \"docker.io\"\n", "prefix = \"docker.io\"\nlocation = \""+u.Addr+"\"\ninsecure = true\nmirror-by-digest-only = true\n[[registry.mirror]]\n")
	}},
}

// TestNodesDoctorFindsIgnoredFiles: containerd 1.6 passes over files that it
// cannot use without a word, and asks the registry itself. For localhost it does
// so by http, so that here the registry is there to answer.
func TestNodesDoctorFindsIgnoredFiles(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	pushCanary(t, u)
	p := StartPratique(t, u, Options{})
	local := "localhost" + u.Addr[strings.LastIndexByte(u.Addr, ':'):]
	for name, tc := range map[string]struct {
		file, old, text string // in certs.d; without old and text the file is removed
		closed          bool
	}{
		"nothing is wrong":              {"docker.io/hosts.toml", "", "\n", true},
		"no _default":                   {"_default", "", "", false},
		"an empty file":                 {"_default/hosts.toml", "*", "", false},
		"no host":                       {"_default/hosts.toml", "*", "server = \"http://" + p.Registry + "\"\n", false},
		"no server":                     {"_default/hosts.toml", "server = ", "# ", false},
		"an unknown capability":         {"_default/hosts.toml", "\"resolve\"]", "\"resolve\", \"pul\"]", false},
		"not TOML":                      {"_default/hosts.toml", "[host.", "[host", false},
		"a text where a list should be": {"_default/hosts.toml", "[\"pull\", \"resolve\"]", "\"pull\"", false},
		"a folder without hosts.toml":   {local + "/README", "*", "mine\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			n := nodeClients[0].start(t, p, func(root string) {
				path := filepath.Join(root, "etc/containerd/certs.d", tc.file)
				switch {
				case tc.old == "" && tc.text == "":
					if err := os.RemoveAll(path); err != nil {
						t.Fatal(err)
					}
				case tc.old == "*":
					if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
						t.Fatal(err)
					}
				default:
					rewrite(t, path, tc.old, tc.text)
				}
			})
			args := []string{"--canary", local + "/team/pratique-canary:1", "--direct", "http://" + local}
			e := n.doctorAt(t, "http://"+p.Registry, u, n.root, args...)
			if want := map[bool]int{true: 0, false: 3}[tc.closed]; e.exit != want {
				t.Errorf("by the files: exit %d, want %d:\n%s", e.exit, want, e.text)
			}
			if tc.closed {
				return
			}
			if e := n.doctorAt(t, "http://"+p.Registry, u, generate(t, p.Registry, n.runtime, nil), args...); e.exit != 3 || e.Pull == nil || e.Pull.Exit != 0 {
				t.Errorf("by the canary: exit %d; if this containerd is closed now, say so in docs/nodes.md:\n%s", e.exit, e.text)
			}
		})
	}
}

// rewrite replaces the first old by text, or appends text.
func rewrite(t testing.TB, path, old, text string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	next := string(raw) + text
	if old != "" {
		next = strings.Replace(string(raw), old, text, 1)
	}
	if next == string(raw) {
		t.Fatalf("%s holds no %q:\n%s", path, old, raw)
	}
	if err := os.WriteFile(path, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestNodesDoctorFindsOpenNodes: by the files and, where a closed node's files
// are shown to it instead, by the canary that it gets to see.
func TestNodesDoctorFindsOpenNodes(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	pushCanary(t, u)
	p := StartPratique(t, u, Options{}) // with the bare HEAD, which must not hide it
	for _, o := range openings {
		t.Run(o.client+"/"+o.name, func(t *testing.T) {
			for _, c := range nodeClients {
				if c.name != o.client {
					continue
				}
				n := c.start(t, p, func(root string) { o.edit(t, root, u) })
				e := n.doctor(t, p, u, n.root)
				if e.exit != 3 || e.Outcome != "open" || len(e.Why) == 0 {
					t.Errorf("by the files: exit %d:\n%s", e.exit, e.text)
				}
				e = n.doctor(t, p, u, generate(t, p.Registry, n.runtime, nil))
				if o.bySight {
					if e.exit != 0 {
						t.Errorf("this client is not closed: exit %d:\n%s", e.exit, e.text)
					}
				} else if e.exit != 3 || e.Pull == nil || e.Pull.Exit != 0 {
					t.Errorf("by the canary: exit %d:\n%s", e.exit, e.text)
				}
			}
		})
	}

	t.Run("no proof without the upstream", func(t *testing.T) {
		n := podmanNode(t, p, "rewrite", nil)
		bare := StartUpstream(t)
		if e := n.doctor(t, p, bare, n.root); e.exit != 4 || e.Outcome != "unproven" {
			t.Errorf("upstream without the canary: exit %d:\n%s", e.exit, e.text)
		}
		bare.Stop()
		if e := n.doctor(t, p, bare, n.root); e.exit != 4 || e.Outcome != "unproven" || e.Upstream.Answer != "silent" {
			t.Errorf("upstream gone: exit %d:\n%s", e.exit, e.text)
		}
	})
}
