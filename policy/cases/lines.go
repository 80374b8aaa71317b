package cases

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"pratique"
)

// lines reads the lines of a case and gathers their mistakes.
type lines struct{ errs []error }

func (l *lines) err() error { return errors.Join(l.errs...) }

func (l *lines) add(err error) {
	if err != nil {
		l.errs = append(l.errs, err)
	}
}

func (l *lines) fail(key, line, want string) {
	l.add(fmt.Errorf("%s: %q: %s", key, line, want))
}

// words are the words of a line, of which there have to be so many, padded to the
// most with "".
func (l *lines) words(key, line string, least, most int) []string {
	w := strings.Fields(line)
	switch {
	case len(w) < least || len(w) > most:
		l.fail(key, line, fmt.Sprintf("want %d to %d words", least, most))
		return make([]string, most)
	default:
		return append(w, make([]string, most-len(w))...)
	}
}

func (l *lines) date(key, s string) time.Time {
	at, err := parseDate(s)
	if err != nil {
		l.add(fmt.Errorf("%s: %w", key, err))
	}
	return at
}

func (l *lines) ref(key, s string) pratique.Ref {
	if s == "" {
		return pratique.Ref{}
	}
	r, err := pratique.ParseRef(s)
	if err != nil {
		l.add(fmt.Errorf("%s: %w", key, err))
	}
	return r
}

func (l *lines) platform(key, s string) pratique.Platform {
	if s == "" {
		return pratique.Platform{}
	}
	p, err := pratique.ParsePlatform(s)
	if err != nil {
		l.add(fmt.Errorf("%s: %w", key, err))
	}
	return p
}

// kinds of findings.
var kinds = []string{string(pratique.KindVulnerability), string(pratique.KindSecret), string(pratique.KindMisconfiguration), string(pratique.KindLicense)}

// finding reads KIND ID SEVERITY [PACKAGE INSTALLED [FIXED]] [KEY=VALUE …]; the
// severity "-" is none, and a kind that nobody defined is written other:KIND. Keys are cvss, status, ecosystem, purl, path, category,
// seen (a date), and worse (DATE/SEVERITY[/fixable], several joined with ";").
func (l *lines) finding(line string) pratique.Finding {
	const key = "findings"
	var w []string
	var pairs [][2]string
	for _, word := range strings.Fields(line) {
		if k, v, ok := strings.Cut(word, "="); ok && !strings.HasPrefix(word, "pkg:") && len(w) > 0 {
			pairs = append(pairs, [2]string{k, v})
			continue
		}
		w = append(w, word)
	}
	w = l.words(key, strings.Join(w, " "), 3, 6)
	kind, odd := strings.CutPrefix(w[0], "other:")
	if !odd && kind != "" && !slices.Contains(kinds, kind) {
		l.fail(key, line, "want a kind first: "+strings.Join(kinds, ", "))
	}
	f := pratique.Finding{Kind: pratique.Kind(kind), ID: w[1], Severity: pratique.Severity(w[2]), Package: w[3], Installed: w[4], Fixed: w[5]}
	if w[2] == "-" {
		f.Severity = ""
	}
	for _, pair := range pairs {
		switch k, v := pair[0], pair[1]; k {
		case "cvss":
			score, err := strconv.ParseFloat(v, 64)
			if err != nil {
				l.fail(key, line, "cvss is a number")
			}
			f.CVSS = score
		case "status":
			f.Status = v
		case "ecosystem":
			f.Ecosystem = v
		case "purl":
			f.PURL = v
		case "path":
			f.Path = v
		case "category":
			f.Category = v
		case "seen":
			f.FirstSeen = l.date(key, v)
		case "worse":
			for m := range strings.SplitSeq(v, ";") {
				p := append(strings.Split(m, "/"), "", "")
				f.Milestones = append(f.Milestones, pratique.Milestone{At: l.date(key, p[0]), Severity: pratique.Severity(p[1]), Fixable: p[2] == "fixable"})
			}
		default:
			l.fail(key, line, "unknown key "+k+": want cvss, status, ecosystem, purl, path, category, seen or worse")
		}
	}
	return f
}
