//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// databaseSource is a registry that offers a database, as it is told to.
type databaseSource struct {
	addr string

	mu       sync.Mutex
	archive  []byte
	limited  bool // answers 429
	truncate bool // breaks blobs off
}

func startDatabaseSource(t testing.TB) *databaseSource {
	t.Helper()
	d := &databaseSource{}
	s := httptest.NewServer(d)
	t.Cleanup(s.Close)
	d.addr = strings.TrimPrefix(s.URL, "http://")
	return d
}

func (d *databaseSource) offer(archive []byte, limited, truncate bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.archive, d.limited, d.truncate = archive, limited, truncate
}

// ServeHTTP implements http.Handler.
func (d *databaseSource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	config := []byte("{}")
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": map[string]any{"mediaType": "application/vnd.aquasec.trivy.config.v1+json", "digest": digest.FromBytes(config), "size": len(config)},
		"layers": []any{map[string]any{"mediaType": "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip", "digest": digest.FromBytes(d.archive), "size": len(d.archive)}},
	})
	if err != nil {
		panic(err) // it always marshals
	}
	send := func(contentType string, body []byte, whole bool) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
		if r.Method == http.MethodHead {
			return
		}
		if !whole {
			_, _ = w.Write(body[:len(body)/2])
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(body)
	}
	switch path := r.URL.Path; {
	case path == "/v2/":
		w.WriteHeader(http.StatusOK)
	case d.limited:
		w.Header().Set("Retry-After", "120")
		http.Error(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"enough for now"}]}`, http.StatusTooManyRequests)
	case strings.Contains(path, "/manifests/"):
		send("application/vnd.oci.image.manifest.v1+json", manifest, true)
	case strings.HasSuffix(path, digest.FromBytes(config).String()):
		send("application/octet-stream", config, true)
	case strings.HasSuffix(path, digest.FromBytes(d.archive).String()):
		send("application/octet-stream", d.archive, !d.truncate)
	default:
		http.NotFound(w, r)
	}
}

// TestUpdateSources: whatever a source does, the standing database stays, the
// metrics and the log say why, and pulls go on.
func TestUpdateSources(t *testing.T) {
	t.Parallel()
	u, source := StartUpstream(t), startDatabaseSource(t)
	const name = "debian-bookworm-skeleton"
	u.Push(t, archived(t, name), "update/"+name+":1")
	good, err := os.ReadFile(filepath.Join(root(t), newerDatabase))
	if err != nil {
		t.Fatal(err)
	}
	older, err := os.ReadFile(filepath.Join(root(t), olderDatabase))
	if err != nil {
		t.Fatal(err)
	}
	source.offer(good, false, false)
	p := StartPratique(t, u, Options{TagTTL: "1h", Extra: policies(t, updatePolicy), Source: source.addr})
	if status, body := manifest(t, p, name); status != http.StatusForbidden {
		t.Fatalf("pull: %d %s", status, body)
	}
	standing := p.check(t, name).Report.Database.Digest

	for _, tc := range []struct {
		name              string
		archive           []byte
		limited, truncate bool
		metric, log       string
	}{
		{"answers 429", good, true, false, `pratique_database_failures_total{kind="vulnerability",reason="limited"}`, "429"},
		{"truncates", packed(t, emptyDatabase(t, true), "2026-11-23T06:00:00Z"), false, true, `pratique_database_failures_total{`, "EOF"},
		{"older", older, false, false, `pratique_database_refusals_total{kind="vulnerability",reason="older"}`, "2026-02-01"},
		{"empty", packed(t, emptyDatabase(t, false), "2026-11-23T06:00:00Z"), false, false, `pratique_database_refusals_total{kind="vulnerability",reason="empty"}`, "holds 0"},
		{"corrupt", packed(t, bytes.Repeat([]byte("no page of a database"), 4096), "2026-11-23T06:00:00Z"), false, false, `pratique_database_refusals_total{kind="vulnerability",reason="corrupt"}`, "broken"},
	} {
		p.Stop()
		source.offer(tc.archive, tc.limited, tc.truncate)
		p.Start(t) // which looks at its sources at once
		said := func() bool {
			_, metrics := answerOf(p.Admin + "/metrics")
			_, rest, _ := strings.Cut(metrics, "\n"+tc.metric)
			line, _, _ := strings.Cut(rest, "\n")
			return line != "" && !strings.HasSuffix(line, " 0") && strings.Contains(p.Log(), tc.log)
		}
		for deadline := time.Now().Add(30 * time.Second); !said(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				_, metrics := answerOf(p.Admin + "/metrics")
				t.Fatalf("%s: no %s, or no %q in the log:\n%s\n%s", tc.name, tc.metric, tc.log, p.Log(), metrics)
			}
		}
		if status, body := manifest(t, p, name); status != http.StatusForbidden || !strings.Contains(body, "house/severe") {
			t.Errorf("%s: pull = %d %s", tc.name, status, body)
		}
		if got := p.check(t, name).Report.Database.Digest; got != standing {
			t.Errorf("%s: the report is of database %s, want %s", tc.name, got, standing)
		}
	}
}

// emptyDatabase is a database file with nothing in its buckets; or with bytes in one
// that do not compress, so that breaking off loses something.
func emptyDatabase(t testing.TB, large bool) []byte {
	t.Helper()
	path := filepath.Join(workdir(t, "database"), "trivy.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range []string{"vulnerability", "data-source", "debian 12"} {
			b, err := tx.CreateBucketIfNotExists([]byte(name))
			if err != nil {
				return err
			}
			for i := range 2000 {
				if k := digest.FromString(fmt.Sprint(i)).Encoded(); large && name == "vulnerability" {
					if err := b.Put([]byte(k), []byte(`"`+k+`"`)); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// packed is the layer of a database's artifact.
func packed(t testing.TB, db []byte, updated string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for name, body := range map[string][]byte{
		"trivy.db":      db,
		"metadata.json": fmt.Appendf(nil, `{"Version":2,"UpdatedAt":%q,"NextUpdate":%q}`, updated, updated),
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
