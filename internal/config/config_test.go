package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/internal/strictyaml"
	"pratique/policy"
)

const shipped = "../../configs"

// write makes a configuration file of text.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEveryShippedFileLoads(t *testing.T) {
	t.Chdir("../..") // relative paths in them start at the repository
	found := 0
	err := filepath.WalkDir("configs", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		found++
		if path == filepath.Join("configs", "exceptions.yaml") {
			return nil // evidence/exception loads it, and tries it
		}
		if filepath.Base(filepath.Dir(path)) == "policies" {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if _, err := policy.Load(policy.File{Name: path, Data: data}); err != nil {
				t.Error(err)
			}
			return nil
		}
		c, err := Load(path, nil, nil)
		if err != nil {
			t.Error(err)
			return nil
		}
		if _, err := c.LoadPolicies(); err != nil {
			t.Error(err)
		}
		return nil
	})
	if err != nil || found < 3 {
		t.Fatalf("%d files, %v", found, err)
	}
}

func TestPratiqueYAMLShowsTheDefaults(t *testing.T) {
	got, err := Load(filepath.Join(shipped, "pratique.yaml"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("configs/pratique.yaml differs from the defaults (-default +file):\n%s", diff)
	}
}

// keys lists every key that a type accepts, "*" standing for the keys of maps.
func keys(t reflect.Type, path string) []string {
	if strictyaml.Fields(t) == nil {
		return []string{path}
	}
	var out []string
	for _, f := range strictyaml.Fields(t) {
		field, at := t.Field(f.Index).Type, strictyaml.Join(path, f.Name)
		switch {
		case field.Kind() == reflect.Map && field.Elem().Kind() == reflect.Struct:
			out = append(out, keys(field.Elem(), at+".*")...)
		case field.Kind() == reflect.Struct:
			out = append(out, keys(field, at)...)
		default:
			out = append(out, at)
		}
	}
	return out
}

// TestPratiqueYAMLShowsEveryKey uncomments what is commented out and looks for
// every key there is.
func TestPratiqueYAMLShowsEveryKey(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(shipped, "pratique.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^( *)# ( *[A-Za-z.]+:( "[^"]*"| \S+)?( [^a-z].*)?)$`).ReplaceAllString(string(data), "$1$2")
	c := base()
	positions, err := strictyaml.Decode("pratique.yaml, uncommented", []byte(text), &c)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for path := range positions {
		shown[path] = true
		for key := range c.Upstreams {
			if rest, ok := strings.CutPrefix(path, "upstreams."+key+"."); ok {
				shown["upstreams.*."+rest] = true
			}
		}
		for key := range c.Trust.Identities {
			if rest, ok := strings.CutPrefix(path, "trust.identities."+key+"."); ok {
				shown["trust.identities.*."+rest] = true
			}
		}
		for key := range c.Schedules {
			if rest, ok := strings.CutPrefix(path, "schedules."+key+"."); ok {
				shown["schedules.*."+rest] = true
			}
		}
		for key := range c.Hooks.From {
			if rest, ok := strings.CutPrefix(path, "hooks.from."+key+"."); ok {
				shown["hooks.from.*."+rest] = true
			}
		}
		for key := range c.Notify.Sinks {
			if rest, ok := strings.CutPrefix(path, "notify.sinks."+key+"."); ok {
				shown["notify.sinks.*."+rest] = true
			}
		}
	}
	for _, key := range keys(reflect.TypeFor[Config](), "") {
		if !shown[key] {
			t.Errorf("%s is not shown in configs/pratique.yaml", key)
		}
	}
}

func TestContractKeys(t *testing.T) {
	c, err := Load(write(t, `
registry:  {listen: ":5000", hold: 25s}
refusal:   {head: 403}
admin:     {listen: "127.0.0.1:5001"}
storage:   {driver: filesystem, parameters: {rootdirectory: /var/lib/pratique/blobs}}
state:     {sqlite: {path: /var/lib/pratique/state.db}}
upstreams:
  docker.io: {url: https://registry-1.docker.io}
  lab: {url: "http://127.0.0.1:7001", private: true}
database:  {sources: ["mirror.gcr.io/aquasec/trivy-db:2", "ghcr.io/aquasecurity/trivy-db:2"], path: "", refresh: 1h}
javaDatabase: {sources: ["mirror.gcr.io/aquasec/trivy-java-db:1"], path: ""}
platforms: [linux/amd64, linux/arm64]
policies:  [configs/policies/default.yaml]
log:       {level: info, format: text}
`), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Refusal.Head = Head403
	want.Upstreams["lab"] = Upstream{URL: "http://127.0.0.1:7001", Private: true}
	want.Policies = []string{"configs/policies/default.yaml"}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
}

func TestWhatFollowsFromOtherSettings(t *testing.T) {
	for _, test := range []struct {
		name, file string
		check      func(Config) any
		want       any
	}{
		{"blobs follow dataDir", "dataDir: d", func(c Config) any { return c.Storage.Parameters }, map[string]any{"rootdirectory": "d/blobs"}},
		{"other parameters stay", "storage: {parameters: {maxthreads: 50}}", func(c Config) any { return c.Storage.Parameters }, map[string]any{"rootdirectory": "/var/lib/pratique/blobs", "maxthreads": 50}},
		{"state follows dataDir", "dataDir: d", func(c Config) any { return c.State.SQLite.Path }, "d/state.db"},
		{"s3 gets no rootdirectory", "storage: {driver: s3, parameters: {bucket: b}}", func(c Config) any { return c.Storage }, Storage{Driver: "s3", Parameters: map[string]any{"bucket": "b"}, Spool: "/var/lib/pratique/spool", Hot: Hot{Dir: "/var/lib/pratique/hot"}}},
		{"upstreams replace the default", `upstreams: {lab: {url: "https://lab.example"}}`, func(c Config) any { return c.Upstreams }, map[string]Upstream{"lab": {URL: "https://lab.example"}}},
		{"a database path silences the sources", "database: {path: db.tar.gz, sources: [a.example/b:2]}", func(c Config) any { return len(c.Database.Sources) }, 0},
		{"a Java database path too", "javaDatabase: {path: jdb}", func(c Config) any { return len(c.JavaDatabase.Sources) }, 0},
		{"no platform is all of them", "platforms: []", func(c Config) any { return c.WantedPlatforms() }, []pratique.Platform{}},
		{"comments alone change nothing", "# nothing\n", func(c Config) any { return c }, Default()},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Load(write(t, test.file), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, test.check(c)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOverrides(t *testing.T) {
	const file = `
registry: {listen: ":1", hold: 5s}
upstreams:
  docker.io: {url: https://registry-1.docker.io}
  lab: {url: "http://10.0.0.1:7001", private: true}
`
	for _, test := range []struct {
		name      string
		env, sets []string
		check     func(Config) any
		want      any
	}{
		{"file", nil, nil, func(c Config) any { return c.Registry.Listen }, ":1"},
		{"environment over file", []string{"PRATIQUE_REGISTRY_LISTEN=:2"}, nil, func(c Config) any { return c.Registry.Listen }, ":2"},
		{"flag over environment", []string{"PRATIQUE_REGISTRY_LISTEN=:2"}, []string{"registry.listen=:3"}, func(c Config) any { return c.Registry.Listen }, ":3"},
		{"the last flag wins", nil, []string{"registry.listen=:3", "registry.listen=:4"}, func(c Config) any { return c.Registry.Listen }, ":4"},
		{"what is not named stays", []string{"PRATIQUE_REGISTRY_LISTEN=:2"}, nil, func(c Config) any { return c.Registry.Hold }, 5 * time.Second},
		{"words of a key", []string{"PRATIQUE_CACHE_TAG_TTL=2m"}, nil, func(c Config) any { return c.Cache.TagTTL }, 2 * time.Minute},
		{"size", []string{"PRATIQUE_SCANNER_MAX_LAYER_SIZE=3GiB"}, nil, func(c Config) any { return c.Scanner.MaxLayerSize }, 3 * GiB},
		{"switch", []string{"PRATIQUE_SCANNER_LICENSES=true"}, nil, func(c Config) any { return c.Scanner.Licenses }, true},
		{"list", []string{"PRATIQUE_PLATFORMS=linux/arm64, linux/arm/v7"}, nil, func(c Config) any { return c.Platforms }, []Platform{{OS: "linux", Architecture: "arm64"}, {OS: "linux", Architecture: "arm", Variant: "v7"}}},
		{"upstream with a dot in its key", []string{"PRATIQUE_UPSTREAMS_DOCKER_IO_URL=https://mirror.example"}, nil, func(c Config) any { return c.Upstreams["docker.io"].URL }, "https://mirror.example"},
		{"the same by flag", nil, []string{"upstreams.docker.io.url=https://mirror.example"}, func(c Config) any { return c.Upstreams["docker.io"].URL }, "https://mirror.example"},
		{"an upstream keeps its other keys", nil, []string{"upstreams.lab.url=http://10.0.0.2"}, func(c Config) any { return c.Upstreams["lab"] }, Upstream{URL: "http://10.0.0.2", Private: true}},
		{"a new upstream", nil, []string{"upstreams.ghcr.io.url=https://ghcr.io"}, func(c Config) any { return c.Upstreams["ghcr.io"].URL }, "https://ghcr.io"},
		{"deep in an upstream", nil, []string{"upstreams.docker.io.credentials.keychain=ecr"}, func(c Config) any { return c.Upstreams["docker.io"].Credentials.Keychain }, KeychainECR},
		{"storage secret", []string{"PRATIQUE_STORAGE_DRIVER=s3", "PRATIQUE_STORAGE_PARAMETERS_SECRETKEY=a=b,c #1"}, nil, func(c Config) any { return c.Storage.Parameters["secretkey"] }, "a=b,c #1"},
		{"storage switch", nil, []string{"storage.parameters.secure=false"}, func(c Config) any { return c.Storage.Parameters["secure"] }, false},
		{"equals sign in a value", nil, []string{"dataDir=/a=b"}, func(c Config) any { return c.DataDir }, "/a=b"},
		{"analyzer's short name", []string{"PRATIQUE_ANALYZER=/bin/a"}, nil, func(c Config) any { return c.Scanner.Analyzer }, "/bin/a"},
		{"not ours", []string{"PRATIQUE_SERVER=http://x", "PATH=/bin", "PRATIQUE_E2E=1"}, nil, func(c Config) any { return c.Registry.Listen }, ":1"},
		{"Kubernetes service links", []string{
			"PRATIQUE_SERVICE_HOST=10.0.0.1", "PRATIQUE_SERVICE_PORT=5000", "PRATIQUE_SERVICE_PORT_REGISTRY=5000", "PRATIQUE_PORT=tcp://10.0.0.1:5000",
			"PRATIQUE_PORT_5000_TCP=tcp://10.0.0.1:5000", "PRATIQUE_PORT_5000_TCP_ADDR=10.0.0.1", "PRATIQUE_ADMIN_SERVICE_HOST=10.0.0.2", "PRATIQUE_ADMIN_PORT_5001_TCP_PROTO=tcp",
		}, nil, func(c Config) any { return c.Admin.Listen }, "127.0.0.1:5001"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Load(write(t, file), test.env, test.sets)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, test.check(c)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOverridesDoNotLeakIntoDefaults(t *testing.T) {
	if _, err := Load("", nil, []string{"upstreams.docker.io.url=https://evil.example", "storage.parameters.x=1"}); err != nil {
		t.Fatal(err)
	}
	if got := Default().Upstreams["docker.io"].URL; got != "https://registry-1.docker.io" {
		t.Error(got)
	}
}

// TestEnvNames: every key has a variable of its own, and none looks like those
// that Kubernetes makes for services.
func TestEnvNames(t *testing.T) {
	seen := map[string]string{}
	for _, key := range keys(reflect.TypeFor[Config](), "") {
		name := EnvName(key)
		if other, ok := seen[name]; ok {
			t.Errorf("%s and %s are both %s", key, other, name)
		}
		seen[name] = key
		if serviceLink.MatchString(name) {
			t.Errorf("%s (%s) would be taken for a service link and ignored", name, key)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, test := range []struct {
		name, file string
		env, sets  []string
		want       string
	}{
		{name: "unknown key", file: "registri: {}", want: "p.yaml:1:1: unknown key \"registri\"; did you mean `registry`?"},
		{name: "unknown key below", file: "registry:\n  lisen: :5000", want: "p.yaml:2:3: registry: unknown key \"lisen\"; did you mean `listen`?"},
		{name: "an unknown backend", file: "state: {postgres: {url: x}}", want: "p.yaml:1:9: state: unknown key \"postgres\"; known are sqlite, redis, failure and failureAge"},
		{name: "redis by another protocol", file: "state: {redis: {url: 'http://x'}}", want: `p.yaml:1:22: state.redis.url: scheme "http"; want one of redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster, rediss+cluster`},
		{name: "redis with a password in its URL", file: "state: {redis: {url: 'redis://u:secret@x'}}", want: "p.yaml:1:22: state.redis.url: has a user or password in it; use username and passwordFile"},
		{name: "sentinel without a master", file: "state: {redis: {url: 'redis+sentinel://a,b'}}", want: "p.yaml:1:22: state.redis.url: does not name the master: redis+sentinel://a,b/MASTER"},
		{name: "redis without url", file: "state: {redis: {username: u}}", want: "p.yaml:1:16: state.redis: has no url"},
		{name: "username alone", file: "state: {redis: {url: 'redis://x', username: u}}", want: "state.redis.passwordFile: missing; username needs it"},
		{name: "a prefix with a hash tag", file: "state: {redis: {url: 'redis://x', prefix: '{a}'}}", want: `p.yaml:1:43: state.redis.prefix: "{a}"; want at most 64 letters, digits, dots, dashes and underscores`},
		{name: "clocks far apart", file: "state: {redis: {url: 'redis://x', skew: 1m}}", want: "p.yaml:1:41: state.redis.skew: 1m0s; want 0s to 5s"},
		{name: "redirect to a directory", file: "storage: {redirect: true}", want: "p.yaml:1:21: storage.redirect: the driver filesystem has no addresses that clients could be sent to; use s3, gcs or azure"},
		{name: "hot cache of a directory", file: "storage: {hot: {maxSize: 1GiB}}", want: "p.yaml:1:26: storage.hot.maxSize: the driver filesystem is local already; leave it 0"},
		{name: "no failure age", file: "state: {failureAge: 0s}", want: "p.yaml:1:21: state.failureAge: 0s; want more than 0s, or failure: refuse"},
		{name: "another failure mode", file: "state: {failure: open}", want: `p.yaml:1:18: state.failure: "open": want serve-last or refuse`},
		{name: "twice", file: "log: {}\nlog: {}", want: `p.yaml:2:1: key "log" is here twice; first in line 1`},
		{name: "nothing under a key", file: "upstreams:\n", want: "p.yaml:1:11: upstreams: no value; give it one or leave the key out"},
		{name: "driver", file: "storage: {driver: s4}", want: `p.yaml:1:19: storage.driver: "s4": want filesystem, s3, gcs, azure or inmemory`},
		{name: "head", file: "refusal: {head: 404}", want: `p.yaml:1:17: refusal.head: "404": want bare or 403`},
		{name: "duration", file: "registry: {hold: 25}", want: `p.yaml:1:18: registry.hold: want a duration such as 25s, 10m, 1h30m or 7d, not "25"`},
		{name: "size", file: "scanner: {memory: 2Gb}", want: `p.yaml:1:19: scanner.memory: want a size such as 512MiB or 2GiB, not "2Gb"`},
		{name: "platform", file: "platforms: [amd64]", want: `p.yaml:1:13: platforms[0]: invalid platform "amd64": want os/architecture[/variant], e.g. linux/amd64`},
		{name: "hold", file: "registry: {hold: 26s}", want: "p.yaml:1:18: registry.hold: 26s is too long: containerd 2.3 and docker 29 give up after 30s without an answer and ask the upstream instead; at most 25s"},
		{name: "negative hold", file: "registry: {hold: -1s}", want: "registry.hold: -1s is negative"},
		{name: "hold from the environment", env: []string{"PRATIQUE_REGISTRY_HOLD=1h"}, want: "environment variable PRATIQUE_REGISTRY_HOLD: 1h0m0s is too long"},
		{name: "hold from a flag", sets: []string{"registry.hold=1h"}, want: "--set registry.hold: 1h0m0s is too long"},
		{name: "address", file: "registry: {listen: localhost}", want: `p.yaml:1:20: registry.listen: "localhost": want host:port or :port`},
		{name: "port", file: `registry: {listen: ":http"}`, want: `want a port from 0 to 65535`},
		{name: "port 05000", file: `registry: {listen: ":05000"}`, want: `want a port from 0 to 65535`},
		{name: "one address for both", file: `admin: {listen: ":5000"}`, want: "the admin API must not be where clusters pull"},
		{name: "half a certificate", file: "registry: {tls: {cert: x}}", want: "p.yaml:1:17: registry.tls: want both cert and key, or neither"},
		{name: "no upstream", file: "upstreams: {}", want: "upstreams: none; nothing could be pulled"},
		{name: "key with a port", file: `upstreams: {"10.0.0.1:5000": {url: "https://x.example"}}`, want: `a key has no port, because a name in a path cannot; give it an alias such as "10-0-0-1-5000"`},
		{name: "key in upper case", file: `upstreams: {Lab: {url: "https://x.example"}}`, want: "a key is in lower case"},
		{name: "key of two elements", file: `upstreams: {"a/b": {url: "https://x.example"}}`, want: "one element of a path"},
		{name: "key that climbs", file: `upstreams: {"..": {url: "https://x.example"}}`, want: "one element of a path"},
		{name: "reserved key", file: `upstreams: {v2: {url: "https://x.example"}}`, want: `"v2" is reserved`},
		{name: "key reserved for ourselves", file: `upstreams: {pratique: {url: "https://x.example"}}`, want: `"pratique" is reserved`},
		{name: "no url", file: `upstreams: {lab: {private: true}}`, want: "p.yaml:1:18: upstreams.lab: has no url"},
		{name: "scheme", file: `upstreams: {lab: {url: "ftp://x.example"}}`, want: "want https:// or http://"},
		{name: "no scheme", file: `upstreams: {lab: {url: "x.example"}}`, want: "want https:// or http://"},
		{name: "file url", file: `upstreams: {lab: {url: "file:///etc/passwd"}}`, want: "want https:// or http://"},
		{name: "path in url", file: `upstreams: {lab: {url: "https://x.example/v2/"}}`, want: "want scheme, host and port only"},
		{name: "query in url", file: `upstreams: {lab: {url: "https://x.example?a"}}`, want: "want scheme, host and port only"},
		{name: "empty query", file: `upstreams: {lab: {url: "https://x.example?"}}`, want: "want scheme, host and port only"},
		{name: "user in url", file: `upstreams: {lab: {url: "https://u:hunter2@x.example"}}`, want: "upstreams.lab.url: holds a user; use credentials"},
		{name: "user in a broken url", file: `upstreams: {lab: {url: "https://u:hunter2 %zz@x.example"}}`, want: "holds a user; use credentials"},
		{name: "user under another scheme", file: `upstreams: {lab: {url: "ftp://u:hunter2@x.example"}}`, want: "holds a user; use credentials"},
		{name: "upper case host", file: `upstreams: {lab: {url: "https://X.example"}}`, want: "want a host name in lower case"},
		{name: "odd host", file: `upstreams: {lab: {url: "https://x_.example_"}}`, want: "want a host name"},
		{name: "no host", file: `upstreams: {lab: {url: "https://"}}`, want: "want a host name"},
		{name: "port 0", file: `upstreams: {lab: {url: "https://x.example:0"}}`, want: "want a host name"},
		{name: "empty port", file: `upstreams: {lab: {url: "https://x.example:"}}`, want: "want a host name"},
		{name: "zone", file: `upstreams: {lab: {url: "https://[fe80::1%25eth0]", private: true}}`, want: "want a host name"},
		{name: "private address", file: `upstreams: {lab: {url: "https://10.1.2.3"}}`, want: "10.1.2.3 is a private address; say `private: true`"},
		{name: "mapped private address", file: `upstreams: {lab: {url: "https://[::ffff:127.0.0.1]"}}`, want: "is a private address"},
		{name: "localhost", file: `upstreams: {lab: {url: "https://localhost:7001"}}`, want: "is a private address"},
		{name: "carrier-grade NAT", file: `upstreams: {lab: {url: "http://100.100.1.1"}}`, want: "is a private address"},
		{name: "link-local", file: `upstreams: {lab: {url: "http://169.254.169.254"}}`, want: "is link-local"},
		{name: "link-local, called private", file: `upstreams: {lab: {url: "http://169.254.169.254", private: true}}`, want: "is link-local"},
		{name: "help of two lines", file: `refusal: {help: "a\nb"}`, want: "p.yaml:1:17: refusal.help: want one line of at most 300 bytes"},
		{name: "password over http", file: `upstreams: {lab: {url: "http://x.example", credentials: {username: a, passwordFile: b}}}`, want: "credentials over plain http"},
		{name: "half a login", file: `upstreams: {lab: {url: "https://x.example", credentials: {username: a}}}`, want: "want both username and passwordFile"},
		{name: "two logins", file: `upstreams: {lab: {url: "https://x.example", credentials: {dockerConfig: a, keychain: ecr}}}`, want: "want one way to log in, not dockerConfig and keychain"},
		{name: "unknown keychain", file: `upstreams: {lab: {url: "https://x.example", credentials: {keychain: aws}}}`, want: `"aws": want ecr, gcr or acr`},
		{name: "a password in the file", file: `upstreams: {lab: {url: "https://x.example", credentials: {password: x}}}`, want: "did you mean `passwordFile`?"},
		{name: "two upstreams at one address", file: `upstreams: {a: {url: "https://x.example"}, b: {url: "https://x.example:443"}}`, want: `upstreams.b.url: clients that ask for "x.example:443" may mean upstream "a" too`},
		{name: "http and https of one host", file: `upstreams: {a: {url: "https://x.example"}, b: {url: "http://x.example"}}`, want: `clients that ask for "x.example" may mean upstream "a" too`},
		{name: "a key that is another's host", file: `upstreams: {ghcr.io: {url: "https://mirror.example"}, gh: {url: "https://ghcr.io"}}`, want: `upstreams.gh.url: clients that ask for "ghcr.io" may mean upstream "ghcr.io" too`},
		{name: "negative stale window", file: "cache: {staleIfError: {latest: -1h}}", want: "cache.staleIfError.latest: -1h0m0s is negative"},
		{name: "stale window as one value", file: "cache: {staleIfError: 7d}", want: "staleIfError"},
		{name: "largest blob", file: "cache: {maxBlobSize: 1KiB}", want: "cache.maxBlobSize: 1KiB; want at least 1MiB"},
		{name: "negative limit", file: `upstreams: {lab: {url: "https://x.example", limits: {transfers: -1}}}`, want: "upstreams.lab.limits.transfers: -1 is negative; 0 is the default"},
		{name: "negative pause", file: `upstreams: {lab: {url: "https://x.example", limits: {breakPause: -1s}}}`, want: "upstreams.lab.limits.breakPause: -1s is negative"},
		{name: "no database", file: "database: {sources: []}", want: "database: neither path nor sources"},
		{name: "database source", file: "database: {sources: [trivy-db]}", want: `database.sources[0]: "trivy-db": want HOST/REPOSITORY:TAG`},
		{name: "refresh", file: "database: {refresh: 1s}", want: "database.refresh: 1s; want at least 1m"},
		{name: "no policies", file: "policies: []", want: "policies: an empty list; leave the key out"},
		{name: "no policies by environment", env: []string{"PRATIQUE_POLICIES="}, want: "environment variable PRATIQUE_POLICIES: an empty list"},
		{name: "a policy twice", file: "policies: [a, a]", want: "policies[1]: a is there already"},
		{name: "a platform twice", file: "platforms: [linux/amd64, linux/amd64]", want: "platforms[1]: linux/amd64 is there already"},
		{name: "workers", file: "scanner: {workers: -1}", want: "scanner.workers: -1 is negative"},
		{name: "memory", file: "scanner: {memory: 1MiB}", want: "scanner.memory: 1MiB; want at least 128MiB"},
		{name: "maxHeld", file: "registry: {maxHeld: 0}", want: "registry.maxHeld: 0; want at least 1"},
		{name: "unknown variable", env: []string{"PRATIQUE_REGISTRY_LISTN=:1"}, want: "environment variable PRATIQUE_REGISTRY_LISTN: no such key; did you mean `PRATIQUE_REGISTRY_LISTEN`?"},
		{name: "variable without underscores", env: []string{"PRATIQUE_CACHE_TAGTTL=1m"}, want: "did you mean `PRATIQUE_CACHE_TAG_TTL`?"},
		{name: "variable of an upstream that is not there", env: []string{"PRATIQUE_UPSTREAMS_LAB_URL=http://x"}, want: "environment variable PRATIQUE_UPSTREAMS_LAB_URL: no such key"},
		{name: "ambiguous variable", file: `upstreams: {a.b: {url: "https://x.example"}, a_b: {url: "https://y.example"}}`, env: []string{"PRATIQUE_UPSTREAMS_A_B_URL=https://z.example"}, want: "may mean upstreams.a.b.url or upstreams.a_b.url; use --set"},
		{name: "set without a value", sets: []string{"registry.listen"}, want: "--set registry.listen: want PATH=VALUE"},
		{name: "set of an unknown key", sets: []string{"registry.lisen=:1"}, want: "--set registry.lisen: unknown key \"lisen\"; did you mean `listen`?"},
		{name: "set of a mapping", sets: []string{"registry=x"}, want: "--set registry: not a single value; name one of its keys"},
		{name: "set below a value", sets: []string{"registry.listen.x=x"}, want: `--set registry.listen.x: nothing is below this key, so not "x"`},
		{name: "set of a whole upstream", sets: []string{"upstreams.lab=x"}, want: "want the entry's key and one of its own"},
		{name: "set of an unknown upstream key", sets: []string{"upstreams.docker.io.ulr=x"}, want: "--set upstreams.docker.io.ulr: unknown key"},
		{name: "set in a list", sets: []string{"platforms.0=linux/arm64"}, want: "a list is set whole"},
		{name: "two at once", file: "registry: {hold: 1h}\nlog: {level: loud}", want: `log.level: "loud": want debug, info, warn or error`},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := ""
			if test.file != "" {
				path = write(t, test.file)
			}
			_, err := Load(path, test.env, test.sets)
			if err == nil {
				t.Fatal("no error")
			}
			if !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("%v does not wrap ErrInvalid", err)
			}
			if got := strings.ReplaceAll(err.Error(), filepath.Dir(path)+"/", ""); !strings.Contains(got, test.want) {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the message shows a password")
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	c := Default()
	c.Policies = []string{filepath.Join(t.TempDir(), "none.yaml")}
	if _, err := c.LoadPolicies(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestNoPoliciesKeyIsTheEmbeddedPolicy(t *testing.T) {
	set, err := Default().LoadPolicies()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(shipped, "policies/default.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := policy.Load(policy.File{Name: "x", Data: data})
	if err != nil || set.Version() != want.Version() {
		t.Errorf("version %s, want %s (%v)", set.Version(), want.Version(), err)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "10B": 10, "1KiB": KiB, "512MiB": 512 * MiB, "2GiB": 2 * GiB, "2 GiB": 2 * GiB, "1TiB": TiB, "10GB": 10e9, "5kB": 5000,
	} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q = %d, %v", text, s, err)
		}
		var again Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%q reads back as %d, %v", s.String(), again, err)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "-1GiB", "1.5GiB", "9223372036854775807KiB", "0x10", "1e3", "+1", "1Gi"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted as %d", text, s)
		}
	}
}

func FuzzLoad(f *testing.F) {
	data, err := os.ReadFile(filepath.Join(shipped, "pratique.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, "PRATIQUE_LOG_LEVEL=debug", "upstreams.a.b.url=https://x.example")
	f.Add([]byte("upstreams: {a: {url: 'http://[::1]:5'}}"), "PRATIQUE_=", "=")
	f.Fuzz(func(t *testing.T, data []byte, env, set string) {
		c, err := parse("fuzz.yaml", data, []string{env}, []string{set})
		if err != nil {
			if !errors.Is(err, pratique.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if c.Registry.Hold > maxHold || len(c.Upstreams) == 0 || c.DataDir == "" {
			t.Fatalf("%+v", c)
		}
	})
}
