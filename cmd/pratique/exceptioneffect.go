package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pratique/web"
)

// effect is what a new exception does to images that the server knows.
type effect struct {
	exception web.Exception
	lifted    []web.Image // with their outcome now
	more      bool        // there are more images to look at than were
	index     bool        // the digest is an index's, which no exception is about
}

// maxEffect bounds how many images are checked for what an exception lifts.
const maxEffect = 50

// effect asks the server for what e lifts: for known images whose name begins as
// the glob does, or that have the digest, whether their verdict names e.
func (cl *client) effect(ctx context.Context, e web.Exception) (effect, error) {
	out := effect{exception: e}
	list, err := cl.images(ctx)
	if err != nil {
		return out, err
	}
	prefix, checked, known := literal(e.Repository), 0, false
	for _, img := range list.Images {
		known = known || img.Digest == e.Digest
		if !strings.HasPrefix(img.Ref, prefix) || (e.Digest != "" && img.Digest != e.Digest) {
			continue
		}
		if checked++; checked > maxEffect {
			out.more = true
			break
		}
		lifts, err := cl.lifts(ctx, img, e.ID)
		if err != nil {
			return out, err
		}
		if lifts {
			out.lifted = append(out.lifted, img)
		}
	}
	if e.Digest != "" && !known {
		out.index = cl.isIndex(ctx, e)
	}
	return out, nil
}

// lifts reports whether the verdict on an image now owes anything to an exception.
func (cl *client) lifts(ctx context.Context, img web.Image, id string) (bool, error) {
	name, _, _ := strings.Cut(img.Ref, "@")
	var answer struct {
		Verdict *struct {
			Lifted []struct {
				By string `json:"by"`
			} `json:"lifted"`
		} `json:"verdict"`
	}
	if _, err := cl.do(ctx, http.MethodGet, "/api/v1/check", url.Values{"ref": {name + "@" + img.Digest.String()}}, nil, &answer); err != nil {
		return false, err
	}
	if answer.Verdict == nil {
		return false, nil // not scanned: nothing is lifted from it yet
	}
	for _, l := range answer.Verdict.Lifted {
		if l.By == "exception "+id {
			return true, nil
		}
	}
	return false, nil
}

// isIndex finds out whether the digest of an exception, unknown as an image, is an
// index's, if the repository is named.
func (cl *client) isIndex(ctx context.Context, e web.Exception) bool {
	if e.Repository == "" || e.Repository != literal(e.Repository) {
		return false
	}
	var answer web.Check
	_, err := cl.do(ctx, http.MethodGet, "/api/v1/check", url.Values{"ref": {e.Repository + "@" + e.Digest.String()}}, nil, &answer)
	return err == nil && len(answer.Children) > 0
}

// literal is a glob up to its first wildcard.
func literal(glob string) string {
	if i := strings.IndexAny(glob, "*?[{\\"); i >= 0 {
		return glob[:i]
	}
	return glob
}

// print tells a person what an exception does.
func (e effect) print(c *console) error {
	var b strings.Builder
	switch {
	case e.index:
		fmt.Fprintf(&b, "it lifts nothing: %s is an index, and images are judged one by one;\nname the digest of a platform (`pratique check` shows them)\n", short(e.exception.Digest.String()))
	case len(e.lifted) == 0:
		b.WriteString("it lifts nothing now from an image that the server knows")
		if e.more {
			fmt.Fprintf(&b, " (%d were looked at)", maxEffect)
		}
		b.WriteByte('\n')
	default:
		b.WriteString("it lifts something now from:\n")
		for _, img := range e.lifted {
			name, _, _ := strings.Cut(img.Ref, "@")
			fmt.Fprintf(&b, "  %-5s  %s  %s\n", img.Outcome, short(img.Digest.String()), printable(name))
		}
		if e.more {
			fmt.Fprintf(&b, "  and maybe more: %d images were looked at\n", maxEffect)
		}
	}
	_, err := fmt.Fprint(c.out, b.String())
	return err
}

// printExceptions is the table of `exception list`.
func printExceptions(c *console, list web.ExceptionList, all bool) error {
	if len(list.Exceptions) == 0 {
		text := "no exceptions in force; --all shows those that ended"
		if all {
			text = "no exceptions"
		}
		_, err := fmt.Fprintln(c.out, text)
		return err
	}
	columns := []column{{"ID", 0}, {"STATE", 0}, {"LIFTS", 14}, {"FROM", 16}, {"UNTIL", 0}, {"AUTHOR", 6}, {"REASON", 12}}
	rows := make([][]string, 0, len(list.Exceptions))
	for _, e := range list.Exceptions {
		rows = append(rows, []string{e.ID, e.State, lifts(e), from(e), moment(e.Expires), e.Author, e.Reason})
	}
	return printTable(c.out, width(c), columns, rows)
}

// lifts says in one cell what an exception lifts.
func lifts(e web.Exception) string {
	s := cmp.Or(e.Finding, e.Rule)
	if e.Package != "" {
		s += " in " + e.Package
	}
	return s
}

// from says in one cell for which images.
func from(e web.Exception) string {
	var parts []string
	if e.Repository != "" {
		parts = append(parts, e.Repository)
	}
	if e.Digest != "" {
		parts = append(parts, "@"+short(e.Digest.String()))
	}
	if e.Platform != "" {
		parts = append(parts, e.Platform)
	}
	return strings.Join(parts, " ")
}

// moment is a time as tables show it.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

// printException is what `exception show` prints.
func printException(c *console, e web.Exception) error {
	rows := [][2]string{
		{"id", e.ID}, {"state", e.State}, {"finding", e.Finding}, {"rule", e.Rule}, {"package", e.Package},
		{"repository", e.Repository}, {"digest", e.Digest.String()}, {"platform", e.Platform},
		{"reason", e.Reason}, {"author", e.Author}, {"ticket", e.Ticket}, {"source", e.Source},
		{"created", moment(e.Created)}, {"expires", moment(e.Expires)},
	}
	if e.Revoked != nil {
		rows = append(rows, [2]string{"revoked", moment(*e.Revoked)}, [2]string{"by", e.RevokedBy}, [2]string{"because", e.RevokedWhy})
	}
	for _, r := range rows {
		if r[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(c.out, "%-11s %s\n", r[0], printable(r[1])); err != nil {
			return err
		}
	}
	return nil
}

// printRevoked says since when it is revoked: maybe not by this command.
func printRevoked(c *console, e web.Exception) error {
	since := ""
	if e.Revoked != nil {
		since = " at " + moment(*e.Revoked)
	}
	_, err := fmt.Fprintf(c.out, "%s revoked%s by %s: %s\n", e.ID, since, printable(e.RevokedBy), printable(e.RevokedWhy))
	return err
}
