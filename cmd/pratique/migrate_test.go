package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/redis"
	"pratique/internal/redis/redistest"
	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/store"
	"pratique/store/storetest"
)

// migrateEnv makes the test program one that moves a state, with the arguments that
// follow, and that is killed when it has told so often of how far it is.
const migrateEnv = "PRATIQUE_TEST_MIGRATE"

func migrateAndDie(after int, file, from, blobs string) int {
	c := &console{out: os.Stdout, err: os.Stderr}
	m, err := newMigration(c, file, nil, from, "", blobs)
	if err == nil {
		m.batch = 3
		m.told = func(store.MoveProgress) {
			if after--; after == 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		err = m.run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// machine is what one machine has, and the configuration of the replicas.
type machine struct {
	t                  *testing.T
	dir, state, config string
	server             *redistest.Server
	blobs              map[digest.Digest][]byte
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, dir: t.TempDir(), server: redistest.Start(t), blobs: make(map[digest.Digest][]byte)}
	m.state, m.config = filepath.Join(m.dir, "state.db"), filepath.Join(m.dir, "replicas.yaml")
	text := fmt.Sprintf("dataDir: %q\nstate: {redis: {url: %q, prefix: moved}}\nstorage: {driver: filesystem, parameters: {rootdirectory: %q}}\n",
		filepath.Join(m.dir, "replica"), m.server.URL(), filepath.Join(m.dir, "shared"))
	if err := os.WriteFile(m.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var db *sqlite.DB
	storetest.Fill(t, func() *sqlite.DB {
		if db != nil {
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
		db = m.open()
		return db
	})
	now := time.Now()
	for i := range 5 {
		ref := pratique.Ref{Registry: "docker.io", Repo: "a", Digest: digest.FromString(strconv.Itoa(i))}
		if err := db.Push(t.Context(), ref, scheduler.PriorityPull, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(db.Pause(t.Context(), []scheduler.Priority{scheduler.PrioritySchedule}, now),
		db.PutRun(t.Context(), scheduler.Run{Name: "evict", Spec: "@daily", Base: now, StartedAt: now, Outcome: scheduler.OutcomeFailed}), db.Close()); err != nil {
		t.Fatal(err)
	}
	held := m.storage("blobs")
	for i := range 12 {
		raw := bytes.Repeat([]byte{byte(i)}, i*1000)
		d := digest.FromBytes(raw)
		m.blobs[d] = raw
		if err := held.Put(t.Context(), d, raw); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *machine) open() *sqlite.DB {
	m.t.Helper()
	db, err := sqlite.Open(m.t.Context(), m.state)
	if err != nil {
		m.t.Fatal(err)
	}
	return db
}

func (m *machine) storage(name string) *store.Blobs {
	m.t.Helper()
	b, err := store.OpenBlobs(m.t.Context(), store.BlobsConfig{Parameters: map[string]any{"rootdirectory": filepath.Join(m.dir, name)}})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = b.Close() })
	return b
}

// replica opens the target as a server would.
func (m *machine) replica() (*redis.DB, error) {
	db, err := redis.Open(m.t.Context(), redis.Config{URL: m.server.URL(), Prefix: "moved", Documents: m.storage("shared")})
	if err == nil {
		m.t.Cleanup(func() { _ = db.Close() })
	}
	return db, err
}

func (m *machine) migrate(more ...string) result {
	m.t.Helper()
	return runCommand(m.t, "", append([]string{"migrate", "--config", m.config, "--from", "sqlite:" + m.state}, more...)...)
}

// check compares both sides, apart from what the move compared itself.
func (m *machine) check() {
	m.t.Helper()
	from := m.open()
	defer from.Close()
	to, err := m.replica()
	if err != nil {
		m.t.Fatalf("the state that was moved does not open: %v", err)
	}
	defer to.Close()
	for _, kind := range store.Kinds() {
		want, err := store.SumOf(m.t.Context(), from, kind, nil)
		if err != nil {
			m.t.Fatal(err)
		}
		got, err := store.SumOf(m.t.Context(), to, kind, nil)
		if err != nil {
			m.t.Fatal(err)
		}
		if want != got || want.Records == 0 {
			m.t.Errorf("%s: %d records, want the %d of the file", kind, got.Records, want.Records)
		}
	}
	here := m.storage("shared")
	got := make(map[digest.Digest][]byte)
	if err := here.Walk(m.t.Context(), func(d digest.Digest, _ int64, _ time.Time) error {
		raw, err := here.ReadAll(m.t.Context(), d, 1<<20)
		got[d] = raw
		return err
	}); err != nil {
		m.t.Fatal(err)
	}
	if d := cmp.Diff(m.blobs, got); d != "" {
		m.t.Errorf("blobs (-want +got):\n%s", d)
	}
}

// TestMigrateKilled: killed at any place, it goes on; until it is done no replica
// opens the state, and then nothing is lost.
func TestMigrateKilled(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	blobs := filepath.Join(m.dir, "blobs")
	kills := 0
	for after := 2; ; after += 6 {
		cmd := exec.Command(os.Args[0], strconv.Itoa(after), m.config, "sqlite:"+m.state, blobs)
		cmd.Env = append(os.Environ(), migrateEnv+"=1")
		out, err := cmd.CombinedOutput()
		if err == nil {
			break
		}
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("%v: %s", err, out)
		}
		if kills++; kills > 1 && !strings.Contains(string(out), "going on") {
			t.Errorf("after a kill it began anew: %s", out)
		}
		if db, err := m.replica(); err == nil {
			_ = db.Close()
			t.Fatal("a replica opened a state that is not whole")
		}
	}
	if kills < 5 {
		t.Errorf("it was killed %d times", kills)
	}
	m.check()
}

func TestMigrateRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	refused := func(why string, more ...string) {
		t.Helper()
		if r := m.migrate(more...); r.code != exitError || !strings.Contains(r.errout, why) {
			t.Errorf("exit %d, want 1 with %q: %s", r.code, why, r.errout)
		}
	}
	db := m.open()
	refused("another process has it open")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := m.replica()
	if err != nil {
		t.Fatal(err)
	}
	refused("other processes use the target")
	if err := other.CreateException(t.Context(), pratique.Exception{ID: "e", Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	refused("the target is not empty")
	refused("no blobs in", "--blobs", filepath.Join(m.dir, "blobs", "blobs"))
	refused("address", "--to", "redis://user:secret@host")
	refused("redis:URL", "--to", "sqlite:x")
	state := m.state
	m.state = filepath.Join(m.dir, "none.db")
	refused("no such file")
	if _, err := os.Stat(m.state); err == nil {
		t.Error("it made a state to move")
	}
	m.state = state

	// Into another database of the same server, by its address.
	if r := m.migrate("--to", "redis:"+m.server.URL()+"/1", "--blobs", filepath.Join(m.dir, "blobs")); r.code != 0 || !strings.Contains(r.out, "the same on both sides") {
		t.Fatalf("exit %d: %s%s", r.code, r.out, r.errout)
	}
}

func TestRedisAddress(t *testing.T) {
	for to, want := range map[string]string{
		"redis://h:6379/0":                  "redis://h:6379/0",
		"redis:redis://h":                   "redis://h",
		"redis:rediss://h":                  "rediss://h",
		"rediss://h":                        "rediss://h",
		"redis+cluster://a,b":               "redis+cluster://a,b",
		"redis:rediss+sentinel://a:1,b/one": "rediss+sentinel://a:1,b/one",
		"redis:h":                           "",
		"http://h":                          "",
		"redis://:secret@h":                 "",
	} {
		if got, err := redisAddress(to); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", to, got, err, want)
		}
	}
}
