package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"pratique/scanner/database"
)

func dbDiffCommand() command {
	return command{
		name:  "db diff",
		args:  "OLD NEW",
		short: "what one vulnerability database says otherwise than another",
		long: `
Counts the advisories that appeared, are gone or changed, by bucket (ecosystem or
distribution), and the vulnerability records likewise, with examples. OLD and NEW
are files (a directory with trivy.db and metadata.json, a .tar.gz of both, or an
OCI layout), or databases of the server: current, previous or a digest.

Red Hat's advisories name their products by position in a list; these are compared
by name. Records count as changed when what findings tell differs: severity, title,
scores, references, not dates and descriptions.`,
		example: []string{"pratique db diff previous current", "pratique db diff old.tar.gz new.tar.gz", "pratique db diff current candidate.tar.gz -o json | jq .advisories"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("db diff", args, "OLD", "NEW"); err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				diff, err := cl.diffDatabases(ctx, args[0], args[1])
				if err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, diff)
				}
				return printComparison(c, diff)
			}
		},
	}
}

// kept reports whether an argument names a database of the server's.
func keptDatabase(arg string) bool {
	return arg == database.Current || arg == database.Previous || strings.HasPrefix(arg, "sha256:")
}

// diffDatabases has the server compare what it has, and compares here what is here.
func (cl *client) diffDatabases(ctx context.Context, from, to string) (diff database.Comparison, err error) {
	if keptDatabase(from) && keptDatabase(to) {
		_, err := cl.do(ctx, http.MethodGet, "/api/v1/database/diff", url.Values{"old": {from}, "new": {to}}, nil, &diff)
		return diff, err
	}
	tmp, err := os.MkdirTemp("", "pratique-diff-")
	if err != nil {
		return diff, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	var dirs [2]string
	for i, arg := range []string{from, to} {
		dirs[i] = filepath.Join(tmp, []string{"old", "new"}[i])
		if dirs[i], err = cl.databaseAt(ctx, arg, dirs[i]); err != nil {
			return diff, fmt.Errorf("%s: %w", arg, err)
		}
	}
	return database.Compare(ctx, dirs[0], dirs[1])
}

// databaseAt is a directory with the database that an argument names; room is one
// that may be made for it.
func (cl *client) databaseAt(ctx context.Context, arg, room string) (string, error) {
	if !keptDatabase(arg) {
		if _, err := os.Stat(filepath.Join(arg, "trivy.db")); err == nil {
			return arg, nil
		}
	}
	if err := os.Mkdir(room, 0o700); err != nil {
		return "", err
	}
	var body io.ReadCloser
	var err error
	if keptDatabase(arg) {
		res, oerr := cl.open(ctx, http.MethodGet, "/api/v1/database/export", url.Values{"which": {arg}}, nil) //nolint:bodyclose // closed below, as that of a file
		if oerr != nil {
			return "", oerr
		}
		body = res.Body
	} else if body, err = database.OpenPath(arg); err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	return room, database.Unpack(body, room) // Compare verifies what is in it
}

func printComparison(c *console, d database.Comparison) error {
	moved := func(m database.Moves) string {
		return fmt.Sprintf("%d appeared, %d gone, %d changed", m.Appeared, m.Gone, m.Changed)
	}
	side := func(s database.ComparedDatabase) string {
		return fmt.Sprintf("%s of %s", s.Digest, s.UpdatedAt.UTC().Format("2006-01-02 15:04 UTC"))
	}
	facts := [][2]string{
		{"old", side(d.Old)}, {"new", side(d.New)},
		{"advisories", moved(d.Advisories)},
		{"vulnerabilities", moved(d.Vulnerabilities.Moves)},
	}
	if d.Sources != (database.Moves{}) {
		facts = append(facts, [2]string{"data sources", moved(d.Sources)})
	}
	if err := printFacts(c.out, width(c), facts); err != nil {
		return err
	}
	var rows [][]string
	row := func(name string, m database.BucketMove) {
		example := ""
		for _, e := range [][]string{m.Examples.Appeared, m.Examples.Changed, m.Examples.Gone} {
			if example == "" && len(e) > 0 {
				example = e[0]
			}
		}
		rows = append(rows, []string{name, fmt.Sprint(m.Appeared), fmt.Sprint(m.Gone), fmt.Sprint(m.Changed), example})
	}
	for _, b := range d.Buckets {
		row(b.Bucket, b)
	}
	if d.Vulnerabilities.Moves != (database.Moves{}) {
		row("(records)", d.Vulnerabilities)
	}
	if len(rows) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(c.out); err != nil {
		return err
	}
	return printTable(c.out, width(c), []column{{"BUCKET", 16}, {"APPEARED", 0}, {"GONE", 0}, {"CHANGED", 0}, {"FOR EXAMPLE", 16}}, rows)
}
