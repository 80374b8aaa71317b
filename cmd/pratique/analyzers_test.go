package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	javadb "github.com/aquasecurity/trivy-java-db/pkg/db"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/internal/config"
	"pratique/scanner/database"
	"pratique/scanner/worker/workertest"
)

// javaDatabase is an empty Java database of that day, as an archive.
func javaDatabase(t *testing.T, updated time.Time) io.Reader {
	t.Helper()
	dir := t.TempDir()
	db, err := javadb.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	metadata := javadb.NewMetadata(dir)
	if err := errors.Join(db.Init(), db.VacuumDB(), db.Close(), metadata.Update(javadb.Metadata{Version: javadb.SchemaVersion, UpdatedAt: updated})); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for _, name := range []string{"trivy-java.db", "metadata.json"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := tw.WriteHeader(&tar.Header{Name: name, Size: int64(len(b)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return &buf
}

// started are analyzers as serve makes them.
func started(t *testing.T) (*analyzers, *database.Database, *prometheus.Registry) {
	t.Helper()
	cfg, err := config.Load(configuration(t, "127.0.0.1:1", demoDatabase), []string{"PRATIQUE_ANALYZER=" + workertest.Binary(t)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	log := slog.New(slog.DiscardHandler)
	a := newAnalyzers(cfg, log, reg)
	java := database.NewJava(javaConfig(cfg, nil, log, reg, a.javaChanged))
	if err := a.start(t.Context(), java); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a, java, reg
}

// layer is an uncompressed layer with one file.
func layer(t *testing.T) ([]byte, pratique.Descriptor) {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := errors.Join(tw.WriteHeader(&tar.Header{Name: "etc/motd", Mode: 0o644, Typeflag: tar.TypeReg}), tw.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), pratique.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: digest.FromBytes(buf.Bytes()), Size: int64(buf.Len())}
}

func TestNewJavaDatabaseBringsNewWorkers(t *testing.T) {
	a, java, reg := started(t)
	raw, d := layer(t)
	before := a.Key()

	// A layer that is being read when the database comes is read to its end.
	r, w := io.Pipe()
	type result struct {
		inv pratique.Inventory
		err error
	}
	done := make(chan result, 1)
	go func() {
		inv, err := a.Layer(context.Background(), d, r)
		done <- result{inv, err}
	}()
	if _, err := w.Write(raw[:512]); err != nil {
		t.Fatal(err)
	}
	if _, err := java.Import(t.Context(), javaDatabase(t, scannedAt), false); err != nil {
		t.Fatal(err)
	}
	after := a.Key()
	if after == before {
		t.Fatal("the key does not tell the Java database")
	}
	if _, err := w.Write(raw[512:]); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if got := <-done; got.err != nil || got.inv.Analyzer != before || got.inv.State() != pratique.StateScanned {
		t.Errorf("the layer under way: %+v", got)
	}

	// What comes later is read by the new pool.
	if inv, err := a.Layer(t.Context(), d, bytes.NewReader(raw)); err != nil || inv.Analyzer != after {
		t.Errorf("after: %q, %v", inv.Analyzer, err)
	}
	if _, err := java.Import(t.Context(), javaDatabase(t, scannedAt.Add(24*time.Hour)), false); err != nil {
		t.Fatal(err)
	}
	if a.Key() == after {
		t.Error("the second Java database changed nothing")
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range families {
		if f.GetName() == "pratique_worker_busy" {
			n += len(f.GetMetric())
		}
	}
	if n != 1 {
		t.Errorf("pratique_worker_busy is there %d times", n)
	}
}

func TestWorkersGoOnWhenNewOnesDoNotStart(t *testing.T) {
	a, java, reg := started(t)
	raw, d := layer(t)
	before := a.Key()
	a.cfg.Scanner.Analyzer = "/does/not/exist"
	if _, err := java.Import(t.Context(), javaDatabase(t, scannedAt), false); err != nil {
		t.Fatal(err)
	}
	if inv, err := a.Layer(t.Context(), d, bytes.NewReader(raw)); err != nil || inv.Analyzer != before {
		t.Errorf("%q, %v", inv.Analyzer, err)
	}
	if a.ready() == nil {
		t.Error("ready without an analyzer program")
	}
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
	if found := registered(t, reg); !slices.Contains(found, "pratique_worker_busy []") {
		t.Errorf("the pool's metrics are gone: %v", found)
	}
}

// TestStartWithABrokenJavaDatabase: what an earlier run kept must not keep this
// one from starting.
func TestStartWithABrokenJavaDatabase(t *testing.T) {
	first, java, _ := started(t)
	if _, err := java.Import(t.Context(), javaDatabase(t, scannedAt), false); err != nil {
		t.Fatal(err)
	}
	dir, _ := java.Dir()
	file := filepath.Join(dir, "trivy-java.db")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[100:], bytes.Repeat([]byte{0xff}, 200)) // the header still says what it is
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	second := newAnalyzers(first.cfg, log, prometheus.NewRegistry())
	if err := second.start(t.Context(), database.NewJava(javaConfig(first.cfg, nil, log, nil, second.javaChanged))); err != nil {
		t.Fatal(fmt.Errorf("a broken Java database keeps the server from starting: %w", err))
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestLeftoversOfAKilledProcessAreRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tmp")
	for _, name := range []string{"pratique-worker-1/unpacked", "pratique-import-1.tar.gz", "somebody-elses"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := prepareTemp(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "somebody-elses" {
		t.Errorf("left: %v, %v", left, err)
	}
}
