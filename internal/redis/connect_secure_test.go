package redis

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"pratique/internal/redis/redistest"
	"pratique/scheduler"
	"pratique/scheduler/schedulertest"
	"pratique/store/storetest"
)

// documentedRights are those that docs/replicas.md gives the user of a prefix.
func documentedRights(t testing.TB, prefix string) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/replicas.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("`(~PREFIX:\\*[^`]*)`").FindSubmatch(doc)
	if m == nil {
		t.Fatal("docs/replicas.md names no rights of an ACL user")
	}
	return strings.ReplaceAll(string(m[1]), "PREFIX", prefix)
}

// securedConfig is that of a process which has access.
func securedConfig(url string, a *redistest.Access) Config {
	return Config{
		URL: url, Username: a.Username, Password: a.Password, SentinelPassword: a.SentinelPassword, TLS: a.TLS,
		Prefix: "house:" + randomName(), Documents: new(storetest.Documents), Skew: -1,
	}
}

// TestSecured: servers that take TLS with a client certificate alone, and a user with
// the rights that the documentation names, are enough for everything: over one server,
// a cluster, and one that sentinels with a password watch.
func TestSecured(t *testing.T) {
	t.Parallel()
	redistest.Need(t, "redis-server")
	a := redistest.Secure(t, documentedRights(t, "house"))
	for name, start := range map[string]func(t *testing.T) string{
		"single":   func(t *testing.T) string { return a.Start(t).URL() },
		"cluster":  func(t *testing.T) string { url, _ := a.Cluster(t, 3); return url },
		"sentinel": func(t *testing.T) string { url, _, _ := a.Sentinel(t); return url },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := start(t)
			opened := func(t *testing.T) *world { return &world{t, securedConfig(url, a)} }
			reopened := func(t *testing.T) func() *DB { return opened(t).reopened() }
			if name != "sentinel" { // which is one server too
				t.Run("dump", func(t *testing.T) { storetest.Dump(t, reopened, reopened) })
			}
			t.Run("exceptions", func(t *testing.T) { storetest.Exceptions(t, reopened) })
			t.Run("queue", func(t *testing.T) {
				schedulertest.Queue(t, func(t *testing.T) func() scheduler.Queue {
					open := reopened(t)
					return func() scheduler.Queue { return open() }
				})
			})
			t.Run("two processes", func(t *testing.T) {
				w := opened(t)
				one, other := w.replica(), w.replica()
				lease, err := one.Lease(t.Context(), "x", time.Minute)
				must(t, err)
				freed, end := other.Freed("x")
				defer end()
				lease.Release()
				<-freed
				if d, err := one.Durability(t.Context()); err != nil || d == DurableUnknown {
					t.Errorf("durability %q, %v: the user may not ask for it", d, err)
				}
				n, err := one.Others(t.Context())
				if err != nil || n != 1 {
					t.Errorf("%d others, %v", n, err)
				}
			})
			t.Run("moving", func(t *testing.T) {
				w := opened(t)
				db := w.replica(func(c *Config) { c.Moving = true })
				fingerprint, err := db.Fingerprint(t.Context())
				if err != nil || fingerprint == "" {
					t.Errorf("%q, %v", fingerprint, err)
				}
			})
		})
	}
}

// TestAdvice: what cannot be opened says what to do.
func TestAdvice(t *testing.T) {
	t.Parallel()
	redistest.Need(t, "redis-server")
	a := redistest.Secure(t, "~house:* &house:* +@all -@dangerous +config|get +info")
	secured := a.Start(t).URL()
	sentinels, _, _ := a.Sentinel(t)
	open := redistest.Start(t).URL()
	nodes, _ := redistest.Cluster(t, 3)
	none := "redis://" + redistest.FreeAddr(t)
	tests := map[string]struct {
		change func(c *Config)
		want   string
	}{
		"wrong password":      {func(c *Config) { c.Password = "other" }, "state.redis.passwordFile"},
		"no password":         {func(c *Config) { c.Username, c.Password = "", "" }, "state.redis.passwordFile"},
		"wrong user":          {func(c *Config) { c.Username = "nobody" }, "state.redis.username"},
		"another authority":   {func(c *Config) { c.TLS = c.TLS.Clone(); c.TLS.RootCAs = nil }, "state.redis.ca"},
		"no certificate":      {func(c *Config) { c.TLS = c.TLS.Clone(); c.TLS.Certificates = nil }, "state.redis.cert"},
		"no TLS":              {func(c *Config) { c.URL = strings.Replace(secured, "rediss:", "redis:", 1) }, "rediss://"},
		"TLS that is none":    {func(c *Config) { c.URL = strings.Replace(open, "redis:", "rediss:", 1) }, "redis://"},
		"a key of others":     {func(c *Config) { c.Prefix = "garden" }, "~garden:*"},
		"nobody listens":      {func(c *Config) { c.URL = none }, "state.redis.url"},
		"another's name":      {func(c *Config) { c.TLS = c.TLS.Clone(); c.TLS.ServerName = "redis.example" }, "for other names"},
		"sentinels' password": {func(c *Config) { c.URL, c.SentinelPassword = sentinels, "other" }, "state.redis.sentinelPasswordFile"},
		"no such master":      {func(c *Config) { c.URL = strings.TrimSuffix(sentinels, "/m") + "/other" }, "MASTER"},
		"a node of a cluster": {func(c *Config) { c.URL, c.Username, c.Password = strings.Replace(nodes, "+cluster", "", 1), "", "" }, "redis+cluster"},
		"no cluster": {func(c *Config) {
			c.URL, c.Username, c.Password = strings.Replace(open, "redis:", "redis+cluster:", 1), "", ""
		}, "redis://"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := securedConfig(secured, a)
			if name == "TLS that is none" { // nobody says so: it waits
				cfg.Timeout = 300 * time.Millisecond
			}
			tt.change(&cfg)
			db, err := Open(t.Context(), cfg)
			if err == nil {
				_ = db.Close()
				t.Fatal("opened")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("does not name %s", tt.want)
			}
			if strings.Contains(err.Error(), a.Password) || strings.Contains(err.Error(), a.SentinelPassword) {
				t.Error("shows a password")
			}
		})
	}
}
