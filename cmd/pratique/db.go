package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pratique/scanner/database"
	"pratique/web"
)

func dbStatusCommand() command {
	return command{
		name:  "db status",
		short: "vulnerability database in use",
		long: `
Shows which vulnerability database the server uses, how old it is, where it came
from, which one is kept besides, which sources fail and why, whether an operator
rolled back, and what is served to other users of Trivy.`,
		example: []string{"pratique db status", "pratique db status -o json | jq -r .database.updatedAt"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("db status", args); err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				var st web.DatabaseStatus
				if _, err := cl.do(ctx, http.MethodGet, "/api/v1/database", nil, nil, &st); err != nil {
					return err
				}
				return printStatus(c, *output, st)
			}
		},
	}
}

func dbImportCommand() command {
	return command{
		name:  "db import",
		args:  "PATH",
		short: "give the server a vulnerability database from a file",
		long: `
Sends a vulnerability database to the server, which verifies it and uses it from
then on. PATH is a directory with trivy.db and metadata.json, a .tar.gz of both
(what ` + "`oras pull ghcr.io/aquasecurity/trivy-db:2`" + ` leaves), or an OCI layout.
A database that is older than the one in use, or holds less than 80 % of it, is
refused unless forced; a broken one always is.`,
		example: []string{"pratique db import db.tar.gz", "pratique db import --force ./trivy-cache/db"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			force := fs.Bool("force", false, "adopt a database that is older or much smaller than the one in use")
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("db import", args, "PATH, a directory, a .tar.gz or an OCI layout"); err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				p := newProgress(c.err, args[0])
				st, err := cl.importDatabase(ctx, args[0], *force)
				p.stop()
				if err != nil {
					return err
				}
				return printStatus(c, *output, st)
			}
		},
	}
}

// importDatabase streams the database; nothing is held in memory or written to
// disk on this side.
func (cl *client) importDatabase(ctx context.Context, path string, force bool) (web.DatabaseStatus, error) {
	var st web.DatabaseStatus
	body, err := database.OpenPath(path)
	if err != nil {
		return st, err
	}
	defer func() { _ = body.Close() }()
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	_, err = cl.do(ctx, http.MethodPost, "/api/v1/database/import", query, body, &st)
	return st, err
}

func printStatus(c *console, output string, st web.DatabaseStatus) error {
	if output == "json" {
		return printJSON(c.out, st)
	}
	var facts [][2]string
	add := func(name, text string) { facts = append(facts, [2]string{name, text}) }
	if d := st.Database; d == nil {
		add("database", "none: nothing can be decided until one is adopted")
	} else {
		age := time.Since(d.UpdatedAt).Round(time.Hour)
		add("database", d.Digest)
		add("updated", fmt.Sprintf("%s (%s old)", d.UpdatedAt.UTC().Format("2006-01-02 15:04 UTC"), days(age)))
		if d.AdoptedAt != nil {
			add("adopted", d.AdoptedAt.UTC().Format("2006-01-02 15:04 UTC"))
		}
		add("from", dash(d.Source))
		add("holds", fmt.Sprintf("%d vulnerabilities, %d advisories", d.Vulnerabilities, d.Advisories))
	}
	if st.Previous != "" {
		add("previous", st.Previous)
	}
	if b := st.RolledBack; b != nil {
		add("rolled back", fmt.Sprintf("from %s on %s; no source brings it back", b.Digest, b.At.UTC().Format("2006-01-02 15:04 UTC")))
	}
	add("sources", dash(strings.Join(st.Sources, ", ")))
	if r := st.Replica; r != nil {
		add("replica", r.Name+", "+r.Role)
		if r.Wanted != "" {
			add("agreed on", fmt.Sprintf("%s, by %s (%s)", r.Wanted, r.By, r.Cause))
		}
		if r.Lag > 0 {
			add("behind", (time.Duration(r.Lag)*time.Second).String()+" "+r.LastError)
		}
	}
	if st.CheckedAt != nil {
		add("checked", st.CheckedAt.UTC().Format("2006-01-02 15:04 UTC"))
	}
	for _, f := range st.Failing {
		text := fmt.Sprintf("%s since %s: %s", f.Source, f.Since.UTC().Format("2006-01-02 15:04 UTC"), f.Error)
		if f.NotBefore != nil {
			text += "; to be asked again after " + f.NotBefore.UTC().Format("2006-01-02 15:04 UTC")
		}
		add("failing", text)
	}
	if s := st.Served; s != nil {
		switch {
		case s.Digest != "":
			add("served as", fmt.Sprintf("%s@%s (%.1f MB)", s.Name, s.Digest, float64(s.Bytes)/1e6))
		case s.LastError == "":
			add("served as", s.Name+", not yet")
		}
		if s.LastError != "" {
			add("not served", s.LastError)
		}
	}
	if st.LastError != "" {
		add("last error", st.LastError)
	}
	return printFacts(c.out, width(c), facts)
}

// days writes an age as people say it.
func days(d time.Duration) string {
	if d < 48*time.Hour {
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
