package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique/web"
)

// jobCommands are those about the queue of scans.
func jobCommands() []command {
	return []command{jobsListCommand(), jobsShowCommand(), jobsRetryCommand(), jobsPauseCommand(), jobsResumeCommand()}
}

func jobsListCommand() command {
	return command{
		name:  "jobs list",
		short: "scans to do, and those given up",
		long: `
Lists the queue: what runs, what waits for its turn, what failed and waits for its next
attempt (retry), what is paused, and what was given up (dead), each with its last
error. Dead ones are kept for 30 days; ` + "`pratique jobs retry`" + ` tries them again.`,
		example: []string{
			"pratique jobs list",
			"pratique jobs list --state dead -o json | jq -r '.jobs[].digest'",
		},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server, output := serverFlag(fs), outputFlag(fs)
			state := fs.String("state", "", "only those in `STATE`: waiting, running, retry, paused or dead")
			return func(ctx context.Context, c *console, args []string) error {
				query := url.Values{}
				if *state != "" {
					query.Set("state", *state)
				}
				var list web.JobList
				if err := ask(ctx, c, "jobs list", args, *server, http.MethodGet, "/api/v1/jobs", query, &list); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, list)
				}
				return printJobs(c, list)
			}
		},
	}
}

func printJobs(c *console, list web.JobList) error {
	rows := make([][]string, len(list.Jobs))
	for i, j := range list.Jobs {
		when := ""
		switch {
		case j.Died != nil:
			when = "died " + moment(*j.Died)
		case j.Next != nil:
			when = "next " + moment(*j.Next)
		case j.Opened != nil:
			when = "since " + moment(*j.Opened)
		}
		rows[i] = []string{j.State, j.Priority, j.Ref, fmt.Sprint(j.Attempts), when, j.Error}
	}
	if len(rows) > 0 {
		columns := []column{{title: "STATE"}, {title: "PRIORITY"}, {title: "IMAGE", shrink: 24}, {title: "FAILED"}, {title: "WHEN"}, {title: "ERROR", shrink: 16}}
		if err := printTable(c.out, width(c), columns, rows); err != nil {
			return err
		}
	}
	open := 0
	for _, n := range list.Open {
		open += n
	}
	_, err := fmt.Fprintf(c.err, "%d open (%d pulls, %d webhook, %d database, %d schedule), %d dead%s\n", open,
		list.Open["pull"], list.Open["webhook"], list.Open["database"], list.Open["schedule"], list.Dead, pausedWords(list.Paused, "; paused: "))
	return err
}

// pausedWords lists what is paused behind a prefix; "" when nothing is.
func pausedWords(ps []web.Pause, prefix string) string {
	if len(ps) == 0 {
		return ""
	}
	var words []string
	for _, p := range ps {
		words = append(words, p.Priority+" since "+moment(p.Since))
	}
	return prefix + strings.Join(words, ", ")
}

func jobsShowCommand() command {
	return command{
		name:  "jobs show",
		args:  "DIGEST",
		short: "the job of one image",
		long: `
Shows the job of an image, open or given up, with the whole of its last error.

Exit code: 0 shown, 1 there is none, or failed.`,
		example: []string{"pratique jobs show sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server, output := serverFlag(fs), outputFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("jobs show", args, "DIGEST"); err != nil {
					return err
				}
				var list web.JobList
				if err := ask(ctx, c, "jobs show", nil, *server, http.MethodGet, "/api/v1/jobs", url.Values{"digest": {args[0]}}, &list); err != nil {
					return err
				}
				if len(list.Jobs) == 0 {
					return fmt.Errorf("no job of %s: nothing is to be done, and nothing was given up", args[0])
				}
				j := list.Jobs[0]
				if *output == "json" {
					return printJSON(c.out, j)
				}
				return printJob(c, j)
			}
		},
	}
}

func printJob(c *console, j web.Job) error {
	rows := [][2]string{{"image", j.Ref}, {"state", j.State}, {"priority", j.Priority}, {"failed", fmt.Sprintf("%d times", j.Attempts)}}
	if j.Opened != nil {
		rows = append(rows, [2]string{"opened", moment(*j.Opened)})
	}
	if j.Next != nil {
		rows = append(rows, [2]string{"next", moment(*j.Next)})
	}
	if j.Died != nil {
		rows = append(rows, [2]string{"given up", moment(*j.Died)})
	}
	if j.Error != "" {
		rows = append(rows, [2]string{"error", j.Error})
	}
	for _, row := range rows {
		for i, text := range wrap(row[1], max(width(c)-10, 40)) {
			label := ""
			if i == 0 {
				label = row[0]
			}
			if _, err := fmt.Fprintf(c.out, "%-9s %s\n", label, text); err != nil {
				return err
			}
		}
	}
	return nil
}

func jobsRetryCommand() command {
	return command{
		name:  "jobs retry",
		args:  "DIGEST | --all",
		short: "try scans again",
		long: `
Tries the scan of an image again that was given up, or at once one that waits for its
next attempt; with --all every one that was given up.

Exit code: 0 done, 1 the image has no such job, or failed.`,
		example: []string{"pratique jobs retry --all", "pratique jobs retry sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server, output := serverFlag(fs), outputFlag(fs)
			all := fs.Bool("all", false, "all that were given up")
			return func(ctx context.Context, c *console, args []string) error {
				query := url.Values{}
				switch {
				case *all:
					if err := want("jobs retry --all", args); err != nil {
						return err
					}
					query.Set("all", "true")
				default:
					if err := want("jobs retry", args, "DIGEST or --all"); err != nil {
						return err
					}
					if err := digest.Digest(args[0]).Validate(); err != nil {
						return fmt.Errorf("%q is no digest; `pratique jobs list` shows them", args[0])
					}
					query.Set("digest", args[0])
				}
				var out web.JobsRetried
				if err := ask(ctx, c, "jobs retry", nil, *server, http.MethodPost, "/api/v1/jobs/retry", query, &out); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, out)
				}
				_, err := fmt.Fprintf(c.out, "%d scans will be tried again\n", out.Jobs)
				return err
			}
		},
	}
}

func jobsPauseCommand() command {
	return jobsHold("pause", "hold scans in the background back", `
Holds scans back that nobody waits for: those of the named priorities (webhook,
database, schedule), or all of these. It lasts until `+"`pratique jobs resume`"+`, also
over a restart. What runs ends; what is opened meanwhile waits. Schedules do not begin
while schedule is paused, and are made up for once. Pulls are never held back, nor is
matching after a database update.`, []string{"pratique jobs pause", "pratique jobs pause schedule webhook"})
}

func jobsResumeCommand() command {
	return jobsHold("resume", "let scans in the background go on", `
Ends the pause of the named priorities (webhook, database, schedule), or of all.`, []string{"pratique jobs resume"})
}

func jobsHold(verb, short, long string, example []string) command {
	name := "jobs " + verb
	return command{
		name: name, args: "[PRIORITY …]", short: short, long: long, example: example,
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server, output := serverFlag(fs), outputFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				var out web.Pauses
				if err := ask(ctx, c, name, nil, *server, http.MethodPost, "/api/v1/jobs/"+verb, url.Values{"priority": args}, &out); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, out)
				}
				words := pausedWords(out.Paused, "paused: ")
				if words == "" {
					words = "nothing is paused"
				}
				_, err := fmt.Fprintln(c.out, words)
				return err
			}
		},
	}
}
