package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	bolt "go.etcd.io/bbolt"

	"pratique"
)

// sample is one real image: what Pratique's analysis and merge made of it.
type sample struct {
	Name      string
	Inventory pratique.Inventory
}

// readSamples reads testdata/database/inventories.jsonl.zst, the inventories of
// the images of testdata/images; their README names where these come from.
func readSamples(path string) ([]sample, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	z, err := zstd.NewReader(f)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	var out []sample
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var s sample
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, s)
	}
	return out, lines.Err()
}

// names are the packages that a vulnerability database knows, by bucket and
// name, with the versions that its advisories name, oldest first: real ones, all
// of which were released once.
type names map[string]map[string][]string

// readNames reads a database's packages.
func readNames(path string) (names, error) {
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	out := names{}
	err = db.View(func(tx *bolt.Tx) error {
		return eachPackage(tx, func(bucket, pkg string, b *bolt.Bucket) error {
			if out[bucket] == nil {
				out[bucket] = map[string][]string{}
			}
			found := map[string]bool{}
			err := b.ForEach(func(_, advisory []byte) error {
				for _, m := range versions.FindAllSubmatch(advisory, -1) {
					if v := string(m[1]); len(v) <= 32 {
						found[v] = true
					}
				}
				return nil
			})
			list := make([]string, 0, len(found))
			for v := range found {
				list = append(list, v)
			}
			slices.SortFunc(list, compareVersions)
			out[bucket][pkg] = list
			return err
		})
	})
	return out, err
}

// versions finds what stands for a version in an advisory, which is JSON: after a
// quote, a blank, or an escaped < or >.
var versions = regexp.MustCompile(`(?:[" =]|\\u003[ce])((?:\d+:)?\d+\.[0-9A-Za-z.+~]*(?:-[0-9A-Za-z.+~_]+)?)[",]`)

// eachPackage calls fn for each package of each bucket with advisories, in order.
func eachPackage(tx *bolt.Tx, fn func(bucket, pkg string, b *bolt.Bucket) error) error {
	return tx.ForEach(func(name []byte, root *bolt.Bucket) error {
		switch string(name) {
		case recordsBucket, "data-source", "Red Hat", "Red Hat CPE":
			return nil
		}
		var pkgs []string
		err := root.ForEachBucket(func(pkg []byte) error {
			pkgs = append(pkgs, string(bytes.Clone(pkg)))
			return nil
		})
		for _, pkg := range pkgs {
			if err == nil {
				err = fn(string(name), pkg, root.Bucket([]byte(pkg)))
			}
		}
		return err
	})
}

const recordsBucket = "vulnerability"

// of returns the names in all buckets with this prefix, sorted, with their
// versions.
func (n names) of(prefix string) ([]string, map[string][]string) {
	all := map[string][]string{}
	for bucket, pkgs := range n {
		if !strings.HasPrefix(bucket, prefix) {
			continue
		}
		for name, vs := range pkgs {
			merged := append(slices.Clone(all[name]), vs...)
			slices.Sort(merged)
			all[name] = slices.Compact(merged)
		}
	}
	list := make([]string, 0, len(all))
	for name := range all {
		list = append(list, name)
	}
	slices.Sort(list)
	return list, all
}
