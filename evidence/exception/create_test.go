package exception_test

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence/exception"
)

// asked is an exception that nothing is wrong with.
func asked() pratique.Exception {
	return pratique.Exception{
		Finding: "CVE-2024-1234", Repository: "docker.io/library/nginx", Reason: "not reachable", Author: "ann",
		Expires: start.Add(14 * 24 * time.Hour),
	}
}

func TestCreate(t *testing.T) {
	f := setup(t, database(t))
	f.reload()
	ask := asked()
	ask.Finding = " cve-2024-1234\n"
	ask.ID, ask.Source, ask.RevokedBy, ask.Created = "ex-mine", "file:x", "somebody", start.Add(-time.Hour)
	ask.Revoked = start
	got, err := f.Create(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^ex-[0-9a-f]{8}$`).MatchString(got.ID) {
		t.Errorf("id %q", got.ID)
	}
	want := asked()
	want.ID, want.Source, want.Created = got.ID, "api", start
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	all, err := f.List(t.Context())
	if d := cmp.Diff([]pratique.Exception{want}, all); d != "" || err != nil {
		t.Error(d, err)
	}
}

// TestCreateRefuses: what would never lift anything, or too much, or what nobody
// can answer for.
func TestCreateRefuses(t *testing.T) {
	f := setup(t, database(t))
	for _, tc := range []struct {
		name string
		set  func(*pratique.Exception)
		want string
	}{
		{"nothing lifted", func(x *pratique.Exception) { x.Finding = "" }, "say what it lifts"},
		{"finding and rule", func(x *pratique.Exception) { x.Rule = "default/x" }, "not both"},
		{"rule without policy", func(x *pratique.Exception) { x.Finding, x.Rule = "", "fixable" }, "want POLICY/RULE"},
		{"rule without name", func(x *pratique.Exception) { x.Finding, x.Rule = "", "default/" }, "want POLICY/RULE"},
		{"rule with package", func(x *pratique.Exception) { x.Finding, x.Rule, x.Package = "", "default/x", "openssl" }, "a rule has none"},
		{"guard", func(x *pratique.Exception) { x.Finding, x.Rule = "", "default/unscanned" }, `action: exempt, lifts: [unscanned]`},
		{"guard, incomplete", func(x *pratique.Exception) { x.Finding, x.Rule = "", "strict/incomplete" }, `policy "strict"`},
		{"guard, in other letters", func(x *pratique.Exception) { x.Finding, x.Rule = "", "default/SCANFAILED" }, "nothing unscanned is served"},
		{"nowhere", func(x *pratique.Exception) { x.Repository = "" }, "say where it holds"},
		{"everywhere by blanks", func(x *pratique.Exception) { x.Repository = "  " }, "say where it holds"},
		{"no digest", func(x *pratique.Exception) { x.Digest = "latest" }, `invalid digest "latest"`},
		{"short digest", func(x *pratique.Exception) { x.Digest = "sha256:9f86d081884c" }, "invalid digest"},
		{"repository without upstream", func(x *pratique.Exception) { x.Repository = "nginx" }, "want UPSTREAM/REPOSITORY, for example docker.io/library/nginx"},
		{"one star for everything", func(x *pratique.Exception) { x.Repository = "*" }, "want UPSTREAM/REPOSITORY"},
		{"repository with a tag", func(x *pratique.Exception) { x.Repository = "docker.io/library/nginx:1.27" }, "without tag and digest"},
		{"repository with a digest", func(x *pratique.Exception) { x.Repository = "docker.io/library/nginx@sha256:00" }, "without tag and digest"},
		{"an upstream's port", func(x *pratique.Exception) { x.Repository = "10.0.0.5:5000/team/*" }, "by its key in the configuration, which has no port"},
		{"repository with capitals", func(x *pratique.Exception) { x.Repository = "docker.io/Library/nginx" }, "no capitals"},
		{"Cyrillic letter in a package", func(x *pratique.Exception) { x.Package = "оpenssl" }, "U+043E"},
		{"hyphen that is none", func(x *pratique.Exception) { x.Finding = "CVE‑2024‑1234" }, "U+2011"},
		{"nothing visible in a finding", func(x *pratique.Exception) { x.Finding = "CVE-2024-1234\u200b" }, "U+200B"},
		{"invisible character in a repository", func(x *pratique.Exception) { x.Repository = "docker.io/library/nginx\u2060" }, "U+2060"},
		{"text that reads backwards", func(x *pratique.Exception) { x.Reason = "safe \u202eton" }, "U+202E"},
		{"two lines", func(x *pratique.Exception) { x.Reason = "safe\nexception ex-1 created" }, "one line"},
		{"no UTF-8", func(x *pratique.Exception) { x.Author = "a\xff" }, "not UTF-8"},
		{"no reason", func(x *pratique.Exception) { x.Reason = " \t" }, "say why"},
		{"the reason of the refusal's command", func(x *pratique.Exception) { x.Reason = "…" }, `reason "…" says nothing`},
		{"no author", func(x *pratique.Exception) { x.Author = "" }, "say who"},
		{"long", func(x *pratique.Exception) { x.Ticket = strings.Repeat("x", 1001) }, "at most 1000 bytes"},
		{"no end", func(x *pratique.Exception) { x.Expires = time.Time{} }, "expires is required"},
		{"over", func(x *pratique.Exception) { x.Expires = start }, "before it begins"},
		{"too long", func(x *pratique.Exception) { x.Expires = start.Add(90*24*time.Hour + time.Second) }, "at most 90d is allowed here, until 2027-02-21T12:00:00Z"},
		{"for ever", func(x *pratique.Exception) {
			x.Expires = time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -5*3600))
		}, "not in the years 2000 to 2199"},
		{"half a platform", func(x *pratique.Exception) { x.Platform = &pratique.Platform{OS: "linux"} }, "platform"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ask := asked()
			tc.set(&ask)
			got, err := f.Create(t.Context(), ask)
			if !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%+v, error %v, want one wrapping ErrInvalid with %q", got, err, tc.want)
			}
		})
	}
	if all, err := f.List(t.Context()); len(all) > 0 || err != nil {
		t.Errorf("kept all the same: %v, %v", all, err)
	}
}

// TestCreateAccepts both sides of the limits.
func TestCreateAccepts(t *testing.T) {
	f := setup(t, database(t))
	for name, set := range map[string]func(*pratique.Exception){
		"everything, said so": func(x *pratique.Exception) { x.Repository = "**" },
		"an upstream":         func(x *pratique.Exception) { x.Repository = "ghcr.io/**" },
		"as long as allowed":  func(x *pratique.Exception) { x.Expires = start.Add(90 * 24 * time.Hour) },
		"one image":           func(x *pratique.Exception) { x.Repository, x.Digest = "", digest.FromString("x") },
		"a platform":          func(x *pratique.Exception) { x.Platform = &pratique.Platform{OS: "linux", Architecture: "arm64"} },
		"a purl":              func(x *pratique.Exception) { x.Package = "pkg:npm/%40angular/core@1.2.3" },
		"the default":         func(x *pratique.Exception) { x.Finding, x.Rule = "", "strict/default" },
		"words of any script": func(x *pratique.Exception) { x.Reason, x.Author = "ждём исправления", "Åsa" },
	} {
		t.Run(name, func(t *testing.T) {
			ask := asked()
			set(&ask)
			if _, err := f.Create(t.Context(), ask); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRevoke(t *testing.T) {
	f := setup(t, database(t))
	x, err := f.Create(t.Context(), asked())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ id, by, why, want string }{
		{"ex-00000000", "ben", "fixed", "not found"},
		{x.ID, "", "fixed", "say who revokes it"},
		{x.ID, "ben", " ", "say why it is revoked"},
		{x.ID, "ben", "a\nb", "U+000A"},
		{x.ID, "file:" + "x.yaml", "fixed", "nobody is called"},
	} {
		if _, err := f.Revoke(t.Context(), tc.id, tc.by, tc.why); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	f.clock.Add(time.Hour)
	for range 2 { // the second changes nothing
		got, err := f.Revoke(t.Context(), x.ID, "ben", "fixed")
		want := x
		want.Revoked, want.RevokedBy, want.RevokedWhy = start.Add(time.Hour), "ben", "fixed"
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Error(d, err)
		}
		f.clock.Add(time.Hour)
	}
	if got, err := f.Revoke(t.Context(), x.ID, "eve", "it was me"); err != nil || got.RevokedBy != "ben" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestStampMovesAroundTheChange: who takes the stamp, reads, and keeps what it read
// for as long as the stamp is the same never keeps what was before a change.
func TestStampMovesAroundTheChange(t *testing.T) {
	f := setup(t, database(t))
	before := f.Stamp()
	if f.Current() != nil {
		t.Error("there is something before the first reading")
	}
	f.reload()
	if f.Current() == nil || f.Stamp() == before || f.changes != 1 {
		t.Errorf("after the first reading: %v, %d, %d changes", f.Current(), f.Stamp(), f.changes)
	}
	step := func(what string, changes bool, do func()) {
		t.Helper()
		stamp, current, n := f.Stamp(), f.Current(), f.changes
		do()
		if (f.Stamp() != stamp) != changes || (f.Current() != current) != changes || (f.changes > n) != changes {
			t.Errorf("%s: stamp %d → %d, %d changes told", what, stamp, f.Stamp(), f.changes-n)
		}
	}
	var x pratique.Exception
	step("created", true, func() { x, _ = f.Create(t.Context(), asked()) })
	step("read again", false, f.reload)
	step("refused", false, func() { _, _ = f.Create(t.Context(), pratique.Exception{}) })
	step("revoked", true, func() { _, _ = f.Revoke(t.Context(), x.ID, "ben", "fixed") })
	other := exception.New(f.store, f.cfg) // another process
	if _, err := other.Create(t.Context(), asked()); err != nil {
		t.Fatal(err)
	}
	step("created by another process", true, f.reload)

	// The stamp has moved by the time that OnChange tells of the change, and once
	// more than before it: nobody can have read the old with the last stamp.
	cfg := f.cfg
	var seen []uint64
	var watched *exception.Exceptions
	cfg.OnChange = func() { seen = append(seen, watched.Stamp()) }
	watched = exception.New(f.store, cfg)
	if err := watched.Reload(t.Context()); err != nil || len(seen) != 1 || seen[0] != watched.Stamp() || seen[0] < 2 {
		t.Errorf("%v, stamps %v", err, seen)
	}
}

// TestFailedWrites: what the store did not confirm is not in force, and what it
// did all the same is found by the next reading.
func TestFailedWrites(t *testing.T) {
	for _, persisted := range []bool{false, true} {
		t.Run(fmt.Sprintf("persisted=%t", persisted), func(t *testing.T) {
			db := &failing{kept: database(t), n: 1, persisted: persisted}
			f := setup(t, db)
			f.reload()
			current := f.Current()
			if _, err := f.Create(t.Context(), asked()); !errors.Is(err, errDisk) {
				t.Fatal(err)
			}
			if f.Current() != current {
				t.Error("something is in force")
			}
			f.reload()
			if got := f.Current() != current; got != persisted {
				t.Errorf("after reading again in force: %t", got)
			}
		})
	}
}

// TestConcurrency: nothing is lost, whoever writes at once.
func TestConcurrency(t *testing.T) {
	db := database(t)
	f := setup(t, db)
	f.cfg.OnChange = nil
	f.restart()
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			on := f.Exceptions
			if i%2 == 1 {
				on = exception.New(db, exception.Config{Now: f.clock.Now})
			}
			ask := asked()
			ask.Ticket = fmt.Sprint(i)
			x, err := on.Create(t.Context(), ask)
			if err != nil {
				t.Error(err)
				return
			}
			if i%4 < 2 {
				if _, err := on.Revoke(t.Context(), x.ID, "ben", "fixed"); err != nil {
					t.Error(err)
				}
			}
			if err := f.Reload(t.Context()); err != nil {
				t.Error(err)
			}
			_, _ = on.Current(), on.Stamp()
		}()
	}
	wg.Wait()
	all, err := f.List(t.Context())
	if err != nil || len(all) != 40 || len(f.ids()) != 20 {
		t.Errorf("%d, %d in force, %v; want 40 and 20", len(all), len(f.ids()), err)
	}
}

// TestHangingFile: a file that does not answer holds up who reads it, and nobody
// else.
func TestHangingFile(t *testing.T) {
	f := setup(t, database(t), "pipe")
	if err := syscall.Mkfifo(f.cfg.Files[0], 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() { read <- f.Reload(t.Context()) }()
	x, err := f.Create(t.Context(), asked())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Revoke(t.Context(), x.ID, "ben", "fixed"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.cfg.Files[0], []byte("exceptions: []\n"), 0o600); err != nil { // and it answers
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
}
