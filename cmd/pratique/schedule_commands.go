package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"pratique/web"
)

// scheduleCommands are those about what is done at set times.
func scheduleCommands() []command {
	return []command{scheduleListCommand(), scheduleRunCommand()}
}

func scheduleListCommand() command {
	return command{
		name:  "schedule list",
		short: "what is done at set times",
		long: `
Lists the configured schedules with their next time and how the last run ended
(docs/schedules.md).`,
		example: []string{"pratique schedule list", "pratique schedule list -o json | jq '.schedules[] | select(.last.outcome == \"failed\")'"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server, output := serverFlag(fs), outputFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				var list web.ScheduleList
				if err := ask(ctx, c, "schedule list", args, *server, http.MethodGet, "/api/v1/schedules", nil, &list); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, list)
				}
				return printSchedules(c, list)
			}
		},
	}
}

func printSchedules(c *console, list web.ScheduleList) error {
	if len(list.Schedules) == 0 {
		_, err := fmt.Fprintln(c.err, "no schedules; they are configured under schedules (docs/schedules.md)")
		return err
	}
	rows := make([][]string, len(list.Schedules))
	for i, s := range list.Schedules {
		next, last := "never", "never ran"
		switch {
		case list.Paused:
			next = "paused"
		case s.Next != nil:
			next = moment(*s.Next)
		}
		switch {
		case s.Running:
			last = "runs"
			if s.Last != nil {
				last += " since " + moment(s.Last.Started)
			}
		case s.Last != nil && s.Last.Ended == nil:
			last = moment(s.Last.Started) + " cut short"
		case s.Last != nil:
			last = moment(*s.Last.Ended) + " " + s.Last.Outcome
			if s.Last.Note != "" {
				last += ": " + s.Last.Note
			}
		}
		rows[i] = []string{s.Name, s.Cron, strings.Join(append([]string{s.Do}, s.Match...), " "), next, last}
	}
	return printTable(c.out, width(c), []column{{title: "NAME"}, {title: "CRON"}, {title: "DO", shrink: 12}, {title: "NEXT"}, {title: "LAST", shrink: 20}}, rows)
}

func scheduleRunCommand() command {
	return command{
		name:  "schedule run",
		args:  "NAME",
		short: "begin a schedule now",
		long: `
Begins a schedule now, also when schedules are paused, and returns at once;
` + "`pratique schedule list`" + ` shows how it ended. Its next time counts from its end.

Exit code: 0 begun, 1 there is none, it runs already, or failed.`,
		example: []string{"pratique schedule run full-pass"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("schedule run", args, "NAME"); err != nil {
					return err
				}
				var out struct{}
				if err := ask(ctx, c, "schedule run", nil, *server, http.MethodPost, "/api/v1/schedules/"+url.PathEscape(args[0])+"/run", nil, &out); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.out, "begun: "+args[0])
				return err
			}
		},
	}
}
