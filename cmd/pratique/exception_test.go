package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence/exception"
	"pratique/internal/sqlite"
	"pratique/policy"
	"pratique/store"
	"pratique/web"
)

// excepting is a server with real exceptions, a real policy and three images with
// one critical vulnerability each.
type excepting struct {
	*exception.Exceptions
	policies *policy.Set
	known    []store.Known
}

// nginxIndex is an index whose one child is the first image.
var nginxIndex = digest.FromString("index")

func startExcepting(t *testing.T) string {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s := &excepting{Exceptions: exception.New(db, exception.Config{MaxDuration: 365 * 24 * time.Hour})}
	s.policies, err = policy.Load(policy.File{Name: "default.yaml", Data: []byte(
		"name: default\ndefault: allow\nrules: [{name: critical, vulnerability: {severity: CRITICAL}, action: deny}]\n")})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"docker.io/library/nginx:1.27", "docker.io/library/nginx-unprivileged:1.27", "lab/app:1"} {
		ref, err := pratique.ParseRef(name)
		if err != nil {
			t.Fatal(err)
		}
		s.known = append(s.known, store.Known{Ref: ref, Image: pratique.Image{Digest: digest.FromString(name), Kind: pratique.KindImage}})
	}
	srv := httptest.NewServer(web.New(web.Config{Gate: s, Catalog: s, Upstreams: &fakeServer{}, Exceptions: s, Spool: t.TempDir()}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func (s *excepting) Images(context.Context) iter.Seq2[store.Known, error] {
	return func(yield func(store.Known, error) bool) {
		for _, k := range s.known {
			if !yield(k, nil) {
				return
			}
		}
	}
}

func (s *excepting) Standing(_ context.Context, ref pratique.Ref, img pratique.Image) (pratique.Decision, error) {
	r := pratique.Report{Image: img.Digest, State: pratique.StateScanned, ScannedAt: scannedAt, Findings: []pratique.Finding{
		{ID: "CVE-2026-0001", Kind: pratique.KindVulnerability, Package: "openssl", Installed: "1", Severity: pratique.SeverityCritical}}}
	v := s.policies.Decide(policy.Facts{Ref: ref, Image: img, Report: r, Now: time.Now(), Exceptions: s.Current()})
	return pratique.Decision{Ref: ref, Image: img, Report: r, Verdict: v}, nil
}

func (s *excepting) Check(ctx context.Context, ref pratique.Ref, _ netip.Addr, _ time.Duration) (pratique.Decision, error) {
	if ref.Digest == nginxIndex {
		child, err := s.Standing(ctx, ref, s.known[0].Image)
		return pratique.Decision{Ref: ref, Image: pratique.Image{Digest: nginxIndex, Kind: pratique.KindIndex}, Children: []pratique.Decision{child}}, err
	}
	for _, k := range s.known {
		if k.Image.Digest == ref.Digest && k.Ref.Repository() == ref.Repository() {
			return s.Standing(ctx, ref, k.Image)
		}
	}
	return pratique.Decision{}, fmt.Errorf("%s: %w", ref, pratique.ErrNotFound)
}

// except runs `pratique exception` as ann.
func except(t *testing.T, server string, args ...string) result {
	t.Helper()
	var stdout, stderr strings.Builder
	code := run(t.Context(), append([]string{"exception"}, args...), strings.NewReader(""), &stdout, &stderr, []string{"PRATIQUE_SERVER=" + server, "USER=ann"})
	return result{code, stdout.String(), stderr.String()}
}

// TestExceptionLife is a person's way through the commands, with the words that a
// refusal gives them.
func TestExceptionLife(t *testing.T) {
	server := startExcepting(t)
	if got := except(t, server, "list"); got.out != "no exceptions in force; --all shows those that ended\n" {
		t.Errorf("%+v", got)
	}
	got := except(t, server, "create", "--finding", "CVE-2026-0001", "--repository", "docker.io/library/nginx", "--expires", "14d", "--reason", "not reachable")
	made := regexp.MustCompile(`^(ex-[0-9a-f]{8}) created, until \d{4}-\d\d-\d\d \d\d:\d\d\nit lifts something now from:\n  allow  \S+  docker\.io/library/nginx:1\.27\n$`).FindStringSubmatch(got.out)
	if got.code != 0 || made == nil {
		t.Fatalf("%+v", got)
	}
	id := made[1]
	if got := except(t, server, "list"); !strings.Contains(got.out, id+"  active  CVE-2026-0001  docker.io/library/nginx") || !strings.Contains(got.out, "ann") {
		t.Errorf("%+v", got)
	}
	if got := except(t, server, "show", id); got.code != 0 || !strings.Contains(got.out, "reason      not reachable\nauthor      ann\nsource      api\n") || strings.Contains(got.out, "revoked") {
		t.Errorf("%+v", got)
	}
	if got := except(t, server, "revoke", id, "--reason", "fixed", "--author", "ben"); got.code != 0 || !strings.HasPrefix(got.out, id+" revoked at ") || !strings.HasSuffix(got.out, " by ben: fixed\n") {
		t.Errorf("%+v", got)
	}
	if got := except(t, server, "revoke", id, "--reason", "again"); got.code != 0 || !strings.HasSuffix(got.out, " by ben: fixed\n") {
		t.Errorf("%+v", got)
	}
	if got := except(t, server, "list"); strings.Contains(got.out, id) {
		t.Errorf("%+v", got)
	}
	if got := except(t, server, "list", "--all"); !strings.Contains(got.out, id+"  revoked") {
		t.Errorf("%+v", got)
	}
	if got := except(t, server, "show", id); !strings.Contains(got.out, "because     fixed") {
		t.Errorf("%+v", got)
	}
	var list web.ExceptionList
	if got := except(t, server, "list", "--all", "-o", "json"); json.Unmarshal([]byte(got.out), &list) != nil || len(list.Exceptions) != 1 || list.Exceptions[0].ID != id {
		t.Errorf("%+v", got)
	}
	var one web.Exception
	if got := except(t, server, "show", id, "-o", "json"); json.Unmarshal([]byte(got.out), &one) != nil || one.RevokedBy != "ben" {
		t.Errorf("%+v", got)
	}
}

// TestExceptionEffect: who creates one sees at once when it is not what they meant.
func TestExceptionEffect(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"--finding CVE-2026-0001 --repository docker.io/library/*", "nginx-unprivileged:1.27"},
		{"--finding cve-2026-0001 --repository **", "lab/app:1"},
		{"--rule default/critical --digest " + digest.FromString("lab/app:1").String(), "lab/app:1"},
		{"--finding CVE-2026-0002 --repository **", "it lifts nothing now from an image that the server knows"},
		{"--finding CVE-2026-0001 --package libssl --repository **", "it lifts nothing now"},
		{"--finding CVE-2026-0001 --platform linux/arm64 --repository lab/app", "it lifts nothing now"},
		{"--rule default/criticl --repository lab/app", "it lifts nothing now"},
		{"--finding CVE-2026-0001 --repository docker.io/library/nginx --digest " + nginxIndex.String(), "is an index, and images are judged one by one"},
	} {
		got := except(t, startExcepting(t), append(append([]string{"create"}, strings.Fields(tc.args)...), "--expires", "1h", "--reason", "r")...)
		if got.code != 0 || !strings.Contains(got.out, tc.want) {
			t.Errorf("%s: %+v", tc.args, got)
		}
	}
	got := except(t, startExcepting(t), "create", "--finding", "CVE-1", "--repository", "lab/x", "--expires", "1h", "--reason", "r", "-o", "json")
	var one web.Exception
	if err := json.Unmarshal([]byte(got.out), &one); err != nil || one.Author != "ann" || one.State != "active" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestExceptionCommandLine(t *testing.T) {
	server := startExcepting(t)
	whole := []string{"create", "--finding", "CVE-2026-0001", "--repository", "lab/app", "--expires", "1h", "--reason", "r"}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "exception needs one of: create, list, show, revoke"},
		{[]string{"create"}, "exception create needs --expires"},
		{[]string{"create", "--expires", "14d"}, "needs --finding or --rule and --repository or --digest and --reason"},
		{append(whole, "extra"), `unexpected argument "extra"`},
		{append(whole, "--expires", "soon"), `--expires "soon": want 14d, 2026-12-31 or 2026-12-31T12:00:00Z`},
		{append(whole, "--expires", "-1h"), "want 14d"},
		{append(whole, "--expires", "2020-01-01"), "before it begins"},
		{append(whole, "--expires", "366d"), "at most 365d is allowed here"},
		{append(whole, "--rule", "default/critical"), "not both"},
		{append(whole, "--repository", "quay.io/app"), "configured are: docker.io, lab"},
		{append(whole, "--repository", "app"), "want UPSTREAM/REPOSITORY"},
		{append(whole, "--repositry", "lab/app"), "did you mean `--repository`?"},
		{append(whole, "--finding", "", "--rule", "default/unscanned"), "nothing unscanned is served unless a rule says so"},
		{[]string{"show"}, "exception show needs ID"},
		{[]string{"show", "../images"}, "is not the id of an exception"},
		{[]string{"show", "ex-00"}, `no exception "ex-00"`},
		{[]string{"revoke", "ex-00"}, "exception revoke needs --reason"},
		{[]string{"revoke", "ex-00", "--reason", "r"}, `no exception "ex-00"`},
		{[]string{"revoke", "ex-00", "--reason", " "}, "exception revoke needs --reason"},
		{[]string{"list", "-o", "yaml"}, "want table or json"},
	} {
		if got := except(t, server, tc.args...); got.code != exitError || got.out != "" || !strings.Contains(got.errout, tc.want) {
			t.Errorf("%q: %+v, want exit 1 with %q", tc.args, got, tc.want)
		}
	}
	if got := runCommand(t, server, append([]string{"exception"}, whole...)...); got.code != exitError || !strings.Contains(got.errout, "--author (USER is not set)") {
		t.Errorf("nobody's: %+v", got)
	}
	if got := except(t, server, "list", "--all"); got.out != "no exceptions\n" {
		t.Errorf("something was kept: %+v", got)
	}
}

func TestParseExpiry(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 500, time.UTC)
	for text, want := range map[string]string{
		"14d":                       "2026-12-07T12:00:00Z",
		"90m":                       "2026-11-23T13:30:00Z",
		"2026-12-31":                "2027-01-01T00:00:00Z", // the end of that day
		"2026-12-31T12:00:00+01:00": "2026-12-31T11:00:00Z",
	} {
		if got, err := parseExpiry(text, now); err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
}
