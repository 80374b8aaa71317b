package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique/internal/config"
	"pratique/scanner/database"
	"pratique/web"
)

// generation is the path of one of the two databases of the tests.
func generation(name string) string {
	return filepath.Join("..", "..", "testdata", "database", name+".tar.gz")
}

// adopting is a matcher that takes any database.
type adopting struct{}

func (adopting) Adopt(context.Context, string, digest.Digest) error { return nil }

// serveDatabase has the product's own handler and database behind one address.
func serveDatabase(t *testing.T, cfg config.Database) (server string, db *database.Database) {
	t.Helper()
	db = database.New(database.Config{Dir: t.TempDir(), Sources: cfg.Sources, Log: slog.New(slog.DiscardHandler)}, adopting{})
	srv := httptest.NewServer(web.New(web.Config{Database: &databaseAPI{Database: db, cfg: cfg, served: database.NewArtifact(db)}, Spool: t.TempDir()}))
	t.Cleanup(srv.Close)
	return srv.URL, db
}

// TestLifeOfADatabase walks a database through its life as an operator does.
func TestLifeOfADatabase(t *testing.T) {
	server, _ := serveDatabase(t, config.Database{})
	ok := func(args ...string) string {
		t.Helper()
		got := runCommand(t, server, args...)
		if got.code != 0 {
			t.Fatalf("%v: %+v", args, got)
		}
		return got.out
	}
	fails := func(want string, args ...string) {
		t.Helper()
		if got := runCommand(t, server, args...); got.code != exitError || !strings.Contains(got.errout, want) {
			t.Errorf("%v: %+v, want %q", args, got, want)
		}
	}
	status := func(out string) (st web.DatabaseStatus) {
		t.Helper()
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	fails("no previous database is kept", "db", "rollback")
	fails("there is no current database", "db", "export", "-")
	older := status(ok("db", "import", generation("old"), "-o", "json")).Database.Digest
	fails("no previous database is kept", "db", "rollback")
	newer := status(ok("db", "import", generation("new"), "-o", "json")).Database.Digest

	// What is exported is what is there, and can be imported.
	dir := t.TempDir()
	file := filepath.Join(dir, "db.tar.gz")
	if out := ok("db", "export", file); out != newer+"\n" {
		t.Errorf("exported %q, want %s", out, newer)
	}
	if raw := ok("db", "export", "-", "--which", "previous"); database.VerifyExport(strings.NewReader(raw), digest.Digest(older)) != nil {
		t.Error("what is written to standard output is another one")
	}
	if again := status(ok("db", "import", file, "-o", "json")).Database.Digest; again != newer {
		t.Errorf("imported as %s", again)
	}
	fails("no such file or directory", "db", "export", filepath.Join(dir, "none", "db.tar.gz"))
	fails("is not kept", "db", "export", "--which", digest.FromString("x").String(), file)

	// Compared by the server, here, and across: the same.
	kept := ok("db", "diff", "previous", "current", "-o", "json")
	for _, pair := range [][]string{{generation("old"), generation("new")}, {older, generation("new")}, {"previous", file}, {generation("old"), newer}} {
		if got := ok("db", "diff", pair[0], pair[1], "-o", "json"); got != kept {
			t.Errorf("%v: %s\nwant %s", pair, got, kept)
		}
	}
	table := ok("db", "diff", generation("old"), generation("new"))
	for _, want := range []string{"advisories", "BUCKET", "debian 12", "(records)", "appeared", "CVE-"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	fails("is not kept", "db", "diff", "previous", digest.FromString("x").String())
	fails("not/there", "db", "diff", "current", "not/there")
	if es, err := os.ReadDir(dir); err != nil || len(es) != 1 {
		t.Errorf("left beside the export: %v, %v", es, err)
	}

	// Back, not twice, and forth.
	st := status(ok("db", "rollback", "-o", "json"))
	if st.Database.Digest != older || st.Previous != newer || st.RolledBack == nil || st.RolledBack.Digest != newer {
		t.Errorf("rolled back to %+v", st)
	}
	if out := ok("db", "status"); !strings.Contains(out, "rolled back") || !strings.Contains(out, "pratique/trivy-db:2, not yet") || !strings.Contains(out, newer) {
		t.Errorf("%s", out)
	}
	fails("was rolled back already", "db", "rollback")
	fails("--undo", "db", "rollback")
	st = status(ok("db", "rollback", "--undo", "-o", "json"))
	if st.Database.Digest != newer || st.Previous != older || st.RolledBack != nil {
		t.Errorf("undone: %+v", st)
	}
	fails("not rolled back", "db", "rollback", "--undo")
}

// TestExportIsVerified: what breaks off, or is another database than was announced,
// is never left as a file.
func TestExportIsVerified(t *testing.T) {
	raw, err := os.ReadFile(generation("old"))
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]http.HandlerFunc{
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(web.DatabaseHeader, digest.FromString("x").String())
			_, _ = w.Write(raw[:len(raw)/2])
		},
		"another": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(web.DatabaseHeader, digest.FromString("x").String())
			_, _ = w.Write(raw)
		},
		"not announced": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(raw) },
	} {
		srv := httptest.NewServer(answer)
		dir := t.TempDir()
		file := filepath.Join(dir, "db.tar.gz")
		if err := os.WriteFile(file, []byte("former"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, to := range []string{file, "-"} {
			if got := runCommand(t, srv.URL, "db", "export", to); got.code != exitError || got.errout == "" {
				t.Errorf("%s to %s: exit %d, %s", name, to, got.code, got.errout)
			}
		}
		es, err := os.ReadDir(dir)
		if kept, rerr := os.ReadFile(file); err != nil || rerr != nil || len(es) != 1 || string(kept) != "former" {
			t.Errorf("%s: %v, %q", name, es, kept)
		}
		srv.Close()
	}
}

// TestSourceThatIsAnUpstream: a source of the database that is a configured upstream
// is asked with that upstream's credentials, over its certificate authority; no
// other host is shown them.
func TestSourceThatIsAnUpstream(t *testing.T) {
	var unknown []string // requests without the credentials
	files := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "robot" || password != "s3cret" {
			unknown = append(unknown, r.URL.Path)
			w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	var shown []string // what a stranger is shown
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = append(shown, r.Header.Get("Authorization"))
		w.Header().Set("WWW-Authenticate", `Basic realm="stranger"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(stranger.Close)

	host := strings.TrimPrefix(srv.URL, "https://")
	layer, err := tarball.LayerFromFile(generation("new"), tarball.WithMediaType("application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"))
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/mirror/trivy-db:2")
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err == nil {
		err = remote.Write(ref, img, remote.WithTransport(srv.Client().Transport), remote.WithAuth(&authn.Basic{Username: "robot", Password: "s3cret"}))
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir) // nobody's own
	ca, password := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "password")
	for path, text := range map[string]string{
		ca:       string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})),
		password: "s3cret\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lab := config.Upstream{URL: srv.URL, Private: true, CA: ca, Credentials: config.Credentials{Username: "robot", PasswordFile: password}}
	check := func(upstreams map[string]config.Upstream, source string) error {
		t.Helper()
		ups, err := newUpstreams(config.Config{Upstreams: upstreams}, nil, prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		fetch := new(fetcher)
		fetch.use(ups)
		cfg := config.Config{DataDir: t.TempDir(), Database: config.Database{Sources: []string{source}, Refresh: time.Hour}}
		db := database.New(databaseConfig(cfg, fetch, slog.New(slog.DiscardHandler), nil, nil), adopting{})
		return db.Check(t.Context())
	}
	if err := check(map[string]config.Upstream{"lab": lab}, host+"/mirror/trivy-db:2"); err != nil {
		t.Errorf("%v", err)
	}
	for name, change := range map[string]func(*config.Upstream){
		"without credentials": func(u *config.Upstream) { u.Credentials = config.Credentials{} },
		"without the CA":      func(u *config.Upstream) { u.CA = "" },
		"public":              func(u *config.Upstream) { u.Private = false },
		"password is missing": func(u *config.Upstream) { u.Credentials.PasswordFile += ".gone" },
	} {
		other := lab
		change(&other)
		if err := check(map[string]config.Upstream{"lab": other}, host+"/mirror/trivy-db:2"); err == nil {
			t.Errorf("%s: it was fetched", name)
		}
	}
	// Nor by plain HTTP to the same host and port.
	plain := httptest.NewUnstartedServer(stranger.Config.Handler)
	srv.Close()
	if plain.Listener, err = net.Listen("tcp", host); err != nil {
		t.Fatal(err)
	}
	plain.Start()
	t.Cleanup(plain.Close)
	for _, source := range []string{host + "/mirror/trivy-db:2", "http://" + host + "/mirror/trivy-db:2"} {
		if err := check(map[string]config.Upstream{"lab": lab}, source); err == nil || len(shown) > 0 {
			t.Errorf("%s: %v, shown %v", source, err, shown)
		}
	}
	// Credentials are one upstream's, by host and scheme.
	open := config.Upstream{URL: stranger.URL, Private: true}
	if err := check(map[string]config.Upstream{"lab": lab, "open": open}, stranger.URL+"/mirror/trivy-db:2"); err == nil || len(shown) == 0 {
		t.Errorf("%v, asked %d times", err, len(shown))
	}
	for _, header := range shown {
		if header != "" {
			t.Errorf("a stranger was shown %q", header)
		}
	}
	if len(unknown) == 0 {
		t.Error("the registry never asked for credentials")
	}
}

// TestFailingSourcesAreShown: db status says which source fails, since when, and why.
func TestFailingSourcesAreShown(t *testing.T) {
	src := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(src.Close)
	source := src.URL + "/mirror/trivy-db:2"
	server, db := serveDatabase(t, config.Database{Sources: []string{source}})
	raw, err := os.ReadFile(generation("new"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Import(t.Context(), bytes.NewReader(raw), false); err != nil {
		t.Fatal(err)
	}
	if err := db.Check(t.Context()); err == nil {
		t.Fatal("no error")
	}
	out := strings.Join(strings.Fields(runCommand(t, server, "db", "status").out), " ")
	for _, want := range []string{"failing " + source + " since ", "429", "to be asked again after"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	var st web.DatabaseStatus
	if err := json.Unmarshal([]byte(runCommand(t, server, "db", "status", "-o", "json").out), &st); err != nil || len(st.Failing) != 1 || st.Failing[0].NotBefore == nil || st.Database == nil {
		t.Errorf("%v, %s", err, fmt.Sprintf("%+v", st))
	}
}
