package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"pratique/web"
)

// checkVerdict shows a verdict that a client met.
func checkVerdict(ctx context.Context, c *console, server, output, id string, all bool, args []string) error {
	if len(args) > 0 {
		return &usageError{"check", fmt.Sprintf("check: --verdict names the image itself; leave out %q", args[0])}
	}
	cl, err := newClient(c, server)
	if err != nil {
		return err
	}
	var met web.Met
	if _, err := cl.do(ctx, http.MethodGet, "/api/v1/verdicts/"+url.PathEscape(id), nil, nil, &met); err != nil {
		return err
	}
	if output == "json" {
		err = printJSON(c.out, met)
	} else {
		err = printMet(c.out, met, width(c), all)
	}
	if err != nil {
		return err
	}
	if met.Now.Verdict == nil {
		_, _ = fmt.Fprintf(c.err, "pratique: what it would meet now is not known: %s\n", met.Now.Error)
		return &exitCode{code: exitPending}
	}
	return checkExit(c.err, web.Check{Verdict: met.Now.Verdict})
}

// printMet writes it for a person: what was, and what is now.
func printMet(w io.Writer, met web.Met, width int, all bool) error {
	client := met.Client
	if client == "" {
		client = "a client without an address"
	}
	facts := [][2]string{
		{"image", met.Ref},
		{"digest", met.Digest.String()},
		{"met", "at " + met.At.UTC().Format(time.RFC3339) + ", first by " + client},
		{"verdict", verdictLine(met.Verdict)},
	}
	facts = append(facts, verdictFacts(met.Verdict)...)
	now := "not known: " + met.Now.Error
	if met.Now.Verdict != nil {
		now = verdictLine(met.Now.Verdict)
		if met.Verdict != nil && met.Now.Verdict.ID == met.Verdict.ID {
			now = "the same"
		}
	}
	facts = append(facts, [2]string{"now", now})
	if met.Now.Digest != "" && met.Now.Digest != met.Digest {
		facts = append(facts, [2]string{"", "the tag names another image now: " + met.Now.Digest.String()})
	}
	if met.Now.Verdict != nil && now != "the same" {
		facts = append(facts, verdictFacts(met.Now.Verdict)...)
	}
	if err := printFacts(w, width, facts); err != nil {
		return err
	}
	return printFindings(w, width, met.Findings, all)
}
