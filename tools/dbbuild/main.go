// Command dbbuild makes a Trivy vulnerability database (bbolt, schema 2) out of
// advisory JSON lines, through trivy-db's own packages.
//
//	go run ./tools/dbbuild -advisories testdata/advisories -o DIR
//	    [-asof 2026-02-01] [-updated 2026-02-01T06:00:00Z]
//	    [-sources pypa,alma,…] [-packages FILE] [-tar FILE.tar.gz] [-oci LAYOUT]
//
// With -tar or -oci, -o may be left out.
//
// -asof leaves out what was not known on that day: advisories added later are
// dropped, advisories changed since are taken in their former revision
// (*.prev.jsonl), withdrawals made later are undone, and a Debian fix uploaded
// later becomes "affected, no fix yet" when its CVE id is of an earlier year.
// A series of days makes a series of updates.
//
// -packages keeps the advisories of the packages named in FILE, one a line, and
// the vulnerability records that these need. With -from DIR an existing database
// is reduced in that way and no advisories are read.
//
// Two runs with the same arguments say the same of every package, but their
// files differ: trivy-db lists some references and Composer's fixed versions in
// the order of a map. An archive that already says what a new one would say is
// therefore left as it is.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "dbbuild:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	advisories, from, asof, updated, sources, packages, out, tar, oci, tag string
}

func run() error {
	var o options
	flag.StringVar(&o.advisories, "advisories", "testdata/advisories", "folder of *.jsonl.zst")
	flag.StringVar(&o.from, "from", "", "folder of an existing database to reduce")
	flag.StringVar(&o.asof, "asof", "", "build the database as of this day (YYYY-MM-DD); without it everything known")
	flag.StringVar(&o.updated, "updated", "", "UpdatedAt, RFC 3339; without it the asof day, else now")
	flag.StringVar(&o.sources, "sources", "", "sources to use, comma separated; without it all of "+strings.Join(sourceNames(), ","))
	flag.StringVar(&o.packages, "packages", "", "file of package names to keep; without it all are kept")
	flag.StringVar(&o.out, "o", "", "folder to write trivy.db and metadata.json to")
	flag.StringVar(&o.tar, "tar", "", "also write this .tar.gz, the artifact's layer")
	flag.StringVar(&o.oci, "oci", "", "also write an OCI layout of the artifact here (needs -tar)")
	flag.StringVar(&o.tag, "tag", "2", "reference name in that layout")
	flag.Parse()
	if o.out == "" && o.tar == "" || flag.NArg() > 0 {
		return errors.New("usage: dbbuild -advisories DIR -o DIR [flags], see -help")
	}
	if o.oci != "" && o.tar == "" {
		return errors.New("-oci needs -tar")
	}
	when, err := o.when()
	if err != nil {
		return err
	}
	counts, err := o.build(when)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(counts)
}

func (o options) when() (time.Time, error) {
	switch {
	case o.updated != "":
		return time.Parse(time.RFC3339, o.updated)
	case o.asof != "":
		return time.Parse(time.DateOnly, o.asof)
	}
	return time.Now().UTC().Truncate(time.Second), nil
}

// build makes the database in a temporary folder, or takes -from, and copies
// what is wanted of it to -o.
func (o options) build(when time.Time) (map[string]int, error) {
	tmp, err := os.MkdirTemp("", "dbbuild")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	b := &builder{in: o.advisories, asof: o.asof, tmp: tmp, counts: make(map[string]int)}
	from := o.from
	if from == "" {
		from = filepath.Join(tmp, "work")
		if err := b.fill(from, o.sources); err != nil {
			return nil, err
		}
	} else {
		meta, err := metadata.NewClient(from).Get()
		if err != nil {
			return nil, err
		}
		when = meta.UpdatedAt
	}
	keep, err := readNames(o.packages)
	if err != nil {
		return nil, err
	}
	if o.out == "" {
		o.out = filepath.Join(tmp, "out")
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return nil, err
	}
	if err := b.write(filepath.Join(from, "trivy.db"), filepath.Join(o.out, "trivy.db"), keep); err != nil {
		return nil, err
	}
	meta := metadata.Metadata{Version: db.SchemaVersion, UpdatedAt: when, NextUpdate: when.Add(24 * time.Hour)}
	if err := metadata.NewClient(o.out).Update(meta); err != nil {
		return nil, err
	}
	if o.tar != "" {
		same, err := saysTheSame(o.out, o.tar, filepath.Join(tmp, "standing"))
		if err != nil {
			return nil, err
		}
		if !same {
			if err := writeArchive(o.out, o.tar, when); err != nil {
				return nil, err
			}
		}
	}
	if o.oci != "" {
		if err := writeLayout(o.tar, o.oci, o.tag, when); err != nil {
			return nil, err
		}
	}
	return b.counts, nil
}

// fill makes the whole database of the wanted sources in dir.
func (b *builder) fill(dir, list string) error {
	wanted := sourceNames()
	if list != "" {
		wanted = strings.Split(list, ",")
	}
	for _, name := range wanted {
		if !slices.Contains(sourceNames(), name) {
			return fmt.Errorf("source %q is not known; known are %s", name, strings.Join(sourceNames(), ", "))
		}
	}
	if err := db.Init(dir); err != nil {
		return err
	}
	if err := b.load(wanted); err != nil {
		return errors.Join(err, db.Close())
	}
	return errors.Join(b.finish(), db.Close())
}

// load writes every wanted source into the database, in the order of
// sourceNames.
func (b *builder) load(wanted []string) error {
	for _, s := range sources() {
		if slices.Contains(wanted, s.name) {
			if err := s.load(b); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	// The parts of Debian's tracker are one source to trivy-db.
	debian := slices.DeleteFunc(slices.Clone(wanted), func(s string) bool { return !strings.HasPrefix(s, "debian-") })
	if len(debian) == 0 {
		return nil
	}
	if err := b.debian(debian); err != nil {
		return fmt.Errorf("debian: %w", err)
	}
	return nil
}
