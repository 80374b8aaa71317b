package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"pratique/internal/strictyaml"
	"pratique/web"
)

// exceptionCommands are those about exceptions.
func exceptionCommands() []command {
	return []command{exceptionCreateCommand(), exceptionListCommand(), exceptionShowCommand(), exceptionRevokeCommand()}
}

func exceptionCreateCommand() command {
	return command{
		name:  "exception create",
		short: "let images pass despite a finding or rule, until a day",
		long: `
Creates an exception: what it names does not count against the images that it
names until it expires. It is in force at once, stands in every verdict that it
lifts something from, and never changes: to have another one, revoke it and create
a new one.

It lifts a finding (--finding CVE-2024-1234, from every rule; --package narrows it
to one package or purl) or a rule (--rule POLICY/RULE). The refusal of an unscanned
image is lifted by a rule of the policy alone, never by an exception.

It holds for a repository (UPSTREAM/NAME; * is any run of characters but /, ** any
run), for one image (--digest; of an index name the digest of a platform), or for
both together, and with --platform for that platform alone.

What it lifts now, of the images that the server knows, is printed.

Exit code: 0 created, 1 refused or failed.`,
		example: []string{
			`pratique exception create --finding CVE-2024-1234 --repository docker.io/library/nginx --expires 14d --reason "not reachable; fix is in the next release"`,
			`pratique exception create --finding CVE-2024-1234 --package openssl --repository 'ghcr.io/acme/**' --expires 2026-12-31 --reason "waiting for the base image" --ticket SEC-42`,
			`pratique exception create --rule default/end-of-life --digest sha256:… --expires 2026-12-31T12:00:00Z --reason "migration ends in December"`,
		},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			var in web.NewException
			fs.StringVar(&in.Finding, "finding", "", "`ID` of the finding: CVE-…, GHSA-…, or of a secret rule, misconfiguration or license")
			fs.StringVar(&in.Rule, "rule", "", "the rule, `POLICY/RULE`, instead of a finding")
			fs.StringVar(&in.Package, "package", "", "only in packages of this `name`, or purl without qualifiers")
			fs.StringVar(&in.Repository, "repository", "", "`glob` of repositories, with upstream: docker.io/library/nginx")
			fs.StringVar((*string)(&in.Digest), "digest", "", "only the image with this manifest `digest`")
			fs.StringVar(&in.Platform, "platform", "", "only images of this `os/arch[/variant]`")
			fs.StringVar(&in.Reason, "reason", "", "why, one `line`; required")
			fs.StringVar(&in.Author, "author", "", "who (`name`); if not given, $USER")
			fs.StringVar(&in.Ticket, "ticket", "", "`id` or URL of a ticket")
			expires := fs.String("expires", "", "`when` it ends: 14d, 2026-12-31 (its end, UTC) or RFC 3339; required")
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("exception create", args); err != nil {
					return err
				}
				var err error
				if in.Expires, err = parseExpiry(*expires, time.Now()); err != nil {
					return &usageError{"exception create", err.Error()}
				}
				if in.Author == "" {
					in.Author = c.env("USER")
				}
				if err := complete(in); err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				return createException(ctx, c, cl, in, *output)
			}
		},
	}
}

// complete says which flags are missing; everything else the server checks.
func complete(in web.NewException) error {
	var missing []string
	for _, f := range []struct {
		flag string
		set  bool
	}{
		{"--finding or --rule", in.Finding != "" || in.Rule != ""},
		{"--repository or --digest", in.Repository != "" || in.Digest != ""},
		{"--reason", strings.TrimSpace(in.Reason) != ""},
		{"--author (USER is not set)", strings.TrimSpace(in.Author) != ""},
	} {
		if !f.set {
			missing = append(missing, f.flag)
		}
	}
	if len(missing) > 0 {
		return &usageError{"exception create", "exception create needs " + strings.Join(missing, " and ")}
	}
	return nil
}

// parseExpiry reads a duration from now, a day, which means its end, or a time.
func parseExpiry(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, errors.New("exception create needs --expires: 14d, 2026-12-31 or 2026-12-31T12:00:00Z")
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	d, err := strictyaml.ParseDuration(text)
	if err != nil || d <= 0 {
		return time.Time{}, fmt.Errorf("--expires %q: want 14d, 2026-12-31 or 2026-12-31T12:00:00Z", text)
	}
	return now.Add(d).UTC().Truncate(time.Second), nil
}

func createException(ctx context.Context, c *console, cl *client, in web.NewException, output string) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var out web.Exception
	if _, err := cl.do(ctx, http.MethodPost, "/api/v1/exceptions", nil, bytes.NewReader(body), &out); err != nil {
		return err
	}
	if output == "json" {
		return printJSON(c.out, out)
	}
	if _, err := fmt.Fprintf(c.out, "%s created, until %s\n", out.ID, moment(out.Expires)); err != nil {
		return err
	}
	// It stands: what follows is for information and fails nothing.
	e, err := cl.effect(ctx, out)
	if err != nil {
		_, _ = fmt.Fprintf(c.err, "pratique: what it lifts now is not known: %v\n", err)
		return nil
	}
	return e.print(c)
}

func exceptionListCommand() command {
	return command{
		name:  "exception list",
		short: "exceptions in force",
		long: `
Lists the exceptions that are in force or begin later, the oldest first. With
--all also those that expired or were revoked: the list is their whole history.`,
		example: []string{
			"pratique exception list",
			"pratique exception list --all -o json | jq '.exceptions[] | select(.author == \"ann\")'",
		},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			all := fs.Bool("all", false, "also those that expired or were revoked")
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("exception list", args); err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				query := url.Values{}
				if *all {
					query.Set("all", "true")
				}
				var list web.ExceptionList
				if _, err := cl.do(ctx, http.MethodGet, "/api/v1/exceptions", query, nil, &list); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, list)
				}
				return printExceptions(c, list, *all)
			}
		},
	}
}

func exceptionShowCommand() command {
	return command{
		name:  "exception show",
		args:  "ID",
		short: "one exception, with its history",
		long: `
Shows one exception, in force or not: what it lifts and where, who made it, why
and until when, and who revoked it.`,
		example: []string{"pratique exception show ex-4f1c09ab"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("exception show", args, "ID"); err != nil {
					return err
				}
				path, err := exceptionPath(args[0])
				if err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				var out web.Exception
				if _, err := cl.do(ctx, http.MethodGet, path, nil, nil, &out); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, out)
				}
				return printException(c, out)
			}
		},
	}
}

func exceptionRevokeCommand() command {
	return command{
		name:  "exception revoke",
		args:  "ID",
		short: "end an exception now",
		long: `
Ends an exception before it expires. It stays in the history with who revoked it
and why. One that a file holds stays revoked although the file still has it, until
its entry there is changed.

Exit code: 0 revoked (also when it was before), 1 there is none, or failed.`,
		example: []string{`pratique exception revoke ex-4f1c09ab --reason "fixed in 1.27.4"`},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			by := fs.String("author", "", "who revokes it (`name`); if not given, $USER")
			why := fs.String("reason", "", "why, one `line`; required")
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("exception revoke", args, "ID"); err != nil {
					return err
				}
				if *by == "" {
					*by = c.env("USER")
				}
				switch {
				case strings.TrimSpace(*why) == "":
					return &usageError{"exception revoke", "exception revoke needs --reason"}
				case strings.TrimSpace(*by) == "":
					return &usageError{"exception revoke", "exception revoke needs --author (USER is not set)"}
				}
				path, err := exceptionPath(args[0])
				if err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				var out web.Exception
				if _, err := cl.do(ctx, http.MethodDelete, path, url.Values{"by": {*by}, "reason": {*why}}, nil, &out); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, out)
				}
				return printRevoked(c, out)
			}
		},
	}
}

var exceptionID = regexp.MustCompile(`^ex-[0-9a-f]{1,64}$`)

// exceptionPath is the path of one exception.
func exceptionPath(id string) (string, error) {
	if !exceptionID.MatchString(id) {
		return "", fmt.Errorf("%q is not the id of an exception, such as ex-4f1c09ab; `pratique exception list` shows them", id)
	}
	return "/api/v1/exceptions/" + id, nil
}
