package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// record is one advisory as it stands in a source's JSON lines.
type record = map[string]any

// builder holds what the sources share while the database is made.
type builder struct {
	in     string // folder of advisories
	asof   string // YYYY-MM-DD, empty: everything
	tmp    string // where trivy-db's updaters find their input
	counts map[string]int
}

// lines calls each for every record of a source; a source without a file has
// none.
func (b *builder) lines(name string, each func(record)) error {
	f, err := os.Open(filepath.Join(b.in, name+".jsonl.zst"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return err
	}
	defer z.Close()
	sc := bufio.NewScanner(z)
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		var r record
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		each(r)
	}
	return sc.Err()
}

// records gives the records of a source as they stood on the day asked for, in
// the order of their keys.
func (b *builder) records(name string, key func(record) string) ([]record, error) {
	byKey := make(map[string]record)
	err := b.lines(name, func(r record) {
		if b.asof != "" && str(r, "added") > b.asof {
			return
		}
		if w := str(r, "withdrawn"); b.asof != "" && len(w) >= len("2006-01-02") && w[:10] > b.asof {
			delete(r, "withdrawn")
		}
		byKey[key(r)] = r
	})
	if err != nil {
		return nil, err
	}
	if b.asof != "" {
		err = b.lines(name+".prev", func(r record) {
			if b.asof <= str(r, "until") && str(r, "added") <= b.asof {
				byKey[key(r)] = r
			}
		})
		if err != nil {
			return nil, err
		}
	}
	out := make([]record, 0, len(byKey))
	for _, k := range slices.Sorted(maps.Keys(byKey)) {
		out = append(out, byKey[k])
	}
	b.counts[name] += len(out)
	if len(out) == 0 {
		return nil, fmt.Errorf("no advisories of %s in %s", name, b.in)
	}
	return out, nil
}

// put writes one file of an updater's input.
func (b *builder) put(dir, name string, v any) error {
	p := filepath.Join(b.tmp, dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(p, raw, 0o600)
}

// Keys of records.

func byID(r record) string   { return fmt.Sprint(r["id"]) }
func byPath(r record) string { return str(r, "path") }

func byIDAndPackage(r record) string {
	affected, _ := r["affected"].([]any)
	if len(affected) == 0 {
		return byID(r)
	}
	first, _ := affected[0].(record)
	p, _ := first["package"].(record)
	return byID(r) + " " + str(p, "name")
}

func byIDAndRelease(r record) string {
	m, _ := r["packages"].(record)
	return byID(r) + " " + firstKey(m)
}

func str(r record, k string) string { s, _ := r[k].(string); return s }

func strs(v any) (out []string) {
	l, _ := v.([]any)
	for _, x := range l {
		out = append(out, fmt.Sprint(x))
	}
	return out
}

func firstKey(m record) string {
	if len(m) == 0 {
		return ""
	}
	return slices.Min(slices.Collect(maps.Keys(m)))
}
