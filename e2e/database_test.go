//go:build e2e

package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// databaseStatus is `pratique db status -o json`.
type databaseStatus struct {
	Database struct{ Digest string }
	Previous string
	Served   struct{ Name, Digest, Database string }
}

// servedDatabase waits until the database in use is served.
func (p *Pratique) servedDatabase(t testing.TB) databaseStatus {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		var st databaseStatus
		r := p.Command(t, "db", "status", "-o", "json")
		if err := json.Unmarshal([]byte(r.stdout), &st); err != nil {
			t.Fatalf("%v: %s", err, r.output)
		}
		if st.Served.Digest != "" && st.Served.Database == st.Database.Digest {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("the database is not served: %s", r.output)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestTrivy: the real trivy command, with nothing but the database that Pratique
// serves, finds in an image what Pratique finds: after an update, after a rollback,
// and with an export in the place of a download.
func TestTrivy(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	img := archived(t, "app-skeleton")
	u.Push(t, img, "demo/app:1.0")
	p := StartPratique(t, u, Options{Database: olderDatabase})

	dir := workdir(t, "trivy")
	file := filepath.Join(dir, "app.tar")
	ref, err := name.NewTag("demo/app:1.0")
	if err == nil {
		err = tarball.WriteToFile(file, ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	trivy := func(cache string, args ...string) []string {
		t.Helper()
		cmd := exec.Command(binary(t, "trivy"), append([]string{"image", "--quiet", "--cache-dir", filepath.Join(dir, cache), "--scanners", "vuln",
			"--format", "json", "--offline-scan", "--skip-java-db-update", "--input", file}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir, "TRIVY_SKIP_VERSION_CHECK=true", "TRIVY_DISABLE_TELEMETRY=true")
		r := run(t, cmd)
		var out struct {
			Results []struct {
				Vulnerabilities []struct{ VulnerabilityID, PkgName string }
			}
		}
		if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || r.exit != 0 {
			t.Fatalf("trivy %s: exit %d, %v\n%s", strings.Join(args, " "), r.exit, err, r.output)
		}
		found := map[string]bool{}
		for _, result := range out.Results {
			for _, v := range result.Vulnerabilities {
				found[v.PkgName+" "+v.VulnerabilityID] = true
			}
		}
		return slices.Sorted(maps.Keys(found))
	}
	pratique := func() []string {
		t.Helper()
		r := p.Command(t, "check", "-o", "json", "--wait", "30s", "docker.io/demo/app:1.0")
		var out struct {
			Report struct {
				Findings []struct{ ID, Kind, Package string }
			}
		}
		if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
			t.Fatalf("%v: %s", err, r.output)
		}
		found := map[string]bool{}
		for _, f := range out.Report.Findings {
			if f.Kind == "vulnerability" {
				found[f.Package+" "+f.ID] = true
			}
		}
		return slices.Sorted(maps.Keys(found))
	}
	from := []string{"--db-repository", p.Registry + "/pratique/trivy-db:2"}
	// same compares the two, once reports have followed the database.
	same := func(what string, got []string) []string {
		t.Helper()
		diff := ""
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			if diff = cmp.Diff(pratique(), got); diff == "" {
				break
			}
		}
		if diff != "" || len(got) == 0 {
			t.Errorf("%s: %d findings of trivy's (-pratique +trivy):\n%s", what, len(got), diff)
		}
		return got
	}

	older := p.servedDatabase(t)
	if older.Served.Name != "pratique/trivy-db:2" {
		t.Errorf("served %+v", older.Served)
	}
	first := same("the older database", trivy("first", from...))
	if r := p.Command(t, "db", "import", filepath.Join(root(t), newerDatabase)); r.exit != 0 {
		t.Fatal(r.output)
	}
	newer := p.servedDatabase(t)
	second := same("the newer database", trivy("second", from...))
	if slices.Equal(first, second) {
		t.Error("both databases know the same of the image")
	}
	// Who resolved the former one before gets it whole.
	if got := trivy("former", "--db-repository", p.Registry+"/pratique/trivy-db@"+older.Served.Digest); !slices.Equal(got, first) {
		t.Errorf("by its digest: %v", got)
	}
	if r := p.Command(t, "db", "rollback"); r.exit != 0 {
		t.Fatal(r.output)
	}
	if st := p.servedDatabase(t); st.Database.Digest != older.Database.Digest || st.Served != older.Served || st.Previous != newer.Database.Digest {
		t.Errorf("rolled back to %+v", st)
	}
	if got := same("rolled back", trivy("third", from...)); !slices.Equal(got, first) {
		t.Errorf("rolled back: %v", got)
	}

	// An export, unpacked where the command keeps its database: no network at all.
	export := filepath.Join(dir, "db.tar.gz")
	if r := p.Command(t, "db", "export", "--which", newer.Database.Digest, export); r.exit != 0 {
		t.Fatal(r.output)
	}
	cache := filepath.Join(dir, "fourth", "db")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	if r := run(t, exec.Command("tar", "-xzf", export, "-C", cache)); r.exit != 0 {
		t.Fatal(r.output)
	}
	if got := trivy("fourth", "--skip-db-update"); !slices.Equal(got, second) {
		t.Errorf("with an export: %v", got)
	}
}
