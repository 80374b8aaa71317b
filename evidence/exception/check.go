package exception

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"pratique"
	"pratique/policy"
)

// guards are rules that every policy has without writing them. Law 2: nothing
// unscanned is served unless a rule says so by name.
var guards = []string{"unscanned", "incomplete", "scanFailed"}

// cve is how people write the id of a CVE; the databases write it in capitals.
var cve = regexp.MustCompile(`^(?i:cve)-[0-9]{4}-[0-9]{4,}$`)

// tidy takes away what copying from a web page adds, and writes ids and times as
// they are compared.
func tidy(x pratique.Exception) pratique.Exception {
	for _, text := range []*string{&x.Finding, &x.Rule, &x.Package, &x.Repository, &x.Reason, &x.Author, &x.Ticket} {
		*text = strings.TrimSpace(*text)
	}
	if cve.MatchString(x.Finding) {
		x.Finding = strings.ToUpper(x.Finding)
	}
	x.Expires = x.Expires.UTC().Truncate(time.Second)
	x.Created = x.Created.UTC().Truncate(time.Second)
	return x
}

// check refuses what is not to be, or could never lift anything. since is when
// the duration begins to count; zero: at Created. The error joins every mistake
// and wraps pratique.ErrInvalid.
func check(x pratique.Exception, most time.Duration, since time.Time) error {
	errs := []error{x.Validate(0), checkDuration(x, most, since), checkRule(x.Rule), checkRepository(x.Repository)}
	for _, part := range []struct{ what, text string }{
		{"finding", x.Finding}, {"rule", x.Rule}, {"package", x.Package}, {"repository", x.Repository},
	} {
		errs = append(errs, checkMatched(part.what, part.text))
	}
	for _, part := range []struct{ what, text string }{{"reason", x.Reason}, {"author", x.Author}, {"ticket", x.Ticket}} {
		errs = append(errs, checkShown(part.what, part.text))
	}
	if x.Reason != "" && !strings.ContainsFunc(x.Reason, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }) {
		errs = append(errs, invalid("reason %q says nothing", x.Reason)) // refusals print a command with "…"
	}
	if p := x.Platform; p != nil {
		if _, err := pratique.ParsePlatform(p.String()); err != nil {
			errs = append(errs, fmt.Errorf("exception: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err := policy.NewExceptions([]pratique.Exception{x})
	return err
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w exception: "+format, append([]any{pratique.ErrInvalid}, args...)...)
}

// Years in which exceptions may begin and end: what a clock or a store cannot hold is
// a slip of the pen.
const firstYear, lastYear = 2000, 2199

func plausible(t time.Time) bool { return t.Year() >= firstYear && t.Year() <= lastYear }

// checkDuration is Validate's with the time from which a file's entry counts.
func checkDuration(x pratique.Exception, most time.Duration, since time.Time) error {
	if since.IsZero() {
		since = x.Created
	}
	if !x.Expires.IsZero() && !plausible(x.Expires.Add(-24*time.Hour)) {
		return invalid("expires is not in the years %d to %d", firstYear, lastYear)
	}
	if end := since.Add(most); most > 0 && x.Expires.After(end) {
		return invalid("it would last until %s; at most %s is allowed here, until %s", x.Expires.Format(time.RFC3339), days(most), end.UTC().Format(time.RFC3339))
	}
	return nil
}

// days writes a duration as configurations do.
func days(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return d.String()
}

func checkRule(rule string) error {
	set, name, ok := strings.Cut(rule, "/")
	switch {
	case rule == "" || strings.Count(rule, "/") > 1:
		return nil // said by Validate, if it is a mistake
	case !ok:
		return nil
	case set == "" || name == "":
		return invalid("rule %q: want POLICY/RULE", rule)
	case slices.ContainsFunc(guards, func(g string) bool { return strings.EqualFold(g, name) }):
		return invalid("%s cannot be lifted by an exception: nothing unscanned is served unless a rule says so. "+
			"Write one into policy %q: {name: …, match: {repository: […]}, action: exempt, lifts: [%s], message: why}", rule, set, name)
	}
	return nil
}

// checkRepository finds globs that no UPSTREAM/REPOSITORY can ever fit.
func checkRepository(glob string) error {
	if glob == "" {
		return nil
	}
	upstream, name, ok := strings.Cut(glob, "/")
	switch {
	case !ok && !strings.Contains(glob, "**"):
		return invalid("repository %q: want UPSTREAM/REPOSITORY, for example docker.io/library/nginx or docker.io/library/*", glob)
	case ok && (upstream == "" || name == ""):
		return invalid("repository %q: want UPSTREAM/REPOSITORY", glob)
	case ok && strings.Contains(upstream, ":"):
		return invalid("repository %q: name the upstream by its key in the configuration, which has no port", glob)
	case strings.ContainsAny(name, ":@"):
		return invalid("repository %q: without tag and digest; an exception holds for all tags, or name one image by digest", glob)
	case name != strings.ToLower(name):
		return invalid("repository %q: names of repositories have no capitals", glob)
	}
	return nil
}

// checkMatched refuses characters that look like others, or like nothing: what is
// held against ids and names would never match them, and people would read that
// it does.
func checkMatched(what, text string) error {
	for _, r := range text {
		if r < ' ' || r > '~' {
			return invalid("%s %q: the character %q (%U) stands in no such name; was it copied from a formatted text?", what, text, r, r)
		}
	}
	return nil
}

// checkShown refuses what makes a text read otherwise than it is written.
func checkShown(what, text string) error {
	if !utf8.ValidString(text) {
		return invalid("%s: not UTF-8", what)
	}
	for _, r := range text {
		if unicode.Is(unicode.Bidi_Control, r) || unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return invalid("%s has the invisible character %U", what, r)
		}
	}
	return nil
}

// maxText bounds what Revoke writes, as Exception.Validate bounds the rest.
const maxText = 1000

// checkText is for what Exception.Validate does not see.
func checkText(what, text string) error {
	switch {
	case text == "":
		return invalid("say %s", what)
	case len(text) > maxText:
		return invalid("%s: want one line of at most %d bytes", what, maxText)
	}
	return checkShown(what, text)
}
