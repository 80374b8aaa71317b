package nodes

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// node is the root of a node that has what Files writes, and what a person has
// to do by hand.
func node(t *testing.T, c Config) fstest.MapFS {
	t.Helper()
	files, err := Files(c)
	if err != nil {
		t.Fatal(err)
	}
	root := fstest.MapFS{}
	for _, f := range files {
		root[f.Path] = &fstest.MapFile{Data: f.Data, Mode: f.Mode}
		if f.Path == "etc/containerd/pratique-config-v2.toml" {
			root["etc/containerd/config.toml"] = root[f.Path]
		}
	}
	return root
}

// opens are the ways around that are found.
func opens(t *testing.T, root fs.FS, c Config) string {
	t.Helper()
	problems, err := Inspect(root, c)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, p := range problems {
		if p.Open {
			b.WriteString(p.Path + ": " + p.Text + "\n")
		}
	}
	return b.String()
}

// TestWrittenIsClosed: the one half of this package believes the other.
func TestWrittenIsClosed(t *testing.T) {
	for _, r := range Runtimes() {
		for name, c := range map[string]Config{"plain": plain(r), "full": full(t, r)} {
			if got := opens(t, node(t, c), c); got != "" {
				t.Errorf("%s %s:\n%s", r, name, got)
			}
		}
	}
	mirror := plain(CRIO)
	mirror.Form = Mirror
	if got := opens(t, node(t, mirror), mirror); got != "" {
		t.Errorf("mirror:\n%s", got)
	}
}

func TestEmptyNodeIsOpen(t *testing.T) {
	for _, r := range Runtimes() {
		if got := opens(t, fstest.MapFS{}, plain(r)); got == "" && r != Talos {
			t.Errorf("%s: nothing is found on a node without any file", r)
		}
	}
}

// TestInspectFinds changes one file of a closed node. "" deletes it; old → new
// replaces text in it; without old, new is the whole file.
func TestInspectFinds(t *testing.T) {
	const (
		hosts = "etc/containerd/certs.d/docker.io/hosts.toml"
		other = "etc/containerd/certs.d/_default/hosts.toml"
		conf  = "etc/containers/registries.conf.d/zz-pratique.conf"
	)
	for name, tc := range map[string]struct {
		runtime        Runtime
		file, old, new string
		want           string // in a way around; if empty, there is none
	}{
		"server line gone":             {Containerd, hosts, "server = \"http://10.0.0.9:5000\"\n", "", "no server line"},
		"server line empty":            {Containerd, other, "server = \"http://10.0.0.9:5000\"", "server = \"\"", "no server line"},
		"server is the registry":       {Containerd, hosts, "server = \"http://10.0.0.9:5000\"", "server = \"https://registry-1.docker.io\"", "server is https://registry-1.docker.io"},
		"server with another scheme":   {Containerd, hosts, "server = \"http:", "server = \"https:", "server is https://10.0.0.9:5000"},
		"server with the API's path":   {Containerd, hosts, "server = \"http://10.0.0.9:5000\"", "server = \"http://10.0.0.9:5000/v2\"", ""},
		"server with another path":     {Containerd, hosts, "server = \"http://10.0.0.9:5000\"", "server = \"http://10.0.0.9:5000/other\"", "server is"},
		"no host":                      {Containerd, hosts, "", "server = \"http://10.0.0.9:5000\"\n", "1.6 ignores the file"},
		"a second host":                {Containerd, hosts, "[host.", "[host.\"https://mirror.gcr.io\"]\n[host.", "leads to https://mirror.gcr.io"},
		"no pull":                      {Containerd, hosts, `["pull", "resolve"]`, `["resolve"]`, `lacks capability "pull"`},
		"no resolve":                   {Containerd, hosts, `["pull", "resolve"]`, `["pull"]`, `lacks capability "resolve"`},
		"all capabilities":             {Containerd, hosts, `capabilities = ["pull", "resolve"]`, "", ""},
		"unknown capability":           {Containerd, hosts, `["pull", "resolve"]`, `["pull", "resolve", "pul"]`, `does not know capability "pul"`},
		"the server lacks capability":  {Containerd, hosts, "server =", "capabilities = [\"pull\"]\nserver =", `server lacks capability "resolve"`},
		"not TOML":                     {Containerd, hosts, "[host.", "[host", "cannot read it"},
		"wrong type":                   {Containerd, hosts, `["pull", "resolve"]`, `"pull"`, "cannot read it"},
		"empty file":                   {Containerd, hosts, "", " ", "no server line"},
		"no file in the folder":        {Containerd, "etc/containerd/certs.d/ghcr.io/ca.crt", "", "x", "takes precedence over _default, and ghcr.io"},
		"folder with a port":           {Containerd, "etc/containerd/certs.d/ghcr.io_443_/ca.crt", "", "x", "and ghcr.io:443 is asked itself"},
		"Pratique's own folder":        {Containerd, "etc/containerd/certs.d/10.0.0.9_5000_/ca.crt", "", "x", ""},
		"no _default":                  {Containerd, other, "", "", "_default: is missing"},
		"config.toml without the path": {Containerd, "etc/containerd/config.toml", "  config_path =", "  x =", "no registry.config_path"},
		"config.toml with mirrors":     {Containerd, "etc/containerd/config.toml", "config_path =", "mirrors.\"docker.io\".endpoint = [\"http://x\"]\nconfig_path =", "registry.mirrors is set (docker.io)"},
		"config.toml is broken":        {Containerd, "etc/containerd/config.toml", "version = 2", "version = ", "cannot be read"},
		"config.toml names another":    {Containerd, "etc/containerd/config.toml", "/etc/containerd/certs.d", "/etc/other", "etc/other/_default: is missing"},
		"config.toml in an import":     {Containerd, "etc/containerd/config.toml", "", "imports = [\"/etc/containerd/pratique-config-v3.toml\"]\n", ""},

		"config.toml by the way":   {Containerd, "etc/containerd/config.toml", "", "imports = [\"pratique-config-v?.toml\"]\n", ""},
		"config.toml in no import": {Containerd, "etc/containerd/config.toml", "", "imports = [\"conf.d/*.toml\"]\n", "no registry.config_path"},

		"docker mirrors":         {Docker, "etc/docker/daemon.json", "{", `{"registry-mirrors": ["http://10.0.0.9:5000"],`, "registry-mirrors"},
		"docker without folders": {Docker, "etc/docker/certs.d/_default/hosts.toml", "", "", "_default: is missing"},
		"daemon.json is broken":  {Docker, "etc/docker/daemon.json", "{", "", "cannot be read"},

		"entry gone":                {Podman, conf, "", " ", "no entry for docker.io"},
		"entry leads elsewhere":     {Podman, conf, "location = \"10.0.0.9:5000/docker.io\"", "location = \"mirror.gcr.io\"", "docker.io is asked itself (location mirror.gcr.io)"},
		"entry of a namespace":      {Podman, "etc/containers/registries.conf", "", "[[registry]]\nlocation = \"docker.io/library\"\n", "docker.io/library is asked itself"},
		"entry of another registry": {Podman, "etc/containers/registries.conf.d/x.conf", "", "[[registry]]\nlocation = \"quay.io\"\n", "quay.io is asked itself"},
		"blocked registry":          {Podman, "etc/containers/registries.conf.d/x.conf", "", "[[registry]]\nlocation = \"quay.io\"\nblocked = true\n", ""},
		"open mirror":               {CRIO, conf, "location =", "location = \"docker.io\"\n[[registry.mirror]]\nlocation =", "docker.io is not blocked"},
		"foreign mirror":            {CRIO, conf, "location =", "blocked = true\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"mirror.gcr.io\"\n[[registry.mirror]]\nlocation =", "mirror mirror.gcr.io is not Pratique"},
		"digests alone":             {CRIO, conf, "location =", "blocked = true\nlocation = \"docker.io\"\n[[registry.mirror]]\npull-from-mirror = \"digest-only\"\nlocation =", "pull-from-mirror"},
		"digests alone, old":        {CRIO, conf, "location =", "mirror-by-digest-only = true\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation =", "mirror-by-digest-only"},
		"later drop-in wins":        {CRIO, "etc/containers/registries.conf.d/zzz.conf", "", "[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n", "docker.io is asked itself"},
		"earlier drop-in loses":     {CRIO, "etc/containers/registries.conf.d/a.conf", "", "[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n", ""},
		"root's own file":           {Podman, "root/.config/containers/registries.conf", "", "unqualified-search-registries = [\"docker.io\"]\n", "no entry for docker.io"},
		"root's file and CRI-O":     {CRIO, "root/.config/containers/registries.conf", "", "x", ""},
		"conf is broken":            {Podman, conf, "[[registry]]", "[[registry", "cannot be read"},
		"a host that begins alike":  {Podman, conf, "10.0.0.9:5000/", "10.0.0.9:50000/", "is asked itself (location 10.0.0.9:50000/docker.io)"},

		"k3s without the flag":     {K3s, "etc/rancher/k3s/config.yaml.d/pratique.yaml", "", "", "disable-default-registry-endpoint is not true"},
		"k3s with the flag off":    {K3s, "etc/rancher/k3s/config.yaml.d/z.yaml", "", "disable-default-registry-endpoint: false\n", "disable-default-registry-endpoint is not true"},
		"k3s config of a registry": {K3s, "etc/rancher/k3s/registries.yaml", "mirrors:", "configs: {docker.io: {auth: {username: x, password: y}}}\nmirrors:", `configs has "docker.io"`},
		"k3s config of all":        {K3s, "etc/rancher/k3s/registries.yaml", "mirrors:", "configs: {\"*\": {}}\nmirrors:", `configs has "*"`},
		"k3s without wildcard":     {K3s, "etc/rancher/k3s/registries.yaml", `"*":`, "quay.io:", `no mirror "*"`},
		"k3s mirror of nothing":    {K3s, "etc/rancher/k3s/registries.yaml", "mirrors:", "mirrors:\n  quay.io:", `mirror "quay.io" has no endpoint`},
		"k3s foreign endpoint":     {K3s, "etc/rancher/k3s/registries.yaml", "10.0.0.9", "10.0.0.8", "leads to http://10.0.0.8:5000"},
		"k3s is broken":            {K3s, "etc/rancher/k3s/registries.yaml", "mirrors:", "mirrors: [", "cannot be read"},
		"k3s peers":                {K3s, "etc/rancher/k3s/config.yaml", "", "embedded-registry: true\n", "nodes give each other"},
		"rke2 without file":        {RKE2, "etc/rancher/rke2/registries.yaml", "", "", "is missing"},
		"k3s generated, closed":    {K3s, "var/lib/rancher/k3s/agent/etc/containerd/certs.d/_default/hosts.toml", "", "[host.\"http://10.0.0.9:5000/v2\"]\n", ""},
		"k3s generated, open":      {K3s, "var/lib/rancher/k3s/agent/etc/containerd/certs.d/_default/hosts.toml", "", "server = \"https://docker.io/v2\"\n[host.\"http://10.0.0.9:5000/v2\"]\n", "its server is https://docker.io/v2"},
		"k3s generated, fallback":  {K3s, "var/lib/rancher/k3s/agent/etc/containerd/certs.d/_default/hosts.toml", "", "server = \"\"\n[host.\"http://10.0.0.9:5000/v2\"]\n", "no server line"},
	} {
		t.Run(name, func(t *testing.T) {
			c := plain(tc.runtime)
			root := node(t, c)
			switch old := root[tc.file]; {
			case tc.old == "" && tc.new == "":
				if old == nil {
					t.Fatalf("there is no %s", tc.file)
				}
				delete(root, tc.file)
			case tc.old == "":
				root[tc.file] = &fstest.MapFile{Data: []byte(tc.new)}
			default:
				if old == nil || !strings.Contains(string(old.Data), tc.old) {
					t.Fatalf("%s does not hold %q", tc.file, tc.old)
				}
				root[tc.file] = &fstest.MapFile{Data: []byte(strings.Replace(string(old.Data), tc.old, tc.new, 1))}
			}
			got := opens(t, root, c)
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("found:\n%swant %q", got, tc.want)
			}
		})
	}
}

// TestInspectFollowsLinks as containerd does.
func TestInspectFollowsLinks(t *testing.T) {
	c, dir := plain(Containerd), t.TempDir()
	if err := os.CopyFS(dir, node(t, c)); err != nil {
		t.Fatal(err)
	}
	certs := filepath.Join(dir, "etc/containerd/certs.d")
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"nowhere.example": "../gone", "closed.example": "_default", "open.example": "../../../empty"} {
		if err := os.Symlink(target, filepath.Join(certs, name)); err != nil {
			t.Fatal(err)
		}
	}
	got := opens(t, os.DirFS(dir), c)
	if !strings.Contains(got, "open.example: has no hosts.toml") || strings.Count(got, "\n") != 1 {
		t.Errorf("found:\n%s", got)
	}
}

// TestInspectFails: a file that cannot be read is no clean file.
func TestInspectFails(t *testing.T) {
	for _, r := range Runtimes() {
		if r == Talos {
			continue
		}
		if _, err := Inspect(unreadable{}, plain(r)); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: Inspect = %v, want permission denied", r, err)
		}
	}
}

type unreadable struct{}

func (unreadable) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
}

func TestNotesAboutOtherRegistries(t *testing.T) {
	c := plain(Podman)
	root := node(t, c)
	noted := func() bool {
		problems, err := Inspect(root, c)
		if err != nil {
			t.Fatal(err)
		}
		return len(problems) > 0
	}
	for policy, want := range map[string]bool{
		"": true, "{": true,
		`{"default": [{"type": "insecureAcceptAnything"}]}`:                                             true,
		`{"default": [{"type": "reject"}], "transports": {"docker": {"": [{}]}}}`:                       true,
		`{"default": [{"type": "reject"}], "transports": {"docker": {"docker.io": [{"type": "any"}]}}}`: false,
	} {
		root["etc/containers/policy.json"] = &fstest.MapFile{Data: []byte(policy)}
		if noted() != want {
			t.Errorf("policy.json %s: noted %t, want %t", policy, !want, want)
		}
	}
}

func TestJudge(t *testing.T) {
	refused := Pull{Command: "podman pull x", Ran: true, Exit: 125, Output: "denied: refused by rule gate/canary: x"}
	whole := Evidence{Pratique: Refused, Upstream: Has, Pulled: refused}
	with := func(change func(*Evidence)) Evidence {
		e := whole
		change(&e)
		return e
	}
	for name, tc := range map[string]struct {
		evidence Evidence
		want     Outcome
		says     string
	}{
		"nothing":             {Evidence{}, Unproven, "does not answer"},
		"everything":          {whole, Closed, "could not get it"},
		"403 without words":   {with(func(e *Evidence) { e.Pulled.Output = "failed with status: 403 Forbidden" }), Closed, ""},
		"a note":              {with(func(e *Evidence) { e.Problems = []Problem{{Text: "note"}} }), Closed, ""},
		"a way around":        {with(func(e *Evidence) { e.Problems = []Problem{{Path: "etc/x", Open: true, Text: "is open"}} }), Open, "/etc/x: is open"},
		"it was pulled":       {with(func(e *Evidence) { e.Pulled.Exit = 0 }), Open, "came from somewhere else"},
		"pulled, unasked":     {with(func(e *Evidence) { e.Pulled.Exit, e.Pratique = 0, Silent }), Unproven, "does not answer"},
		"pulled, not refused": {with(func(e *Evidence) { e.Pulled.Exit, e.Pratique = 0, Has }), Unproven, "does not refuse"},
		"pulled, no upstream": {with(func(e *Evidence) { e.Pulled.Exit, e.Upstream = 0, Silent }), Open, "somewhere else"},
		"bare":                {with(func(e *Evidence) { e.Pratique = RefusedBare }), Unproven, "pratique-canary"},
		"bare, and pulled":    {with(func(e *Evidence) { e.Pratique, e.Pulled.Exit = RefusedBare, 0 }), Open, ""},
		"upstream lacks it":   {with(func(e *Evidence) { e.Upstream = Lacks }), Unproven, "Push any image"},
		"upstream is silent":  {with(func(e *Evidence) { e.Upstream = Silent }), Unproven, "does not answer this node"},
		"nobody pulled":       {with(func(e *Evidence) { e.Pulled = Pull{} }), Unproven, "no client"},
		"client did not run":  {with(func(e *Evidence) { e.Pulled.Ran = false }), Unproven, "no client"},
		"no daemon":           {with(func(e *Evidence) { e.Pulled.Output = "connect: no such file or directory" }), Unproven, "does not say that it was refused"},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := Judge(tc.evidence)
			if got != tc.want || len(why) == 0 || !strings.Contains(strings.Join(why, "\n"), tc.says) {
				t.Errorf("Judge = %s, %q, want %s and %q", got, why, tc.want, tc.says)
			}
		})
	}
}

func TestClients(t *testing.T) {
	var without []Runtime
	for _, r := range Runtimes() {
		if len(Clients(r)) == 0 {
			without = append(without, r)
		}
	}
	if diff := cmp.Diff([]Runtime{Talos}, without); diff != "" {
		t.Errorf("runtimes without a client (-want +got):\n%s", diff)
	}
}
