package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/vulnerability"
)

// finish turns the details of all sources into advisories and vulnerability
// records, as trivy-db's own build does, and drops the intermediate buckets.
func (b *builder) finish() error {
	c := db.Config{}
	vc := vulnerability.New(c)
	err := c.ForEachVulnerabilityID(func(tx *bolt.Tx, id string) error {
		details := vc.GetDetails(id)
		if vc.IsRejected(details) {
			return nil
		}
		if err := c.SaveAdvisoryDetails(tx, id); err != nil {
			return err
		}
		if len(details) == 0 {
			return nil
		}
		return c.PutVulnerability(tx, id, vc.Normalize(id, details))
	})
	if err != nil {
		return err
	}
	for _, drop := range []func() error{c.DeleteVulnerabilityIDBucket, c.DeleteVulnerabilityDetailBucket, c.DeleteAdvisoryDetailBucket} {
		if err := drop(); err != nil {
			return err
		}
	}
	return nil
}

// readNames reads package names, one a line; without a file it returns nil,
// which keeps all.
func readNames(file string) (map[string]bool, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names := make(map[string]bool)
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if s := strings.TrimSpace(sc.Text()); s != "" && !strings.HasPrefix(s, "#") {
			names[s] = true
		}
	}
	return names, sc.Err()
}

const (
	recordsBucket    = "vulnerability"
	dataSourceBucket = "data-source"
)

// write copies the database, densely packed: all of it, or the packages in keep
// with what their advisories need.
func (b *builder) write(from, to string, keep map[string]bool) error {
	src, err := bolt.Open(from, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	dst, err := bolt.Open(to, 0o644, &bolt.Options{NoFreelistSync: true, NoSync: true})
	if err != nil {
		return err
	}
	defer dst.Close()
	err = src.View(func(in *bolt.Tx) error {
		return dst.Update(func(out *bolt.Tx) error { return b.copy(in, out, keep) })
	})
	if err != nil {
		return err
	}
	if err := dst.Sync(); err != nil {
		return err
	}
	return dst.Close()
}

func (b *builder) copy(in, out *bolt.Tx, keep map[string]bool) error {
	ids := make(map[string]bool)
	err := in.ForEach(func(name []byte, root *bolt.Bucket) error {
		if n := string(name); n == recordsBucket || n == dataSourceBucket {
			return nil
		}
		return root.ForEachBucket(func(pkg []byte) error {
			if keep != nil && !keep[string(pkg)] {
				return nil
			}
			to, err := out.CreateBucketIfNotExists(name)
			if err == nil {
				to, err = to.CreateBucketIfNotExists(pkg)
			}
			if err != nil {
				return err
			}
			to.FillPercent = 1
			b.counts["packages"]++
			return root.Bucket(pkg).ForEach(func(id, advisory []byte) error {
				ids[string(id)] = true
				b.counts["advisories"]++
				return to.Put(id, advisory)
			})
		})
	})
	if err != nil {
		return err
	}
	for _, part := range []struct {
		bucket string
		wanted func(key string) bool
	}{
		{recordsBucket, func(id string) bool { return keep == nil || ids[id] }},
		{dataSourceBucket, func(root string) bool { return out.Bucket([]byte(root)) != nil }},
	} {
		to, err := out.CreateBucketIfNotExists([]byte(part.bucket))
		if err != nil {
			return err
		}
		to.FillPercent = 1
		err = in.Bucket([]byte(part.bucket)).ForEach(func(k, v []byte) error {
			if !part.wanted(string(k)) {
				return nil
			}
			b.counts[part.bucket]++
			return to.Put(k, v)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeArchive makes the layer of the artifact.
func writeArchive(dir, out string, when time.Time) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	gz, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(gz)
	for _, n := range []string{"trivy.db", "metadata.json"} {
		raw, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: int64(len(raw)), ModTime: when, Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := tw.Write(raw); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if err := gz.Close(); err != nil {
		return err
	}
	return f.Close()
}

// writeLayout makes an OCI layout of the artifact, as Trivy publishes it.
func writeLayout(layer, dir, tag string, when time.Time) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	var failed error
	blob := func(mediaType string, raw []byte, annotations record) record {
		d := digest.FromBytes(raw)
		if err := os.WriteFile(filepath.Join(blobs, d.Encoded()), raw, 0o600); err != nil {
			failed = err
		}
		return record{"mediaType": mediaType, "digest": d, "size": len(raw), "annotations": annotations}
	}
	manifest := func(v record) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			failed = err
		}
		return raw
	}
	raw, err := os.ReadFile(layer)
	if err != nil {
		return err
	}
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	m := blob(mediaType, manifest(record{
		"schemaVersion": 2, "mediaType": mediaType,
		"config":      blob("application/vnd.aquasec.trivy.config.v1+json", []byte("{}"), nil),
		"layers":      []any{blob("application/vnd.aquasec.trivy.db.layer.v1.tar+gzip", raw, record{"org.opencontainers.image.title": "db.tar.gz"})},
		"annotations": record{"org.opencontainers.image.created": when.Format(time.RFC3339)},
	}), record{"org.opencontainers.image.ref.name": tag})
	index := manifest(record{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []any{m}})
	if failed != nil {
		return failed
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), index, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600)
}
