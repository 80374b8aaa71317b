package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"pratique/web"
)

// eventCommands are those about events that go out.
func eventCommands() []command {
	return []command{eventsListCommand(), eventsReplayCommand()}
}

func eventsListCommand() command {
	return command{
		name:  "events list",
		short: "events that went out, or will",
		long: `
Lists the newest events, and to which sinks they went: open (waiting, or to be
tried again), done, or dead (given up). With --dead only those that some sink never
took; ` + "`pratique events replay`" + ` sends them again. With --cause only those with one
cause: ` + "`database`" + ` or ` + "`policy`" + `, or one update of it, as -o json shows it.`,
		example: []string{
			"pratique events list",
			"pratique events list --type verdict.changed --cause database",
			"pratique events list --dead -o json | jq -r '.events[].id'",
		},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			dead := fs.Bool("dead", false, "only those that were given up")
			kind := fs.String("type", "", "only this `type`, such as verdict.changed")
			cause := fs.String("cause", "", "only what this `cause` had, such as database")
			limit := fs.Int("limit", 0, "at most so `many`, the newest; 0 is 100")
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("events list", args); err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				query := url.Values{}
				for key, value := range map[string]string{"type": *kind, "cause": *cause} {
					if value != "" {
						query.Set(key, value)
					}
				}
				if *dead {
					query.Set("dead", "true")
				}
				if *limit != 0 {
					query.Set("limit", strconv.Itoa(*limit))
				}
				var list web.EventList
				if _, err := cl.do(ctx, http.MethodGet, "/api/v1/events", query, nil, &list); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, list)
				}
				return printEvents(c, list)
			}
		},
	}
}

func printEvents(c *console, list web.EventList) error {
	if len(list.Events) == 0 {
		_, err := fmt.Fprintln(c.err, "no events; sinks are configured under notify (docs/events.md)")
		return err
	}
	rows := make([][]string, len(list.Events))
	for i, e := range list.Events {
		var to []string
		for _, d := range e.Deliveries {
			word := d.Sink + " " + d.State
			if d.State != "done" && d.Error != "" {
				word += fmt.Sprintf(" (%d: %s)", d.Attempts, d.Error)
			}
			to = append(to, word)
		}
		rows[i] = []string{moment(e.Time), e.ID, strings.TrimPrefix(e.Type, "dev.pratique."), e.Subject, strings.Join(to, ", ")}
	}
	return printTable(c.out, width(c), []column{{title: "TIME"}, {title: "ID"}, {title: "TYPE"}, {title: "SUBJECT", shrink: 20}, {title: "SINKS", shrink: 16}}, rows)
}

func eventsReplayCommand() command {
	return command{
		name:  "events replay",
		args:  "ID | --dead",
		short: "send events again",
		long: `
Sends an event again to every sink that it was for, also to those that took it; or
with --dead all that were given up, to the sinks that did not take them. They keep
their ids, by which a receiver knows what it has.`,
		example: []string{"pratique events replay --dead", "pratique events replay 4f1c09ab27d14b6f8a2e5c0d9b7a6e31"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			dead := fs.Bool("dead", false, "all that were given up")
			return func(ctx context.Context, c *console, args []string) error {
				query := url.Values{}
				switch {
				case *dead:
					if err := want("events replay --dead", args); err != nil {
						return err
					}
					query.Set("dead", "true")
				default:
					if err := want("events replay", args, "ID or --dead"); err != nil {
						return err
					}
					query.Set("id", args[0])
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				var out web.Replayed
				if _, err := cl.do(ctx, http.MethodPost, "/api/v1/events/replay", query, nil, &out); err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.out, "%d deliveries are open again\n", out.Deliveries)
				return err
			}
		},
	}
}
