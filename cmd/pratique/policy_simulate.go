package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"pratique"
	"pratique/internal/strictyaml"
	"pratique/policy/simulate"
	"pratique/scanner/database"
	"pratique/scanner/match"
	"pratique/web"
)

func policySimulateCommand() command {
	return command{
		name:  "policy simulate",
		args:  "FILE…",
		short: "replay recorded pulls under draft policies: what would change",
		long: `
Asks a running server what the pulls that it recorded would meet under draft
policies, the FILEs all together, instead of those in force: which images and
clients would be refused that are served today, and the reverse. Each pull is
judged as if it came now, by the reports and exceptions that stand. No image is
fetched or scanned, and what cannot be decided so is listed as undecided; signatures
and tags that the draft reads and nobody looked for yet are looked up behind.

--database tries another vulnerability database too, or, without FILE, alone: a
directory, .tar.gz or OCI layout as for db import. It is unpacked and matched on
this machine; the server keeps its own. A database of recent days shows what the
last update did.

Exit code: 0 nothing would be refused that is served today, 3 something would, 1
error.`,
		example: []string{
			"pratique policy simulate policies/strict.yaml --since 30d",
			"pratique policy simulate strict.yaml supply-chain.yaml -o json | jq '.refused.images[].ref'",
			"pratique policy simulate --database trivy-db-new.tar.gz",
		},
		setup: func(flags *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(flags)
			output := outputFlag(flags)
			since := flags.String("since", "30d", "how far back pulls are looked at, as `DURATION`: 30d, 12h")
			path := flags.String("database", "", "vulnerability database at `PATH` to try instead of the server's")
			return func(ctx context.Context, c *console, args []string) error {
				back, err := strictyaml.ParseDuration(*since)
				if err != nil || back <= 0 {
					return &usageError{"policy simulate", "--since wants a duration such as 30d or 12h, not " + *since}
				}
				if len(args) == 0 && *path == "" {
					return &usageError{"policy simulate", "policy simulate needs FILE, or --database"}
				}
				in := web.Simulation{Since: time.Now().Add(-back).UTC()}
				if len(args) > 0 {
					files, err := readPolicies(args)
					if err != nil {
						return err
					}
					for _, f := range files {
						in.Policies = append(in.Policies, web.SimulatedPolicy{Name: f.Name, Text: string(f.Data)})
					}
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				if *path != "" {
					if in.Database, err = cl.matched(ctx, in.Since, *path); err != nil {
						return err
					}
				}
				out, err := cl.simulate(ctx, in)
				if err != nil {
					return err
				}
				if *output == "json" {
					err = printJSON(c.out, out)
				} else {
					err = printSimulated(c.out, out, width(c))
				}
				if err == nil && out.Refused.References > 0 {
					return &exitCode{code: exitRefused}
				}
				return err
			}
		},
	}
}

func (cl *client) simulate(ctx context.Context, in web.Simulation) (web.Simulated, error) {
	var out web.Simulated
	body, err := json.Marshal(in)
	if err == nil {
		_, err = cl.do(ctx, http.MethodPost, "/api/v1/policy/simulate", nil, bytes.NewReader(body), &out)
	}
	return out, err
}

// matched matches what was pulled against the database at path. It is unpacked and
// verified in a directory of its own, as the server does with one that it adopts.
func (cl *client) matched(ctx context.Context, since time.Time, path string) (_ *web.SimulatedDatabase, err error) {
	dir, err := os.MkdirTemp("", "pratique-simulate-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	quiet := slog.New(slog.DiscardHandler)
	matcher := match.New(match.Config{Log: quiet})
	defer func() { err = errors.Join(err, matcher.Close()) }()
	body, err := database.OpenPath(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	if _, err := database.New(database.Config{Dir: dir, Log: quiet}, matcher).Import(ctx, body, true); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ids, components, err := cl.components(ctx, since)
	if err != nil {
		return nil, err
	}
	found, engine, err := matcher.Match(ctx, components)
	if err != nil {
		return nil, err
	}
	out := &web.SimulatedDatabase{Engine: engine, Matches: make(map[pratique.ComponentID][]pratique.Vulnerability, len(ids))}
	for i, id := range ids {
		out.Matches[id] = found[i]
	}
	return out, nil
}

// components are those of the images that were pulled. A list that is cut off is an
// error.
func (cl *client) components(ctx context.Context, since time.Time) (ids []pratique.ComponentID, cs []pratique.Component, err error) {
	query := url.Values{"since": {since.Format(time.RFC3339)}}
	raw, _, err := cl.raw(ctx, http.MethodGet, "/api/v1/policy/simulate/components", query, nil)
	if err != nil {
		return nil, nil, err
	}
	for dec := json.NewDecoder(bytes.NewReader(raw)); ; {
		var line web.SimulatedComponent
		switch err := dec.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil, nil, errors.New("the server's list of components is cut off: its log tells why")
		case err != nil:
			return nil, nil, fmt.Errorf("the server's list of components: %w", err)
		case line.End:
			return ids, cs, nil
		case line.Component == nil:
			return nil, nil, errors.New("the server's list of components holds a line without one")
		}
		ids, cs = append(ids, line.ID), append(cs, *line.Component)
	}
}

// maxReasonsShown of each image stand in the table.
const maxReasonsShown = 3

// shownImages of each sort stand in the table.
const shownImages = 40

func printSimulated(w io.Writer, s web.Simulated, width int) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d pulls of %d %s since %s; today %s, draft %s", s.Pulls, s.References, plural(s.References, "reference", "references"),
		s.Since.UTC().Format("2006-01-02 15:04 UTC"), s.Today, s.Draft)
	if d := s.Database; d != nil {
		fmt.Fprintf(&b, ", database of %s", d.DatabaseAt.UTC().Format("2006-01-02 15:04 UTC"))
	}
	b.WriteString("\n")
	printChanges(&b, "would be refused, served today", s.Refused, width)
	printChanges(&b, "would be served, refused today", s.Served, width)
	printChanges(&b, "undecided", s.Undecided, width)
	fmt.Fprintf(&b, "\nunchanged: %s\n", howMuch(s.Same))
	if s.Warned.References > 0 {
		fmt.Fprintf(&b, "  of these with a new warning: %s\n", howMuch(s.Warned))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func howMuch(c simulate.Count) string {
	return fmt.Sprintf("%d %s, %d %s, %d %s", c.References, plural(c.References, "reference", "references"),
		c.Pulls, plural(c.Pulls, "pull", "pulls"), c.Clients, plural(c.Clients, "client", "clients"))
}

func printChanges(b *strings.Builder, title string, c simulate.Changes, width int) {
	if c.References == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s: %s\n", title, howMuch(c.Count))
	for i, x := range c.Images {
		if i == shownImages {
			fmt.Fprintf(b, "  and %d more: -o json\n", len(c.Images)-i)
			break
		}
		fmt.Fprintf(b, "  %s  %d %s by %d %s, last %s\n", printable(x.Ref), x.Pulls, plural(x.Pulls, "pull", "pulls"),
			x.AllClients, plural(x.AllClients, "client", "clients"), x.LastPull.UTC().Format("2006-01-02 15:04"))
		var clients []string
		for _, cl := range x.Clients[:min(len(x.Clients), 5)] {
			clients = append(clients, cl.Address)
		}
		fmt.Fprintf(b, "    by %s\n", printable(strings.Join(clients, ", ")))
		for j, reason := range x.Reasons {
			if j == maxReasonsShown {
				fmt.Fprintf(b, "    and %d more\n", len(x.Reasons)-j)
				break
			}
			fmt.Fprintf(b, "    %s\n", clip(printable(reason), max(width-4, 40)))
		}
	}
}
