package exception_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/evidence/exception"
	"pratique/internal/sqlite"
)

// write writes a file of the fixture.
func (f *fixture) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

const (
	one   = "  - {finding: CVE-2024-0001, repository: docker.io/library/nginx, reason: r, author: ann, expires: 2026-12-31}\n"
	two   = "  - {rule: default/end-of-life, repository: 'lab/**', reason: r, author: ann, expires: 2026-12-31}\n"
	later = "  - {finding: CVE-2024-0001, repository: docker.io/library/nginx, reason: r, author: ann, expires: 2027-01-31}\n"
)

func file(entries ...string) string { return "exceptions:\n" + strings.Join(entries, "") }

const (
	lineOne   = "CVE-2024-0001 docker.io/library/nginx until 2027-01-01" // the end of the last day is the next one's beginning
	lineTwo   = "default/end-of-life lab/** until 2027-01-01"
	lineLater = "CVE-2024-0001 docker.io/library/nginx until 2027-02-01"
	gone      = ", revoked by file:a.yaml: taken out of the file"
)

// TestFollowsAFile through its life.
func TestFollowsAFile(t *testing.T) {
	f := setup(t, database(t), "a.yaml")
	for _, step := range []struct {
		what, text string
		want       []string
	}{
		{"two entries", file(one, two), []string{lineOne, lineTwo}},
		{"in another order, with a comment", "# mine\n" + file(two, one), []string{lineOne, lineTwo}},
		{"one leaves", file(one), []string{lineOne, lineTwo + gone}},
		{"one is changed", file(later), []string{lineOne + gone, lineLater, lineTwo + gone}},
		{"changed back: a new one, the old stays in the history", file(one), []string{lineOne, lineOne + gone, lineLater + gone, lineTwo + gone}},
		{"none", "exceptions: []\n", []string{lineOne + gone, lineOne + gone, lineLater + gone, lineTwo + gone}},
	} {
		f.write("a.yaml", step.text)
		f.clock.Add(time.Minute)
		for _, again := range []string{"", ", read again", ", after a restart"} {
			if strings.Contains(again, "restart") {
				f.restart()
			}
			f.reload()
			if d := cmp.Diff(step.want, f.lines()); d != "" {
				t.Fatalf("%s%s (-want +got):\n%s", step.what, again, d)
			}
		}
	}
}

// TestFileIDs are the same wherever and whenever the file is read first, and differ
// by what it says.
func TestFileIDs(t *testing.T) {
	text := file(one, two, later)
	var first []string
	for i := range 2 {
		f := setup(t, database(t))
		t.Chdir(f.dir)
		f.cfg.Files = []string{"a.yaml"}
		f.clock.Add(time.Duration(i) * time.Hour)
		f.write("a.yaml", text)
		f.restart()
		f.reload()
		if i == 0 {
			first = f.ids()
			continue
		}
		if d := cmp.Diff(first, f.ids()); d != "" || len(first) != 3 {
			t.Error(first, d)
		}
	}
}

// TestBrokenFilesChangeNothing, in any file, and say where.
func TestBrokenFilesChangeNothing(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"empty", "", "a.yaml: no key `exceptions`"},
		{"comments", "# later\n", "a.yaml: no key `exceptions`"},
		{"cut", "exceptions:\n  - {finding: CVE-2024-0001, repo", "a.yaml:"},
		{"no value", "exceptions:\n", "no value"},
		{"misspelt key", file(one, "  - {finding: CVE-2024-0002, repositry: lab/x, reason: r, author: a, expires: 2026-12-31}\n"), "a.yaml:3:30: exceptions[1]: unknown key \"repositry\"; did you mean `repository`?"},
		{"not whole", file(one, "  - {finding: CVE-2024-0002, reason: r, author: a, expires: 2026-12-31}\n"), "a.yaml:3:5: invalid exception: say where it holds"},
		{"no end", file(one, "  - {finding: CVE-2024-0002, repository: lab/x, reason: r, author: a}\n"), "a.yaml:3:5: invalid exception: say when it ends"},
		{"no such end", file("  - {finding: CVE-2024-0002, repository: lab/x, reason: r, author: a, expires: 2026-13-31}\n"), "want a date such as 2026-12-31"},
		{"a duration", file("  - {finding: CVE-2024-0002, repository: lab/x, reason: r, author: a, expires: 14d}\n"), "a.yaml:2:80: exceptions[0].expires: want a date"},
		{"too long", file(one, "  - {finding: CVE-2024-0002, repository: lab/x, reason: r, author: a, expires: 2027-02-22}\n"), "a.yaml:3:5: invalid exception: it would last until 2027-02-23T00:00:00Z; at most 90d"},
		{"too long since it began", file("  - {finding: CVE-2024-0002, repository: lab/x, reason: r, author: a, created: 2026-01-01, expires: 2026-12-31}\n"), "at most 90d is allowed here, until 2026-04-01"},
		{"over before it begins", file("  - {finding: CVE-2024-0002, repository: lab/x, reason: r, author: a, created: 2027-01-02, expires: 2026-12-31}\n"), "before it begins"},
		{"a guard", file("  - {rule: default/unscanned, repository: lab/x, reason: r, author: a, expires: 2026-12-31}\n"), "a.yaml:2:5: invalid exception: default/unscanned cannot be lifted"},
		{"twice", file(one, two, one), "a.yaml:4:5: invalid exception: the same as the one in line 2"},
		{"no platform", file("  - {finding: CVE-2024-0002, platform: amd64, repository: lab/x, reason: r, author: a, expires: 2026-12-31}\n"), "want os/architecture"},
		{"a year that no clock has", file("  - {finding: CVE-2024-0002, repository: lab/x, reason: r, author: a, expires: 9999-12-31}\n"), "not in the years 2000 to 2199"},
		{"a year before all clocks", file("  - {finding: CVE-2024-0002, repository: lab/x, reason: r, author: a, created: 0001-01-01, expires: 2026-12-31}\n"), "not in the years"},
		{"every mistake", file("  - {repository: lab/x, author: a, expires: 2026-12-31}\n"), "a.yaml:2:5: invalid exception: say why"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := setup(t, &memory{}, "b.yaml", "a.yaml")
			f.write("b.yaml", file(two))
			f.write("a.yaml", file(one))
			f.reload()
			before := f.lines()
			f.write("b.yaml", "exceptions: []\n")
			f.write("a.yaml", tc.text)
			current := f.Current()
			for range 2 {
				err := f.Reload(t.Context())
				if !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %v, want one wrapping ErrInvalid with %q", err, tc.want)
				}
				if d := cmp.Diff(before, f.lines()); d != "" || f.Current() != current {
					t.Errorf("something changed: %s", d)
				}
			}
			err := exception.Check(f.cfg.Files, f.cfg.MaxDuration, f.clock.Now())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Check: %v", err)
			}
			// Once it is mended the other file's edit holds as well.
			f.write("a.yaml", file(one))
			f.reload()
			if d := cmp.Diff([]string{lineOne, lineTwo + ", revoked by file:b.yaml: taken out of the file"}, f.lines()); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestMissingFile is an error like a broken one: a mount that is late takes nobody's
// exception back.
func TestMissingFile(t *testing.T) {
	f := setup(t, database(t), "a.yaml")
	f.write("a.yaml", file(one))
	f.reload()
	if err := os.Remove(f.cfg.Files[0]); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Reload(t.Context()); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		if d := cmp.Diff([]string{lineOne}, f.lines()); d != "" {
			t.Error(d)
		}
		f.restart()
	}
	// At a start without the file what the store holds is in force all the same.
	if err := f.Reload(t.Context()); err == nil || f.Current() == nil {
		t.Errorf("%v, %v", err, f.Current())
	}
}

// TestRevokedByHand: what a person took back does not come again because a file
// still has it.
func TestRevokedByHand(t *testing.T) {
	f := setup(t, database(t), "a.yaml")
	f.write("a.yaml", file(one))
	f.reload()
	if _, err := f.Revoke(t.Context(), f.ids()[0], "ben", "wrong"); err != nil {
		t.Fatal(err)
	}
	by := lineOne + ", revoked by ben: wrong"
	for _, step := range []struct {
		text string
		want []string
	}{
		{file(one), []string{by}},
		{file(one) + "# touched\n", []string{by}},
		{"exceptions: []\n", []string{by}},
		{file(one), []string{by}},
		{file(later), []string{by, lineLater}},
	} {
		f.write("a.yaml", step.text)
		f.reload()
		f.restart()
		f.reload()
		if d := cmp.Diff(step.want, f.lines()); d != "" {
			t.Fatalf("%s: %s", step.text, d)
		}
	}
}

// TestTimesInFiles: what is over is no mistake, what begins later waits, and no edit
// makes an exception last longer than allowed since it was first seen.
func TestTimesInFiles(t *testing.T) {
	f := setup(t, database(t), "a.yaml")
	over := "  - {finding: CVE-2024-0003, repository: lab/x, reason: r, author: a, expires: 2026-11-22}\n"
	pending := "  - {finding: CVE-2024-0004, repository: lab/x, reason: r, author: a, created: 2026-12-01, expires: 2026-12-02T12:00:00+01:00}\n"
	f.write("a.yaml", file(over, pending, one))
	f.reload()
	if d := cmp.Diff([]string{lineOne, "CVE-2024-0004 lab/x until 2026-12-02"}, f.lines()); d != "" {
		t.Error(d)
	}
	all, err := f.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range all {
		began := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
		switch {
		case x.Finding == "CVE-2024-0004" && (x.Active(start) || !x.Active(began) || x.Active(began.Add(35*time.Hour))):
			t.Errorf("%+v: begins or ends at another time", x)
		case x.Finding == "CVE-2024-0001" && !x.Created.Equal(start):
			t.Errorf("%+v: began when it was not seen", x)
		}
	}
	// Months later: the end of an entry is not moved by taking it out for a moment.
	f.write("a.yaml", "exceptions: []\n")
	f.reload()
	f.cfg.MaxDuration = 30 * 24 * time.Hour
	f.clock.Add(20 * 24 * time.Hour)
	f.restart()
	f.write("a.yaml", file(one)) // 18 days from now, 38 since it was first seen
	if err := f.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "at most 30d") {
		t.Error(err)
	}
	// One that is there already when the limit is lowered stays as it was made.
	g := setup(t, database(t), "a.yaml")
	g.write("a.yaml", file(one))
	g.reload()
	g.cfg.MaxDuration = time.Hour
	g.restart()
	g.reload()
	if d := cmp.Diff([]string{lineOne}, g.lines()); d != "" {
		t.Error(d)
	}
}

// TestUnconfiguredFile: exceptions of a file that nobody reads any more end.
func TestUnconfiguredFile(t *testing.T) {
	f := setup(t, database(t), "a.yaml", "b.yaml")
	f.write("a.yaml", file(one))
	f.write("b.yaml", file(one))
	f.reload()
	if d := cmp.Diff([]string{lineOne, lineOne}, f.lines()); d != "" { // each file answers for its own
		t.Error(d)
	}
	api, err := f.Create(t.Context(), asked())
	if err != nil {
		t.Fatal(err)
	}
	f.cfg.Files = f.cfg.Files[:1]
	f.restart()
	f.reload()
	want := []string{lineOne, lineOne + ", revoked by file:b.yaml: its file is not configured any more",
		"CVE-2024-1234 docker.io/library/nginx until " + api.Expires.Format(time.DateOnly)}
	if d := cmp.Diff(want, f.lines()); d != "" {
		t.Error(d)
	}
}

// TestReplicasDoNotOverruleEachOther: while a new file arrives at one before the
// other, each acts on what it reads once.
func TestReplicasDoNotOverruleEachOther(t *testing.T) {
	db := database(t)
	a := setup(t, db)
	a.cfg.Files = []string{"a.yaml"} // the same name in both, in a directory of each
	b := setup(t, db)
	b.cfg.Files = a.cfg.Files
	a.restart()
	b.restart()
	in := func(f *fixture, do func()) {
		t.Helper()
		t.Chdir(f.dir)
		do()
	}
	a.write("a.yaml", file(one))
	b.write("a.yaml", file(one))
	in(a, a.reload)
	in(b, b.reload)
	a.write("a.yaml", file(later))
	for range 3 {
		in(a, a.reload)
		in(b, b.reload)
	}
	want := []string{lineOne + gone, lineLater}
	if d := cmp.Diff(want, a.lines()); d != "" {
		t.Error(d)
	}
	b.write("a.yaml", file(later))
	in(b, b.reload)
	if d := cmp.Diff(want, b.lines()); d != "" {
		t.Error(d)
	}
}

// TestCrashAtEveryWrite: whatever write fails, done or not, nothing that the file
// has is missing afterwards, and the next reading ends what was begun.
func TestCrashAtEveryWrite(t *testing.T) {
	for n := 1; n <= 4; n++ {
		for _, persisted := range []bool{false, true} {
			for _, restart := range []bool{false, true} {
				t.Run(fmt.Sprintf("write %d persisted=%t restart=%t", n, persisted, restart), func(t *testing.T) {
					db := &failing{kept: &memory{}}
					f := setup(t, db, "a.yaml")
					f.write("a.yaml", file(one, two))
					f.reload()
					f.write("a.yaml", file(later, "  - {finding: CVE-2024-0009, repository: lab/x, reason: r, author: a, expires: 2026-12-31}\n"))
					db.n, db.writes = n, 0
					if err := f.Reload(t.Context()); !errors.Is(err, errDisk) {
						t.Fatal(err)
					}
					db.n = 0
					if restart {
						f.restart()
					}
					f.reload()
					f.reload()
					want := []string{lineOne + gone, lineLater, "CVE-2024-0009 lab/x until 2027-01-01", lineTwo + gone}
					if d := cmp.Diff(want, f.lines()); d != "" {
						t.Error(d)
					}
				})
			}
		}
	}
}

// TestSurvivesTheProcess: a real database, closed and opened again.
func TestSurvivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	f := setup(t, db, "a.yaml")
	f.write("a.yaml", file(one))
	f.reload()
	x, err := f.Create(t.Context(), asked())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Revoke(t.Context(), x.ID, "ben", "fixed"); err != nil {
		t.Fatal(err)
	}
	before, err := f.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f.store = reopen(t, path)
	f.restart()
	f.reload()
	after, err := f.List(t.Context())
	if d := cmp.Diff(before, after); d != "" || err != nil {
		t.Error(d, err)
	}
}

// TestShippedExample is what people begin with.
func TestShippedExample(t *testing.T) {
	f := setup(t, database(t))
	f.cfg.Files = []string{"../../configs/exceptions.yaml"}
	if err := exception.Check(f.cfg.Files, f.cfg.MaxDuration, start); err != nil {
		t.Fatal(err)
	}
	f.restart()
	f.reload()
	if got := len(f.ids()); got != 2 {
		t.Errorf("%d exceptions, want the two of the example", got)
	}
}
