package redis

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"pratique/internal/redis/redistest"
	"pratique/store"
	"pratique/store/storetest"
)

// process is a testing.TB that ends with the test process: for servers that tests
// share.
type process struct {
	testing.TB
	mu   sync.Mutex
	ends []func()
}

func (*process) Helper()                  {}
func (*process) Context() context.Context { return context.Background() }
func (p *process) TempDir() string {
	dir, err := os.MkdirTemp("", "redistest")
	if err != nil {
		panic(err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (p *process) Cleanup(end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends = append(p.ends, end)
}

func (p *process) end() {
	for i := len(p.ends) - 1; i >= 0; i-- {
		p.ends[i]()
	}
}

var (
	here    process
	single  = sync.OnceValue(func() string { return secured().Start(&here).URL() })
	cluster = sync.OnceValue(func() string { url, _ := secured().Cluster(&here, 3); return url })
	// secured is how those are met if PRATIQUE_REDIS_SECURED is set: all tests with TLS
	// and with the rights that the documentation names. If not, anybody may do anything.
	secured = sync.OnceValue(func() *redistest.Access {
		if os.Getenv("PRATIQUE_REDIS_SECURED") == "" {
			return nil
		}
		return redistest.Secure(&here, documentedRights(&here, "house"))
	})
)

func TestMain(m *testing.M) {
	code := m.Run()
	here.end()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

// modes runs a test over one server and over a cluster of three, at the same time.
func modes(t *testing.T, test func(t *testing.T, url string)) {
	redistest.Need(t, "redis-server")
	for name, url := range map[string]func() string{"single": single, "cluster": cluster} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, url())
		})
	}
}

// world is a state that several processes may open.
type world struct {
	t      *testing.T
	config Config
}

func newWorld(t *testing.T, url string) *world {
	// The state of one test begins with a prefix of its own.
	if a := secured(); a != nil && strings.HasPrefix(url, "rediss") {
		return &world{t, securedConfig(url, a)}
	}
	return &world{t, Config{URL: url, Prefix: randomName(), Documents: new(storetest.Documents), Skew: -1}}
}

// replica opens the state as one more process; it is closed with the test.
func (w *world) replica(adjust ...func(*Config)) *DB {
	w.t.Helper()
	cfg := w.config
	for _, a := range adjust {
		a(&cfg)
	}
	db, err := Open(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = db.Close() })
	return db
}

// fresh is what suites open again and again, each time as another process.
func fresh(url string) func(t *testing.T) func() *DB {
	return func(t *testing.T) func() *DB {
		return newWorld(t, url).reopened()
	}
}

// reopened opens the state again and again, each time as another process.
func (w *world) reopened() func() *DB {
	var db *DB
	return func() *DB {
		if db != nil {
			if err := db.Close(); err != nil {
				w.t.Error(err)
			}
		}
		db = w.replica()
		return db
	}
}

var _ store.Leases = (*DB)(nil)
