package nodes

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
)

// What the runtimes document, as structs that know nothing else: a key that is
// not theirs fails. containerd's files are read by containerd 1.6 in e2e too,
// registries.conf by podman, skopeo and buildah.
type (
	hostsSchema struct {
		Server string
		CA     string
		Client [][]string
		Header map[string]string
		Host   map[string]hostSchema
	}
	hostSchema struct {
		Capabilities []string
		CA           string
		Client       [][]string
		Header       map[string]string
	}
	registriesSchema struct {
		Registry []struct {
			Prefix, Location  string
			Insecure, Blocked bool
			Mirror            []struct {
				Location string
				Insecure bool
			}
		}
	}
	rancherSchema struct {
		Mirrors map[string]struct {
			Endpoint []string          `yaml:"endpoint"`
			Rewrite  map[string]string `yaml:"rewrite"`
		} `yaml:"mirrors"`
		Configs map[string]struct {
			Auth struct{ Username, Password string } `yaml:"auth"`
			TLS  struct {
				CA   string `yaml:"ca_file"`
				Cert string `yaml:"cert_file"`
				Key  string `yaml:"key_file"`
			} `yaml:"tls"`
		} `yaml:"configs"`
	}
	talosSchema struct { // Talos 1.12: RegistryMirrorConfig, RegistryAuthConfig, RegistryTLSConfig
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Name       string
		Endpoints  []struct {
			URL          string `yaml:"url"`
			OverridePath bool   `yaml:"overridePath"`
		}
		SkipFallback       bool `yaml:"skipFallback"`
		Username, Password string
		CA                 string                     `yaml:"ca"`
		ClientIdentity     struct{ Cert, Key string } `yaml:"clientIdentity"`
	}
	talosMachineSchema struct { // Talos 1.9 to 1.11: v1alpha1 RegistriesConfig
		Machine struct {
			Registries struct {
				Mirrors map[string]struct {
					Endpoints    []string
					OverridePath bool `yaml:"overridePath"`
					SkipFallback bool `yaml:"skipFallback"`
				}
				Config map[string]struct {
					Auth struct{ Username, Password string }
					TLS  struct {
						CA             string                    `yaml:"ca"`
						ClientIdentity struct{ Crt, Key string } `yaml:"clientIdentity"`
					} `yaml:"tls"`
				}
			}
		}
	}
)

// strictTOML decodes a file and fails on keys that the schema does not have.
func strictTOML(t *testing.T, f File, out any) {
	t.Helper()
	meta, err := toml.Decode(string(f.Data), out)
	if err != nil {
		t.Fatalf("%s: %v", f.Path, err)
	}
	if extra := meta.Undecoded(); len(extra) > 0 {
		t.Errorf("%s has unknown keys %v", f.Path, extra)
	}
}

func strictYAML(t *testing.T, dec *yaml.Decoder, out any) {
	t.Helper()
	dec.KnownFields(true)
	if err := dec.Decode(out); err != nil {
		t.Fatal(err)
	}
}

func file(t *testing.T, c Config, path string) File {
	t.Helper()
	files, err := Files(c)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(files, func(f File) bool { return f.Path == path })
	if i < 0 {
		t.Fatalf("%s is not written", path)
	}
	return files[i]
}

func TestHostsTOML(t *testing.T) {
	for runtime, dir := range map[Runtime]string{Containerd: "etc/containerd/certs.d", Docker: "etc/docker/certs.d"} {
		for _, folder := range []string{"_default", "docker.io", "10.0.0.5:5000"} {
			c := full(t, runtime)
			var got hostsSchema
			strictTOML(t, file(t, c, dir+"/"+folder+"/hosts.toml"), &got)
			client := [][]string{{"client.cert", "client.key"}}
			header := map[string]string{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))}
			want := hostsSchema{Server: c.Server, CA: "ca.crt", Client: client, Header: header,
				Host: map[string]hostSchema{c.Server: {Capabilities: []string{"pull", "resolve"}, CA: "ca.crt", Client: client, Header: header}}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", runtime, folder, diff)
			}
			if ca := file(t, c, dir+"/"+folder+"/ca.crt"); !bytes.Equal(ca.Data, c.CA) {
				t.Errorf("%s is another certificate", ca.Path)
			}
		}
	}
}

func TestContainerdSnippets(t *testing.T) {
	for version, plugin := range map[string]string{"2": criPlugins[0], "3": criPlugins[1]} {
		f := file(t, plain(Containerd), "etc/containerd/pratique-config-v"+version+".toml")
		var got struct {
			Version int
			Plugins map[string]struct {
				Registry struct {
					ConfigPath string `toml:"config_path"`
				}
			}
		}
		strictTOML(t, f, &got)
		if got.Plugins[plugin].Registry.ConfigPath != "/etc/containerd/certs.d" {
			t.Errorf("%s = %+v", f.Path, got)
		}
	}
}

func TestRegistriesConf(t *testing.T) {
	for _, form := range []Form{Rewrite, Mirror} {
		for _, runtime := range []Runtime{Podman, CRIO} {
			c := full(t, runtime)
			c.Form = form
			var got registriesSchema
			strictTOML(t, file(t, c, "etc/containers/registries.conf.d/zz-pratique.conf"), &got)
			locations := map[string]string{}
			for _, r := range got.Registry {
				location := r.Location
				if form == Mirror {
					if !r.Blocked || r.Location != r.Prefix || len(r.Mirror) != 1 {
						t.Errorf("%s is open: %+v", r.Prefix, r)
						continue
					}
					location = r.Mirror[0].Location
				}
				if r.Insecure {
					t.Errorf("%s: https is not verified", r.Prefix)
				}
				locations[r.Prefix] = location
			}
			want := map[string]string{
				"docker.io":            "pratique.example:5000/docker.io",
				"index.docker.io":      "pratique.example:5000/docker.io",
				"registry-1.docker.io": "pratique.example:5000/docker.io",
				"ghcr.io":              "pratique.example:5000/ghcr.io",
				"10.0.0.5:5000":        "pratique.example:5000/lab",
			}
			if diff := cmp.Diff(want, locations); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", runtime, form, diff)
			}
		}
	}
}

func TestLogins(t *testing.T) {
	for runtime, name := range map[Runtime]string{Podman: "root/.config/containers/auth.json", CRIO: "etc/crio/pratique-auth.json"} {
		var got struct {
			Auths map[string]struct{ Auth string }
		}
		dec := json.NewDecoder(bytes.NewReader(file(t, full(t, runtime), name).Data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&got); err != nil {
			t.Fatal(err)
		}
		login, err := base64.StdEncoding.DecodeString(got.Auths["pratique.example:5000"].Auth)
		if c := full(t, runtime); err != nil || string(login) != c.Username+":"+c.Password {
			t.Errorf("%s: %q, %v", name, login, err)
		}
	}
	var crio struct {
		Crio struct {
			Image struct {
				Auth string `toml:"global_auth_file"`
			}
		}
	}
	strictTOML(t, file(t, full(t, CRIO), "etc/crio/crio.conf.d/zz-pratique.conf"), &crio)
	if crio.Crio.Image.Auth != "/etc/crio/pratique-auth.json" {
		t.Errorf("crio.conf: %+v", crio)
	}
}

func TestRancher(t *testing.T) {
	for _, runtime := range []Runtime{K3s, RKE2} {
		c := full(t, runtime)
		dir := "etc/rancher/" + string(runtime)
		var got rancherSchema
		strictYAML(t, yaml.NewDecoder(bytes.NewReader(file(t, c, dir+"/registries.yaml").Data)), &got)
		for _, name := range []string{"*", "docker.io", "ghcr.io", "10.0.0.5:5000"} {
			if m := got.Mirrors[name]; !slices.Equal(m.Endpoint, []string{c.Server}) || len(m.Rewrite) > 0 {
				t.Errorf("%s: mirror %q = %+v", runtime, name, m)
			}
		}
		own := got.Configs["pratique.example:5000"]
		if len(got.Configs) != 1 || own.Auth.Username != c.Username || own.Auth.Password != c.Password {
			t.Errorf("%s: configs = %+v", runtime, got.Configs)
		}
		for _, p := range []string{own.TLS.CA, own.TLS.Cert, own.TLS.Key} {
			if file(t, c, strings.TrimPrefix(p, "/")); !path.IsAbs(p) {
				t.Errorf("%s: %q is not absolute", runtime, p)
			}
		}
		var flags map[string]any
		strictYAML(t, yaml.NewDecoder(bytes.NewReader(file(t, c, dir+"/config.yaml.d/pratique.yaml").Data)), &flags)
		if diff := cmp.Diff(map[string]any{"disable-default-registry-endpoint": true}, flags); diff != "" {
			t.Errorf("%s (-want +got):\n%s", runtime, diff)
		}
	}
}

func TestTalos(t *testing.T) {
	c := full(t, Talos)
	seen := map[string]int{}
	for dec := yaml.NewDecoder(bytes.NewReader(file(t, c, "talos/registries-1.12.yaml").Data)); ; {
		dec.KnownFields(true)
		var d talosSchema
		err := dec.Decode(&d)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if d.Kind == "" {
			continue // the comment before the first document
		}
		seen[d.Kind]++
		switch d.Kind {
		case "RegistryMirrorConfig":
			if !d.SkipFallback || len(d.Endpoints) != 1 || d.Endpoints[0].URL != c.Server || d.Endpoints[0].OverridePath {
				t.Errorf("open: %+v", d)
			}
		case "RegistryAuthConfig":
			if d.Name != "pratique.example:5000" || d.Username != c.Username || d.Password != c.Password {
				t.Errorf("%+v", d)
			}
		case "RegistryTLSConfig":
			for _, text := range []string{d.CA, d.ClientIdentity.Cert, d.ClientIdentity.Key} {
				if block, rest := pem.Decode([]byte(text)); block == nil || len(bytes.TrimSpace(rest)) > 0 {
					t.Errorf("not PEM: %q", text)
				}
			}
		}
		if d.APIVersion != "v1alpha1" {
			t.Errorf("%+v", d)
		}
	}
	// "*", docker.io and its two other names, ghcr.io, 10.0.0.5:5000
	if diff := cmp.Diff(map[string]int{"RegistryMirrorConfig": 6, "RegistryAuthConfig": 1, "RegistryTLSConfig": 1}, seen); diff != "" {
		t.Errorf("documents (-want +got):\n%s", diff)
	}

	var m talosMachineSchema
	strictYAML(t, yaml.NewDecoder(bytes.NewReader(file(t, c, "talos/registries-before-1.12.yaml").Data)), &m)
	for _, name := range []string{"*", "docker.io", "ghcr.io", "10.0.0.5:5000"} {
		if e := m.Machine.Registries.Mirrors[name]; !e.SkipFallback || e.OverridePath || !slices.Equal(e.Endpoints, []string{c.Server}) {
			t.Errorf("mirror %q = %+v", name, e)
		}
	}
	own := m.Machine.Registries.Config["pratique.example:5000"]
	if ca, err := base64.StdEncoding.DecodeString(own.TLS.CA); err != nil || !bytes.Equal(ca, c.CA) || own.Auth.Password != c.Password || own.TLS.ClientIdentity.Crt == "" {
		t.Errorf("config = %+v, %v", own, err)
	}
}

func TestDockerDaemon(t *testing.T) {
	var got map[string]any
	if err := json.Unmarshal(file(t, plain(Docker), "etc/docker/daemon.json").Data, &got); err != nil {
		t.Fatal(err)
	}
	// No registry-mirrors: they fall back.
	if diff := cmp.Diff(map[string]any{"insecure-registries": []any{"10.0.0.9:5000"}}, got); diff != "" {
		t.Errorf("daemon.json (-want +got):\n%s", diff)
	}
}
