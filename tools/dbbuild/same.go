package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// saysTheSame reports whether the archive holds the database in dir, the order
// within lists apart. scratch is where it is unpacked. No archive is not the
// same.
func saysTheSame(dir, archive, scratch string) (bool, error) {
	err := unpack(archive, scratch)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", archive, err)
	}
	var meta [2][]byte
	var entries [2]map[string]string
	for i, d := range []string{dir, scratch} {
		if meta[i], err = os.ReadFile(filepath.Join(d, "metadata.json")); err != nil {
			return false, err
		}
		if entries[i], err = flatten(filepath.Join(d, "trivy.db")); err != nil {
			return false, err
		}
	}
	if !bytes.Equal(meta[0], meta[1]) || len(entries[0]) != len(entries[1]) {
		return false, nil
	}
	for k, v := range entries[0] {
		if w, ok := entries[1][k]; !ok || v != w {
			return false, nil
		}
	}
	return true, nil
}

func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(h.Name)), raw, 0o600); err != nil {
			return err
		}
	}
}

// flatten returns every entry of a database under the path of its buckets, its
// value with all lists sorted.
func flatten(path string) (map[string]string, error) {
	b, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	out := make(map[string]string)
	var walk func(prefix string, b *bolt.Bucket) error
	walk = func(prefix string, b *bolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			name := prefix + "\x00" + string(k)
			if v == nil {
				return walk(name, b.Bucket(k))
			}
			var x any
			if err := json.Unmarshal(v, &x); err != nil {
				return err
			}
			out[name] = text(x)
			return nil
		})
	}
	err = b.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error { return walk(string(name), b) })
	})
	return out, err
}

// text writes a value as JSON with its lists in order.
func text(v any) string {
	sortLists(v)
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // what was JSON is JSON
	}
	return string(raw)
}

func sortLists(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			sortLists(x)
		}
	case []any:
		for _, x := range v {
			sortLists(x)
		}
		slices.SortFunc(v, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
}
