package match

import (
	"context"
	"fmt"
	"time"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"

	"pratique"
)

// Clock returns the keys of what time alone has moved since a time, up to now:
// types of which a release passed a date at which other advisories apply.
//
// One detector looks at the clock: Ubuntu's, which reads the advisories of an
// extended release (ESM) once the release itself has ended, and those of the release
// before. Other ends of life change no match. (Trivy's pkg/detector/ospkg/ubuntu,
// versionFromEolDates; a test looks for other readers of the clock.)
func (m *Matcher) Clock(since, now time.Time) []string {
	if !since.Before(now) {
		return nil
	}
	for _, end := range m.ubuntuEnds() {
		if end.After(since) && !end.After(now) {
			return []string{pratique.TypeKey(string(ftypes.Ubuntu))}
		}
	}
	return nil
}

// ubuntuEnds are the ends of life of all Ubuntu releases that Trivy knows.
func (m *Matcher) ubuntuEnds() []time.Time {
	var out []time.Time
	for year := 4; year <= 99; year++ {
		for _, month := range []string{"04", "06", "10"} { // 6.06 was late
			os := pratique.OS{Family: string(ftypes.Ubuntu), Name: fmt.Sprintf("%d.%s", year, month)}
			if _, at := m.EOL(context.Background(), os); !at.IsZero() {
				out = append(out, at)
			}
		}
	}
	return out
}
