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

func imagesCommand() command {
	return command{
		name:  "images",
		short: "images that the server knows, with what a client would meet now",
		long: `
Lists the images in the server's cache (every platform of an index on a line of
its own) with the state of their scan, the outcome for a client today and how
many findings they have: critical, high, medium, low, unknown.`,
		example: []string{
			"pratique images",
			"pratique images -o json | jq '.images[] | select(.outcome == \"deny\") | .ref'",
		},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("images", args); err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				list, err := cl.images(ctx)
				if err != nil {
					return err
				}
				if *output == "json" {
					return printJSON(c.out, list)
				}
				return printImages(c, list)
			}
		},
	}
}

// images fetches all pages.
func (cl *client) images(ctx context.Context) (web.ImageList, error) {
	all := web.ImageList{Images: []web.Image{}}
	after := ""
	for {
		var page web.ImageList
		query := url.Values{"limit": {strconv.Itoa(1000)}}
		if after != "" {
			query.Set("after", after)
		}
		if _, err := cl.do(ctx, http.MethodGet, "/api/v1/images", query, nil, &page); err != nil {
			return web.ImageList{}, err
		}
		all.Images = append(all.Images, page.Images...)
		if page.Next == "" {
			return all, nil
		}
		if page.Next <= after {
			return web.ImageList{}, fmt.Errorf("the server's pages do not advance (next %q after %q)", page.Next, after)
		}
		after = page.Next
	}
}

func printImages(c *console, list web.ImageList) error {
	if len(list.Images) == 0 {
		_, err := fmt.Fprintln(c.out, "no images yet: they appear with the first pull or check")
		return err
	}
	rows := make([][]string, 0, len(list.Images))
	for _, img := range list.Images {
		scanned := "-"
		if img.ScannedAt != nil {
			scanned = img.ScannedAt.UTC().Format("2006-01-02 15:04")
		}
		outcome := img.Outcome.String()
		switch {
		case img.Pending:
			outcome = "pending"
		case img.Error != "":
			outcome = "error"
		}
		name, _, _ := strings.Cut(img.Ref, "@") // the digest has a column of its own
		rows = append(rows, []string{name, short(img.Digest.String()), outcome, img.State, countCell(img.Findings), scanned})
	}
	return printTable(c.out, width(c), []column{{"IMAGE", 16}, {"DIGEST", 0}, {"OUTCOME", 0}, {"STATE", 0}, {"C/H/M/L/U", 0}, {"SCANNED", 0}}, rows)
}
