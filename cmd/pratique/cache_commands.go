package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"pratique/internal/config"
	"pratique/store"
	"pratique/web"
)

// cacheCommands are those about what is kept.
func cacheCommands() []command {
	return []command{cacheStatusCommand(), cacheEvictCommand(), cachePinsCommand()}
}

func cacheStatusCommand() command {
	return command{
		name:  "cache status",
		short: "how much is kept, and what may go",
		long: `
Shows how many bytes of layers, configs and manifests the cache keeps, its limits
(cache.maxSize, cache.unusedFor, cache.pins), and how the last eviction went. How to
choose the limits is in docs/cache.md.`,
		example: []string{"pratique cache status", "pratique cache status -o json | jq .bytes"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server, output := serverFlag(fs), outputFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				var st web.CacheStatus
				if err := ask(ctx, c, "cache status", args, *server, http.MethodGet, "/api/v1/cache", nil, &st); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, st)
				}
				return printCache(c, st)
			}
		},
	}
}

// ask sends the one request of a command without arguments.
func ask(ctx context.Context, c *console, name string, args []string, server, method, path string, query url.Values, out any) error {
	if err := want(name, args); err != nil {
		return err
	}
	cl, err := newClient(c, server)
	if err != nil {
		return err
	}
	_, err = cl.do(ctx, method, path, query, nil, out)
	return err
}

func printCache(c *console, st web.CacheStatus) error {
	limit, unused := "none", "for ever"
	if st.MaxBytes > 0 {
		limit = fmt.Sprintf("%s (%d %% used)", amount(st.MaxBytes), 100*st.Bytes/st.MaxBytes)
	}
	if st.UnusedFor > 0 {
		unused = span(time.Duration(st.UnusedFor) * time.Second)
	}
	rows := [][2]string{
		{"kept", fmt.Sprintf("%s in %d blobs", amount(st.Bytes), st.Blobs)}, {"limit", limit}, {"kept unused", unused},
		{"pinned", amount(st.PinnedBytes)}, {"other", amount(st.OtherBytes) + " (manifests, blobs of no image)"},
	}
	if st.OldestUse != nil {
		rows = append(rows, [2]string{"next to go", "last used " + moment(*st.OldestUse)})
	}
	if st.RefetchedBytes > 0 {
		rows = append(rows, [2]string{"fetched again", amount(st.RefetchedBytes) + " since the start"})
	}
	if last := st.Last; last != nil {
		text := fmt.Sprintf("%s: %s in %d blobs removed", moment(last.At), amount(last.Bytes), last.Blobs)
		if last.UnusedSince != nil {
			text += ", none used since " + moment(*last.UnusedSince)
		}
		if last.OverBytes > 0 {
			text += fmt.Sprintf("; %s more than wanted could not go", amount(last.OverBytes))
		}
		if last.Error != "" {
			text += "; failed: " + last.Error
		}
		rows = append(rows, [2]string{"last eviction", text})
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(c.out, "%-14s %s\n", r[0], printable(r[1])); err != nil {
			return err
		}
	}
	return nil
}

func cacheEvictCommand() command {
	return command{
		name:  "cache evict",
		short: "make room in the cache now",
		long: `
Brings the cache to its limits now: layers of images that nobody pulled for
cache.unusedFor go, and if it holds more than cache.maxSize, those of the images
that were pulled least recently. Reports and inventories stay: what is pulled again
is fetched again, and not analysed. With --to it is brought to that size for once.

With --dry-run nothing is removed; what would go, and why, is listed.`,
		example: []string{"pratique cache evict --dry-run", "pratique cache evict --to 50GiB", "pratique cache evict -o json | jq .bytes"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server, output := serverFlag(fs), outputFlag(fs)
			dry := fs.Bool("dry-run", false, "list what would go, and remove nothing")
			query := url.Values{}
			fs.Func("to", "bring the cache to this `size` for once: 50GiB", func(text string) error {
				var size config.Size
				if err := size.UnmarshalText([]byte(text)); err != nil {
					return err
				}
				query.Set("to", strconv.FormatInt(int64(size), 10))
				return nil
			})
			return func(ctx context.Context, c *console, args []string) error {
				if *dry {
					query.Set("dryRun", "true")
				}
				var out web.CacheEvicted
				if err := ask(ctx, c, "cache evict", args, *server, http.MethodPost, "/api/v1/cache/evict", query, &out); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, out)
				}
				return printEvicted(c, out)
			}
		},
	}
}

func printEvicted(c *console, out web.CacheEvicted) error {
	verb := "removed"
	if out.DryRun {
		verb = "would go"
	}
	if len(out.Images) > 0 {
		rows := make([][]string, len(out.Images))
		for i, img := range out.Images {
			why := "least recently used"
			if img.Reason == string(store.EvictUnused) {
				why = "unused for too long"
			}
			rows[i] = []string{img.Ref, moment(img.UsedAt), strconv.Itoa(img.Blobs), amount(img.Bytes), why}
		}
		if err := printTable(c.out, width(c), []column{{title: "IMAGE", shrink: 30}, {title: "LAST USED"}, {title: "BLOBS"}, {title: "SIZE"}, {title: "WHY"}}, rows); err != nil {
			return err
		}
	}
	if out.More > 0 {
		if _, err := fmt.Fprintf(c.out, "and %d more images\n", out.More); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%s in %d blobs %s, %s are left", amount(out.Bytes), out.Blobs, verb, amount(out.KeptBytes))
	if out.OverBytes > 0 {
		text += fmt.Sprintf("; %s more than wanted: they are pinned, read now, or no layers", amount(out.OverBytes))
	}
	_, err := fmt.Fprintln(c.out, text)
	return err
}

func cachePinsCommand() command {
	return command{
		name:  "cache pins",
		short: "what cache.pins keeps",
		long: `
Lists the globs of cache.pins, and how much of the cache each of them keeps. A blob
that two of them keep counts for both; a pin that keeps nothing may be misspelt.`,
		example: []string{"pratique cache pins"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server, output := serverFlag(fs), outputFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				var list web.CachePins
				if err := ask(ctx, c, "cache pins", args, *server, http.MethodGet, "/api/v1/cache/pins", nil, &list); err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, list)
				}
				if len(list.Pins) == 0 {
					_, err := fmt.Fprintln(c.err, "nothing is pinned (cache.pins)")
					return err
				}
				rows := make([][]string, len(list.Pins))
				for i, p := range list.Pins {
					rows[i] = []string{p.Pin, strconv.Itoa(p.Blobs), amount(p.Bytes)}
				}
				return printTable(c.out, width(c), []column{{title: "PIN", shrink: 20}, {title: "BLOBS"}, {title: "SIZE"}}, rows)
			}
		},
	}
}

// amount is a number of bytes as people read it.
func amount(n int64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1023.95 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// span is a duration as the configuration has it.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}
