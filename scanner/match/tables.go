package match

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/aquasecurity/trivy/pkg/clock"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/licensing"
	"github.com/aquasecurity/trivy/pkg/licensing/expression"

	"pratique"
)

// Dates between which Trivy's end-of-life tables are asked, in Unix seconds: the
// years 1990 and 2200. What they put further away (the year 3000, 9999) says that
// nobody knows.
const (
	firstEOL = 631152000
	lastEOL  = 7258118400
)

// tableEntries bounds what is remembered of Trivy's tables: the questions are
// words of images, and there is no end of those.
const tableEntries = 4096

// table remembers answers that never change while the process runs.
type table[K comparable, V any] struct {
	mu      sync.Mutex
	entries map[K]V
}

func (t *table[K, V]) get(k K) (V, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.entries[k]
	return v, ok
}

func (t *table[K, V]) put(k K, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries == nil || len(t.entries) >= tableEntries {
		t.entries = make(map[K]V)
	}
	t.entries[k] = v
}

// EOL reports whether the OS release is past its end of life now, and when that
// end is; the zero time when Trivy's tables do not know. Such a release counts as
// supported: it can be the newest. It needs no database.
func (m *Matcher) EOL(ctx context.Context, os pratique.OS) (past bool, at time.Time) {
	if !os.Detected() {
		return false, time.Time{}
	}
	at, known := m.ends.get(os)
	if !known {
		var err error
		if at, err = endOfLife(ctx, os); err != nil {
			m.log.WarnContext(ctx, "end of life is not known", "os", os.Family, "release", os.Name, "error", err)
			return false, time.Time{}
		}
		m.ends.put(os, at)
	}
	return !at.IsZero() && !clock.Now(m.withClock(ctx)).Before(at), at
}

// endOfLife finds the second from which on Trivy says that the release is past
// its end of life, by asking at other times: it tells no dates.
func endOfLife(ctx context.Context, os pratique.OS) (_ time.Time, err error) {
	defer catch(&err)()
	g := group{class: pratique.ClassOS, kind: os.Family, name: os.Name, extended: os.Extended, supplier: os.Supplier}
	past := func(seconds int64) (bool, error) {
		_, eol, err := g.scanOS(clock.With(ctx, time.Unix(seconds, 0).UTC()), nil)
		return eol, err
	}
	supported, ended := int64(firstEOL), int64(lastEOL)
	if over, err := past(ended); err != nil || !over {
		return time.Time{}, err
	}
	for ended-supported > 1 {
		middle := supported + (ended-supported)/2
		over, err := past(middle)
		if err != nil {
			return time.Time{}, err
		}
		if over {
			ended = middle
		} else {
			supported = middle
		}
	}
	return time.Unix(ended, 0).UTC(), nil
}

// maxLicense is how many bytes of a license's name or expression are read:
// packages write what they like.
const maxLicense = 1 << 10

// license is how one is classified.
type license struct {
	name, category string
	severity       pratique.Severity
}

// License classifies a license as a package names it (a name, an SPDX
// expression, or the text itself) the way Trivy does by default: the name to
// show, the category, and the severity of that.
func (m *Matcher) License(name string) (shown, category string, severity pratique.Severity) {
	l := license{name: name, category: string(ftypes.CategoryUnknown), severity: pratique.SeverityUnknown}
	if text, ok := strings.CutPrefix(name, licensing.LicenseTextPrefix); ok {
		// By default no category has patterns for texts.
		return licensing.CustomLicensePrefix + ": " + licensing.TrimLicenseText(cut(text)), l.category, l.severity
	}
	if len(name) > maxLicense {
		return cut(name), l.category, l.severity
	}
	if known, ok := m.licenses.get(name); ok {
		return known.name, known.category, known.severity
	}
	if c, s, err := classify(&m.classifier, name); err == nil {
		l.category = string(c)
		if s := pratique.Severity(s); s.Rank() > 0 {
			l.severity = s
		}
	}
	m.licenses.put(name, l)
	return l.name, l.category, l.severity
}

// classify is Trivy's scanner; a panic of its parser is a license nobody knows.
func classify(s *licensing.Scanner, name string) (c ftypes.LicenseCategory, severity string, err error) {
	defer catch(&err)()
	c, severity = s.Scan(name)
	return c, severity, nil
}

// cut shortens a license that is no name.
func cut(text string) string {
	if len(text) > maxLicense {
		return strings.ToValidUTF8(text[:maxLicense], "")
	}
	return text
}

// newClassifier has the categories of the trivy program's defaults. Source:
// trivy's pkg/flag/license_flags.go.
func newClassifier() licensing.Scanner {
	return licensing.NewScanner(map[ftypes.LicenseCategory][]string{
		ftypes.CategoryForbidden:    expression.ForbiddenLicenses,
		ftypes.CategoryRestricted:   expression.RestrictedLicenses,
		ftypes.CategoryReciprocal:   expression.ReciprocalLicenses,
		ftypes.CategoryNotice:       expression.NoticeLicenses,
		ftypes.CategoryPermissive:   expression.PermissiveLicenses,
		ftypes.CategoryUnencumbered: expression.UnencumberedLicenses,
	})
}
