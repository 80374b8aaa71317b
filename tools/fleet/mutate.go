package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/metadata"
	bolt "go.etcd.io/bbolt"

	"pratique"
)

// mutation is what a newer database says otherwise.
type mutation struct {
	Keys    int            `json:"keys"`    // package keys of the database
	Changed int            `json:"changed"` // keys with another advisory
	Held    int            `json:"held"`    // changed ones that the fleet holds
	Kinds   map[string]int `json:"kinds"`   // changes, by kind
}

func mutateCommand(_ context.Context, args []string) error {
	fs := flag.NewFlagSet("mutate", flag.ContinueOnError)
	archive := fs.String("database", "", "vulnerability database, .tar.gz")
	fleet := fs.String("fleet", "", "fleet.json of the fleet that is to feel it")
	share := fs.Float64("share", 1, "per cent of all package keys")
	reserved := fs.Bool("reserved", false, "change the reserved packages alone, and all of them")
	seed := fs.Uint64("seed", 1, "another choice for another number")
	out := fs.String("o", "", "archive to write")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *archive == "" || *fleet == "" || *out == "" {
		return errors.New("mutate needs -database, -fleet and -o")
	}
	var f facts
	raw, err := os.ReadFile(*fleet)
	if err == nil {
		err = json.Unmarshal(raw, &f)
	}
	if err != nil {
		return err
	}
	dir, err := openArchive(*archive)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	done, err := mutate(dir, f, *share/100, *reserved, *seed)
	if err != nil {
		return err
	}
	meta, err := metadata.NewClient(dir).Get()
	if err != nil {
		return err
	}
	meta.UpdatedAt, meta.NextUpdate = meta.UpdatedAt.Add(6*time.Hour), meta.UpdatedAt.Add(30*time.Hour)
	if err := metadata.NewClient(dir).Update(meta); err != nil {
		return err
	}
	if err := writeArchive(dir, *out, meta.UpdatedAt); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(done)
}

// key is one package of one bucket.
type key struct{ bucket, pkg string }

// mutate changes the database in dir in place. The same share of the keys that the
// fleet holds and of those that it does not hold is chosen, at least one of the
// former.
func mutate(dir string, f facts, share float64, reserved bool, seed uint64) (mutation, error) {
	db, err := bolt.Open(filepath.Join(dir, "trivy.db"), 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true})
	if err != nil {
		return mutation{}, err
	}
	defer func() { _ = db.Close() }()
	m := mutator{random: rand.New(rand.NewPCG(seed, 1)), done: mutation{Kinds: map[string]int{}}}
	err = db.Update(func(tx *bolt.Tx) error {
		held, others, err := sorted(tx, f)
		if err != nil {
			return err
		}
		m.done.Keys = len(held) + len(others)
		var chosen []key
		if reserved {
			chosen = slices.DeleteFunc(held, func(k key) bool { return !slices.Contains(f.Reserved, k.pkg) })
			m.done.Held = len(chosen)
		} else {
			mine := m.choose(held, share)
			m.done.Held = len(mine)
			chosen = slices.Concat(mine, m.choose(others, share))
		}
		for i, k := range chosen {
			if err := m.change(tx, k, i); err != nil {
				return fmt.Errorf("%s %s: %w", k.bucket, k.pkg, err)
			}
		}
		m.done.Changed = len(chosen)
		return nil
	})
	if err == nil {
		err = db.Sync()
	}
	return m.done, err
}

// sorted are the database's keys: those that the fleet holds, and the others.
func sorted(tx *bolt.Tx, f facts) (held, others []key, err error) {
	known := make(map[string]bool, len(f.Keys))
	for _, k := range f.Keys {
		known[k] = true
	}
	err = eachPackage(tx, func(bucket, pkg string, _ *bolt.Bucket) error {
		if known[pratique.PackageKey(pkg)] {
			held = append(held, key{bucket, pkg})
		} else {
			others = append(others, key{bucket, pkg})
		}
		return nil
	})
	return held, others, err
}

type mutator struct {
	random *rand.Rand
	done   mutation
}

func (m *mutator) choose(from []key, share float64) []key {
	m.random.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	n := min(len(from), max(1, int(share*float64(len(from))+.5)))
	return from[:n]
}

// change changes one advisory of a package: in the five ways in turn, or in the
// next that this package's advisories allow.
func (m *mutator) change(tx *bolt.Tx, k key, turn int) error {
	root := tx.Bucket([]byte(k.bucket))
	if root == nil || root.Bucket([]byte(k.pkg)) == nil {
		return errors.New("is not there")
	}
	b := root.Bucket([]byte(k.pkg))
	var ids []string
	if err := b.ForEach(func(id, _ []byte) error { ids = append(ids, string(id)); return nil }); err != nil {
		return err
	}
	id := ids[m.random.IntN(len(ids))]
	kinds := []struct {
		kind pratique.ChangeKind
		do   func() (bool, error)
	}{
		{pratique.ChangeAppeared, func() (bool, error) { return m.appear(tx, b, ids, turn) }},
		{pratique.ChangeGone, func() (bool, error) { return len(ids) > 1, m.gone(b, ids, id) }},
		{pratique.ChangeStatus, func() (bool, error) { return m.edit(b, id, unfix) }},
		{pratique.ChangeFixed, func() (bool, error) { return m.edit(b, id, refix) }},
		{pratique.ChangeSeverity, func() (bool, error) { return m.severity(tx, id) }},
	}
	for i := range kinds {
		next := kinds[(turn+i)%len(kinds)]
		done, err := next.do()
		if err != nil {
			return err
		}
		if done {
			m.done.Kinds[string(next.kind)]++
			return nil
		}
	}
	return errors.New("cannot be changed in any way")
}

// appear adds a vulnerability, new to the database, without a fix.
func (m *mutator) appear(tx *bolt.Tx, b *bolt.Bucket, ids []string, turn int) (bool, error) {
	advisory := map[string]any{}
	if err := json.Unmarshal(b.Get([]byte(ids[0])), &advisory); err != nil {
		return false, err
	}
	switch { // what each kind of bucket calls "all versions, no fix"
	case advisory["VulnerableVersions"] != nil || advisory["PatchedVersions"] != nil:
		advisory = map[string]any{"VulnerableVersions": []string{">=0"}}
	default:
		advisory = map[string]any{"Status": 2} // affected
	}
	id := fmt.Sprintf("CVE-2027-%05d", turn)
	severity := []string{"LOW", "MEDIUM", "HIGH", "CRITICAL"}[turn%4]
	record := map[string]any{"Title": "made up for a measurement", "Severity": severity, "VendorSeverity": map[string]int{"nvd": 1 + turn%4}}
	if err := put(tx.Bucket([]byte(recordsBucket)), id, record); err != nil {
		return false, err
	}
	return true, put(b, id, advisory)
}

func (m *mutator) gone(b *bolt.Bucket, ids []string, id string) error {
	if len(ids) < 2 {
		return nil
	}
	return b.Delete([]byte(id))
}

// edit changes an advisory; false when change cannot.
func (m *mutator) edit(b *bolt.Bucket, id string, change func(map[string]any) bool) (bool, error) {
	advisory := map[string]any{}
	raw := b.Get([]byte(id))
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&advisory); err != nil {
		return false, err
	}
	if !change(advisory) {
		return false, nil
	}
	return true, put(b, id, advisory)
}

// unfix takes the fix away: fixed becomes affected.
func unfix(advisory map[string]any) bool {
	switch {
	case advisory["FixedVersion"] != nil:
		delete(advisory, "FixedVersion")
		advisory["Status"] = 2
	case advisory["PatchedVersions"] != nil && advisory["VulnerableVersions"] != nil:
		delete(advisory, "PatchedVersions")
	default:
		return false
	}
	return true
}

// refix names another version that fixes.
func refix(advisory map[string]any) bool {
	if v, ok := advisory["FixedVersion"].(string); ok && v != "" {
		advisory["FixedVersion"] = v + "1"
		return true
	}
	if list, ok := advisory["PatchedVersions"].([]any); ok && len(list) > 0 && advisory["VulnerableVersions"] != nil {
		v, ok := list[len(list)-1].(string)
		list[len(list)-1] = v + "1"
		return ok
	}
	return false
}

// severity has the record of a vulnerability say another severity.
func (m *mutator) severity(tx *bolt.Tx, id string) (bool, error) {
	records := tx.Bucket([]byte(recordsBucket))
	raw := records.Get([]byte(id))
	if raw == nil {
		return false, nil
	}
	record := map[string]any{}
	if err := json.Unmarshal(raw, &record); err != nil {
		return false, err
	}
	next := map[any]int{"HIGH": 4, "CRITICAL": 3, "MEDIUM": 3, "LOW": 2}[record["Severity"]]
	next = max(next, 1)
	record["Severity"] = []string{"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}[next]
	sources, _ := record["VendorSeverity"].(map[string]any)
	if sources == nil {
		sources = map[string]any{"nvd": next}
	}
	for s := range sources {
		sources[s] = next
	}
	record["VendorSeverity"] = sources
	return true, put(records, id, record)
}

func put(b *bolt.Bucket, k string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put([]byte(k), raw)
}
