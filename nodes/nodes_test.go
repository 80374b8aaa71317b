package nodes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pratique"
)

// plain is the least that can be asked for, full everything.
func plain(r Runtime) Config {
	return Config{Runtime: r, Server: "http://10.0.0.9:5000"}
}

func full(t *testing.T, r Runtime) Config {
	t.Helper()
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	return Config{
		Runtime: r, Server: "https://pratique.example:5000",
		Upstreams: []Upstream{{Name: "docker.io"}, {Name: "ghcr.io"}, {Name: "10.0.0.5:5000", Key: "lab"}},
		CA:        read("ca.crt"), Cert: read("client.crt"), Key: read("client.key"),
		Username: "node", Password: "a \"secret\" \\ with: everything",
	}
}

// TestGolden compares with testdata/*.txtar; UPDATE=1 writes them.
func TestGolden(t *testing.T) {
	cases := map[string]Config{}
	for _, r := range Runtimes() {
		cases[string(r)] = plain(r)
		cases[string(r)+"-full"] = full(t, r)
	}
	mirror := plain(Podman)
	mirror.Form = Mirror
	cases["podman-mirror"] = mirror
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			files, err := Files(c)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, f := range files {
				fmt.Fprintf(&got, "-- %s --\n%s", f.Path, f.Data)
				if !strings.HasSuffix(string(f.Data), "\n") {
					t.Errorf("%s does not end in a newline", f.Path)
				}
				secret := strings.Contains(string(f.Data), "PRIVATE KEY") || strings.Contains(string(f.Data), "secret") ||
					strings.Contains(string(f.Data), "Basic ") || strings.Contains(string(f.Data), `"auth"`)
				if f.Mode != 0o644 && f.Mode != 0o600 || secret && f.Mode != 0o600 {
					t.Errorf("%s has mode %v", f.Path, f.Mode)
				}
			}
			golden := filepath.Join("testdata", name+".txtar")
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
		})
	}
}

func TestFilesRefuses(t *testing.T) {
	with := func(change func(*Config)) Config {
		c := full(t, Containerd)
		change(&c)
		return c
	}
	for name, c := range map[string]Config{
		"nothing":                    {},
		"unknown runtime":            {Runtime: "rkt", Server: "http://p:5000"},
		"no server":                  {Runtime: Podman},
		"server without scheme":      {Runtime: Podman, Server: "p:5000"},
		"server with a path":         {Runtime: Podman, Server: "http://p:5000/mirror"},
		"server with a query":        {Runtime: Podman, Server: "http://p:5000?ns=x"},
		"server with a user":         {Runtime: Podman, Server: "http://u:p@p:5000"},
		"server of another kind":     {Runtime: Podman, Server: "ftp://p:5000"},
		"server that ends a string":  {Runtime: Podman, Server: "http://p\"]:5000"},
		"upstream that ends one":     {Runtime: Podman, Server: "http://p", Upstreams: []Upstream{{Name: "a\"\nlocation = \"x"}}},
		"upstream above the folder":  {Runtime: Containerd, Server: "http://p", Upstreams: []Upstream{{Name: ".."}}},
		"upstream with a path":       {Runtime: Containerd, Server: "http://p", Upstreams: []Upstream{{Name: "ghcr.io/org"}}},
		"upstream in capitals":       {Runtime: Containerd, Server: "http://p", Upstreams: []Upstream{{Name: "GHCR.io"}}},
		"port without a key":         {Runtime: Podman, Server: "http://p", Upstreams: []Upstream{{Name: "10.0.0.5:5000"}}},
		"key with a slash":           {Runtime: Podman, Server: "http://p", Upstreams: []Upstream{{Name: "ghcr.io", Key: "a/b"}}},
		"one name, two keys":         {Runtime: Podman, Server: "http://p", Upstreams: []Upstream{{Name: "ghcr.io"}, {Name: "ghcr.io", Key: "lab"}}},
		"unknown form":               {Runtime: Podman, Server: "http://p", Form: "open"},
		"certificates without https": with(func(c *Config) { c.Server = "http://p:5000" }),
		"no certificate in the CA":   with(func(c *Config) { c.CA = []byte("none") }),
		"certificate without key":    with(func(c *Config) { c.Key = nil }),
		"key without certificate":    with(func(c *Config) { c.Cert = nil }),
		"user without password":      with(func(c *Config) { c.Password = "" }),
		"password without user":      with(func(c *Config) { c.Username = "" }),
		"user with a colon":          with(func(c *Config) { c.Username = "a:b" }),
		"password of two lines":      with(func(c *Config) { c.Password = "a\nb" }),
	} {
		t.Run(name, func(t *testing.T) {
			if files, err := Files(c); !errors.Is(err, pratique.ErrInvalid) || files != nil {
				t.Errorf("Files = %d files, %v, want an error wrapping ErrInvalid", len(files), err)
			}
		})
	}
}

func TestParseUpstream(t *testing.T) {
	for text, want := range map[string]Upstream{
		"docker.io":              {Name: "docker.io", Key: "docker.io"},
		"10.0.0.5:5000=lab":      {Name: "10.0.0.5:5000", Key: "lab"},
		"registry.example=inner": {Name: "registry.example", Key: "inner"},
	} {
		got, err := ParseUpstream(text)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("ParseUpstream(%q): %v (-want +got):\n%s", text, err, diff)
		}
	}
	for _, text := range []string{"", "=lab", "10.0.0.5:5000", "a b", "docker.io=a/b"} {
		if u, err := ParseUpstream(text); err == nil {
			t.Errorf("ParseUpstream(%q) = %v", text, u)
		}
	}
}
