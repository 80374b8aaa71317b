package notify

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"pratique"
)

// fingerprint is the same for reports that tell the same, in whatever order: state,
// and of each finding what a rule or a person looks at. It is kept, so its hash is
// one that means the same tomorrow.
func fingerprint(r *pratique.Report) string {
	sum := fnv(fnvBegin, string(r.State))
	for i := range r.Findings {
		f := &r.Findings[i]
		h := uint64(fnvBegin)
		for _, s := range [...]string{string(f.Kind), f.ID, f.Package, f.Installed, f.Path, string(f.Severity), f.Status, f.Fixed} {
			h = fnv(h, s)
		}
		sum += h
	}
	return strconv.FormatUint(sum, 16)
}

const (
	fnvBegin = 14695981039346656037
	fnvPrime = 1099511628211
)

// fnv is FNV-1a, with an end after each string.
func fnv(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return (h ^ 0xff) * fnvPrime
}

// count counts findings for a message.
func count(fs []pratique.Finding) Counts {
	var c Counts
	for i := range fs {
		switch fs[i].Kind {
		case pratique.KindSecret:
			c.Secrets++
			continue
		case pratique.KindMisconfiguration:
			c.Misconfigurations++
			continue
		case pratique.KindLicense:
			c.Licenses++
			continue
		case pratique.KindVulnerability:
		}
		if fs[i].Fixed != "" {
			c.Fixable++
		}
		switch fs[i].Severity {
		case pratique.SeverityCritical:
			c.Critical++
		case pratique.SeverityHigh:
			c.High++
		case pratique.SeverityMedium:
			c.Medium++
		case pratique.SeverityLow:
			c.Low++
		default:
			c.Unknown++
		}
	}
	return c
}

// words end the text about a scan.
func (s *Scanned) words() string {
	var b strings.Builder
	if s.State == pratique.StateIncomplete {
		b.WriteString(", not completely")
	}
	c := s.Findings
	sep := ": "
	for _, n := range []struct {
		count int
		word  string
	}{
		{c.Critical, "critical"}, {c.High, "high"}, {c.Medium, "medium"}, {c.Low, "low"}, {c.Unknown, "unknown"}, {c.Secrets, "secrets"},
		{c.Misconfigurations, "misconfigurations"},
	} {
		if n.count > 0 {
			fmt.Fprintf(&b, "%s%d %s", sep, n.count, n.word)
			sep = ", "
		}
	}
	if sep == ": " {
		b.WriteString(": nothing found")
	}
	if s.Changes != nil {
		b.WriteString("; " + kindWords(s.Changes.Kinds))
	}
	return b.String()
}

// maxChanges are told of one image.
const maxChanges = 20

// changesSince are those that an image's mark does not know yet, of cs, the newest
// first. Nil when there are none, or when the image was never seen: what there is is
// no news. Of changes of one time some may come later than others: then all of that
// time are told again.
func changesSince(prev *imageMark, cs []pratique.FindingChange) *Changes {
	if prev == nil || len(cs) == 0 {
		return nil
	}
	again := countAt(cs, prev.Seen) > prev.SeenN
	n := 0
	for n < len(cs) && (cs[n].At.After(prev.Seen) || again && cs[n].At.Equal(prev.Seen)) {
		n++
	}
	if n == 0 {
		return nil
	}
	out := &Changes{Total: n, Kinds: make(map[pratique.ChangeKind]int, 5)}
	for i := range cs[:n] {
		out.Kinds[cs[i].Kind]++
	}
	out.List = worst(cs[:n])
	return out
}

// countAt is how many changes are of a time.
func countAt(cs []pratique.FindingChange, at time.Time) (n int) {
	for i := range cs {
		if cs[i].At.Equal(at) {
			n++
		}
	}
	return n
}

// worst are the changes to be told: those that appeared first, then by severity.
func worst(cs []pratique.FindingChange) []pratique.FindingChange {
	cs = slices.Clone(cs)
	slices.SortStableFunc(cs, func(a, b pratique.FindingChange) int {
		appeared := func(c pratique.FindingChange) int {
			if c.Kind == pratique.ChangeAppeared {
				return 1
			}
			return 0
		}
		return cmp.Or(appeared(b)-appeared(a), b.Severity.Rank()-a.Severity.Rank())
	})
	return cs[:min(len(cs), maxChanges)]
}

// words end the text about a database.
func (e *Effect) words() string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf("; %d components were matched again, %d of them changed, in %d images: %s; %d images are refused now that were served, %d are served again",
		e.Components, e.Changed, e.Images, kindWords(e.Findings), e.Refused, e.Admitted)
}
