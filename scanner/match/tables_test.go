package match_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aquasecurity/trivy/pkg/clock"
	trivyospkg "github.com/aquasecurity/trivy/pkg/detector/ospkg"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/licensing/expression"
	"github.com/aquasecurity/trivy/pkg/types"

	"pratique"
	"pratique/scanner/match"
)

// releases are of every family that has an end in Trivy's tables, and some that
// have none.
func releases() []pratique.OS {
	var out []pratique.OS
	for family, names := range map[string][]string{
		"alpine": {"3.2", "3.9.2", "3.20.1", "edge", "99"}, "debian": {"7", "8.11", "9", "10", "11", "12.5", "13", "99"},
		"ubuntu": {"12.04", "14.04", "18.04", "20.04", "22.04", "23.10", "24.04"}, "redhat": {"5", "6.10", "7.9", "8", "9.4"}, "centos": {"6", "7", "8"},
		"alma": {"8.4", "9.1"}, "rocky": {"8", "9"}, "amazon": {"1", "2", "2022", "2023"}, "oracle": {"5", "7", "8"}, "photon": {"1.0", "3.0", "5.0"},
		"opensuse-leap": {"42.3", "15.5"}, "sles": {"11.4", "12.5", "15.3"}, "fedora": {"40"}, "wolfi": {"1"}, "azurelinux": {"3.0"}, "plan9": {"4"}, "cbl-mariner": {"2.0"},
	} {
		for _, n := range names {
			out = append(out, pratique.OS{Family: family, Name: n})
		}
	}
	return append(out, pratique.OS{Family: "ubuntu", Name: "18.04", Extended: true}, pratique.OS{Family: "alpine", Name: "3.9.2", Supplier: "rapidfort"}, pratique.OS{})
}

// TestEOLAt: the end is the second at which Trivy changes its answer, and EOL
// says what Trivy says, before and after.
func TestEOLAt(t *testing.T) {
	known := 0
	for _, os := range releases() {
		_, at := match.New(match.Config{}).EOL(t.Context(), os)
		moments := []time.Time{time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC)}
		if !at.IsZero() {
			known++
			moments = append(moments, at.Add(-time.Nanosecond), at, at.Add(time.Hour))
		}
		for _, now := range moments {
			m := match.New(match.Config{Now: func() time.Time { return now }})
			want := trivyEOL(clock.With(t.Context(), now), os)
			for range 2 { // the second time from memory
				if past, again := m.EOL(t.Context(), os); past != want || past != (!at.IsZero() && !now.Before(at)) || !again.Equal(at) {
					t.Errorf("%+v at %s: past %v, ends %s; trivy says %v, ends %s", os, now, past, again, want, at)
				}
			}
		}
	}
	if known < 25 {
		t.Errorf("only %d releases with an end", known)
	}
	for _, c := range []struct {
		os   pratique.OS
		want string
	}{
		{pratique.OS{Family: "debian", Name: "11.11"}, "2026-08-14T23:59:59Z"},
		{pratique.OS{Family: "debian", Name: "99"}, "0001-01-01T00:00:00Z"},
		{pratique.OS{Family: "alpine", Name: "edge"}, "0001-01-01T00:00:00Z"}, // year 9999
		{pratique.OS{Family: "plan9", Name: "4"}, "0001-01-01T00:00:00Z"},
	} {
		if _, at := match.New(match.Config{}).EOL(t.Context(), c.os); at.Format(time.RFC3339) != c.want {
			t.Errorf("%+v ends %s, want %s", c.os, at.Format(time.RFC3339), c.want)
		}
	}
}

// trivyEOL asks Trivy itself.
func trivyEOL(ctx context.Context, os pratique.OS) bool {
	target := types.ScanTarget{OS: ftypes.OS{Family: ftypes.OSType(os.Family), Name: os.Name, Extended: os.Extended}}
	if os.Supplier != "" {
		target.OS.Supplier = ftypes.SupplierRapidFort
	}
	if os.Extended {
		target.OS.Name += "-ESM"
	}
	d, err := trivyospkg.NewDetector(target)
	if err != nil {
		return false
	}
	_, eol, err := d.Detect(ctx)
	return err == nil && eol
}

func TestLicense(t *testing.T) {
	m := match.New(match.Config{})
	long := strings.Repeat("(", 1<<20)
	tests := []struct {
		license, name, category string
		severity                pratique.Severity
	}{
		{"MIT", "MIT", "notice", pratique.SeverityLow},
		{"GPL-3.0-or-later", "GPL-3.0-or-later", "restricted", pratique.SeverityHigh},
		{"AGPL-3.0", "AGPL-3.0", "forbidden", pratique.SeverityCritical},
		{"MPL-2.0", "MPL-2.0", "reciprocal", pratique.SeverityMedium},
		{"CC0-1.0", "CC0-1.0", "unencumbered", pratique.SeverityLow},
		{"MIT OR GPL-3.0-only", "MIT OR GPL-3.0-only", "notice", pratique.SeverityLow},
		{"MIT AND GPL-3.0-only", "MIT AND GPL-3.0-only", "restricted", pratique.SeverityHigh},
		{"MIT AND Nobody-Knows", "MIT AND Nobody-Knows", "unknown", pratique.SeverityUnknown},
		{"Nobody-Knows", "Nobody-Knows", "unknown", pratique.SeverityUnknown},
		{"", "", "unknown", pratique.SeverityUnknown},
		{"((((", "((((", "unknown", pratique.SeverityUnknown},
		{long, long[:1024], "unknown", pratique.SeverityUnknown},
		{strings.Repeat("(", 500) + "MIT" + strings.Repeat(")", 500), strings.Repeat("(", 500) + "MIT" + strings.Repeat(")", 500), "notice", pratique.SeverityLow},
	}
	for _, tt := range tests {
		for range 2 { // the second time from memory
			name, category, severity := m.License(tt.license)
			if name != tt.name || category != tt.category || severity != tt.severity {
				t.Errorf("%.40q: %.40q, %q, %q; want %.40q, %q, %q", tt.license, name, category, severity, tt.name, tt.category, tt.severity)
			}
		}
	}
	if name, category, _ := m.License("text://Permission is granted " + long); name != "CUSTOM License: Permission is granted..." || category != "unknown" {
		t.Errorf("a text: %.60q (%d bytes), %s", name, len(name), category)
	}
}

// TestLicenseIsStable: a license has one category, however often it is asked
// for, in whichever process: Trivy walks a map to find it.
func TestLicenseIsStable(t *testing.T) {
	lists := [][]string{
		expression.ForbiddenLicenses, expression.RestrictedLicenses, expression.ReciprocalLicenses,
		expression.NoticeLicenses, expression.PermissiveLicenses, expression.UnencumberedLicenses,
	}
	for _, list := range lists {
		for _, l := range list {
			for _, form := range []string{l, l + "+", l + "-only", l + "-or-later"} {
				first := ""
				for range 8 {
					_, category, severity := match.New(match.Config{}).License(form)
					if got := fmt.Sprint(category, severity); first == "" {
						first = got
					} else if got != first {
						t.Fatalf("%s is %s and %s", form, first, got)
					}
				}
			}
		}
	}
}

// TestTablesAreBounded: images choose the words.
func TestTablesAreBounded(t *testing.T) {
	m := match.New(match.Config{})
	for i := range 5000 {
		m.License(fmt.Sprint("license-", i))
	}
	if n := match.Remembered(m); n > 4096 {
		t.Errorf("%d licenses are remembered", n)
	}
}
