package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence"
	"pratique/internal/config"
	"pratique/internal/sqlite"
	"pratique/policy"
	"pratique/policy/simulate"
	"pratique/store"
	"pratique/web"
)

// readOnlyScans fail the test when a simulation opens a scan.
type readOnlyScans struct {
	standingScans
	t testing.TB
}

func (s readOnlyScans) Await(context.Context, pratique.Ref) (pratique.Report, error) {
	s.t.Error("a simulation waits for a scan")
	return pratique.Report{}, pratique.ErrPending
}

func (s readOnlyScans) Request(context.Context, pratique.Ref) error {
	s.t.Error("a simulation opens a scan")
	return nil
}

// simulated is a server with a history, without the rest.
type simulated struct {
	state *sqlite.DB
	sim   *simulator
	t     testing.TB
}

const todaysPolicy = "name: today\ndefault: allow\nrules: [{name: critical, vulnerability: {severity: CRITICAL}, action: deny}]\n"

func newSimulated(t testing.TB, today string) *simulated {
	t.Helper()
	state, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	set, err := policy.Load(policy.File{Name: "today.yaml", Data: []byte(today)})
	if err != nil {
		t.Fatal(err)
	}
	l := &live{behind: behind{scans: readOnlyScans{standingScans{state.Report}, t}, catalog: state, facts: &facts{Evidence: evidence.New(evidence.Config{History: state})}}}
	l.current.Store(&front{cfg: config.Default(), policies: set})
	return &simulated{state: state, sim: &simulator{live: l, pulls: state, content: state}, t: t}
}

func (s *simulated) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// image makes one known, with a report in that state; "" makes none.
func (s *simulated) image(name string, state pratique.State, findings ...pratique.Finding) pratique.Ref {
	s.t.Helper()
	ref := pratique.Ref{Registry: "docker.io", Repo: "team/" + name, Tag: "v1", Digest: digest.FromString(name)}
	img := pratique.Image{
		Digest: ref.Digest, MediaType: pratique.MediaTypeImageManifest, Kind: pratique.KindImage,
		Config: pratique.Descriptor{MediaType: pratique.MediaTypeImageConfig, Digest: digest.FromString("config" + name)},
	}
	s.must(s.state.Link(s.t.Context(), ref, img, time.Now()))
	if state != pratique.StateUnknown {
		s.report(ref, state, findings...)
	}
	return ref
}

func (s *simulated) report(ref pratique.Ref, state pratique.State, findings ...pratique.Finding) {
	s.t.Helper()
	_, err := s.state.PutReport(s.t.Context(), pratique.Report{
		Image: ref.Digest, State: state, Findings: findings, ScannedAt: time.Now(), Engine: pratique.Engine{Version: "v0.74.0", Database: digest.FromString("db")},
	})
	s.must(err)
}

func (s *simulated) pull(ref pratique.Ref, client string, ago time.Duration) {
	s.t.Helper()
	s.must(s.state.Record(s.t.Context(), []store.Pull{{Ref: ref, Client: client, At: time.Now().Add(-ago)}}))
}

func (s *simulated) serve() string {
	srv := httptest.NewServer(web.New(web.Config{Simulator: s.sim}))
	s.t.Cleanup(srv.Close)
	return srv.URL
}

func weak(severity pratique.Severity) pratique.Finding {
	return pratique.Finding{ID: "CVE-2024-1", Kind: pratique.KindVulnerability, Severity: severity, Package: "openssl", Installed: "1", Fixed: "2"}
}

func TestPolicySimulate(t *testing.T) {
	s := newSimulated(t, todaysPolicy)
	clean, high := s.image("clean", pratique.StateScanned), s.image("high", pratique.StateScanned, weak(pratique.SeverityHigh))
	critical := s.image("critical", pratique.StateScanned, weak(pratique.SeverityCritical))
	unscanned := s.image("unscanned", pratique.StateUnknown)
	for i := range 30 {
		s.pull(high, fmt.Sprintf("10.0.0.%d", i), time.Hour)
	}
	s.pull(high, "10.0.0.7", 2*time.Hour)
	s.pull(high, "10.0.0.7", 99*24*time.Hour)
	for _, ref := range []pratique.Ref{clean, critical, unscanned, {Registry: "docker.io", Repo: "team/gone", Digest: digest.FromString("gone")}} {
		s.pull(ref, "10.0.1.1", time.Hour)
	}
	draft := write(t, t.TempDir(), "draft.yaml", "name: draft\ndefault: allow\nrules: [{name: high, match: {repository: [team/high]}, vulnerability: {severity: HIGH}, action: deny}]\n")
	server := s.serve()

	got := runCommand(t, server, "policy", "simulate", draft, "-o", "json")
	if got.code != exitRefused {
		t.Fatalf("exit %d\n%s%s", got.code, got.out, got.errout)
	}
	var out web.Simulated
	if err := json.Unmarshal([]byte(got.out), &out); err != nil {
		t.Fatal(err)
	}
	refs := func(c simulate.Changes) (out []string) {
		for _, x := range c.Images {
			out = append(out, fmt.Sprintf("%s %d %d/%d %s", x.Ref, x.Pulls, len(x.Clients), x.AllClients, x.Reasons))
		}
		return out
	}
	if diff := cmp.Diff([][]string{
		{"docker.io/team/high:v1 31 20/30 [draft/high: 1 vulnerability of severity HIGH or above]"},
		{"docker.io/team/critical:v1 1 1/1 [today/critical: 1 vulnerability of severity CRITICAL]"},
		{"docker.io/team/gone@" + digest.FromString("gone").String() + " 1 1/1 [today: the manifest is not here any more]",
			"docker.io/team/unscanned:v1 1 1/1 [today: not scanned yet]"},
	}, [][]string{refs(out.Refused), refs(out.Served), refs(out.Undecided)}); diff != "" {
		t.Error(diff)
	}
	if c := out.Refused.Images[0].Clients[0]; c.Address != "10.0.0.7" || c.Pulls != 2 {
		t.Errorf("who pulls most is not first: %+v", c)
	}
	if out.Pulls != 35 || out.References != 5 || out.Same.Pulls != 1 {
		t.Errorf("%+v", out)
	}
	if got := runCommand(t, server, "policy", "simulate", draft); !strings.Contains(got.out, "would be refused, served today: 1 reference, 31 pulls, 30 clients\n  docker.io/team/high:v1  31 pulls by 30 clients") {
		t.Errorf("exit %d\n%s%s", got.code, got.out, got.errout)
	}
	if got := runCommand(t, server, "policy", "simulate", draft, "--since", "30m"); got.code != 0 || !strings.Contains(got.out, "0 pulls of 0 references") {
		t.Errorf("exit %d\n%s%s", got.code, got.out, got.errout)
	}
}

// TestPolicySimulateByClient: where rules read clients, each is asked for.
func TestPolicySimulateByClient(t *testing.T) {
	s := newSimulated(t, todaysPolicy)
	clean := s.image("clean", pratique.StateScanned)
	for _, client := range []string{"10.0.0.1", "10.0.0.2", "192.168.0.1"} {
		s.pull(clean, client, time.Hour)
	}
	out, err := s.sim.Simulate(t.Context(), time.Now().Add(-24*time.Hour), []policy.File{{Name: "draft.yaml", Data: []byte(
		"name: draft\ndefault: allow\nrules: [{name: office, match: {client: [10.0.0.0/8]}, always: {}, action: deny}]")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Refused.Pulls != 2 || len(out.Refused.Images) != 1 || out.Refused.Images[0].AllClients != 2 || out.Same.Clients != 1 {
		t.Errorf("%+v", out)
	}
}

// TestPolicySimulateIndex: an index is served while one of its images is.
func TestPolicySimulateIndex(t *testing.T) {
	s := newSimulated(t, todaysPolicy)
	clean, high := s.image("clean", pratique.StateScanned), s.image("high", pratique.StateScanned, weak(pratique.SeverityHigh))
	index := func(name string, children ...pratique.Ref) pratique.Ref {
		ref := pratique.Ref{Registry: "docker.io", Repo: "team/" + name, Tag: "v1", Digest: digest.FromString(name)}
		img := pratique.Image{Digest: ref.Digest, MediaType: pratique.MediaTypeImageIndex, Kind: pratique.KindIndex}
		for _, c := range children {
			img.Children = append(img.Children, pratique.Descriptor{MediaType: pratique.MediaTypeImageManifest, Digest: c.Digest, Platform: &pratique.Platform{OS: "linux", Architecture: "amd64"}})
		}
		s.must(s.state.Link(t.Context(), ref, img, time.Now()))
		s.pull(ref, "10.0.0.1", time.Hour)
		return ref
	}
	index("mixed", clean, high)
	index("refused", high)
	index("absent", pratique.Ref{Digest: digest.FromString("nowhere")})
	out, err := s.sim.Simulate(t.Context(), time.Now().Add(-24*time.Hour), []policy.File{{Name: "draft.yaml", Data: []byte(
		"name: draft\ndefault: allow\nrules: [{name: high, vulnerability: {severity: HIGH}, action: deny}]")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	names := func(c simulate.Changes) (out []string) {
		for _, x := range c.Images {
			out = append(out, x.Ref)
		}
		return out
	}
	if diff := cmp.Diff([][]string{{"docker.io/team/refused:v1"}, nil, {"docker.io/team/absent:v1"}}, [][]string{names(out.Refused), names(out.Served), names(out.Undecided)}); diff != "" {
		t.Error(diff)
	}
	if out.Same.References != 1 {
		t.Errorf("%+v", out)
	}
}

func TestPolicySimulateRefusesWhatCannotBe(t *testing.T) {
	s := newSimulated(t, todaysPolicy)
	server, dir := s.serve(), t.TempDir()
	good := write(t, dir, "good.yaml", todaysPolicy)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "policy simulate needs FILE, or --database"},
		{[]string{good, "--since", "soon"}, "--since wants a duration"},
		{[]string{good, "--since", "0s"}, "--since wants a duration"},
		{[]string{write(t, dir, "bad.yaml", "name: p\nrules: []\n")}, "bad.yaml:2:8: no rules"},
		{[]string{write(t, dir, "kev.yaml", "name: p\nrules: [{name: a, vulnerability: {kev: true}, action: deny}]\n")}, "exploits.kev"},
		{[]string{filepath.Join(dir, "nowhere.yaml")}, "nowhere.yaml"},
		{[]string{"--database", filepath.Join(dir, "nowhere.tar.gz")}, "nowhere.tar.gz"},
		{[]string{"--database", good}, "database refused"},
	} {
		got := runCommand(t, server, append([]string{"policy", "simulate"}, tc.args...)...)
		if got.code != exitError || !strings.Contains(got.errout, tc.want) {
			t.Errorf("%v: exit %d, want %q\n%s%s", tc.args, got.code, tc.want, got.out, got.errout)
		}
	}
	s.sim.running.Lock()
	defer s.sim.running.Unlock()
	if got := runCommand(t, server, "policy", "simulate", good); got.code != exitError || !strings.Contains(got.errout, "another simulation is running") {
		t.Errorf("exit %d\n%s%s", got.code, got.out, got.errout)
	}
}

// demoComponents are those of an image that the demonstration's database finds
// vulnerable.
func demoComponents(t *testing.T) ([]pratique.Component, []pratique.Occurrence) {
	t.Helper()
	f, err := os.Open(repository + "/testdata/database/inventories.jsonl.zst")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var img struct {
			Name      string
			Inventory pratique.Inventory
		}
		if err := json.Unmarshal(lines.Bytes(), &img); err != nil {
			t.Fatal(err)
		}
		if img.Name == "bitnami-sbom" {
			return img.Inventory.Components()
		}
	}
	t.Fatal("no such inventory", lines.Err())
	return nil, nil
}

// TestPolicySimulateDatabase: another database is matched by the command, and only
// the draft side sees it.
func TestPolicySimulateDatabase(t *testing.T) {
	s := newSimulated(t, todaysPolicy)
	components, occurrences := demoComponents(t)
	becomes := s.image("becomes-vulnerable", pratique.StateScanned)
	s.must(s.state.PutImage(t.Context(), becomes.Digest, components, occurrences))
	stays := s.image("has-nothing", pratique.StateScanned)
	s.must(s.state.PutImage(t.Context(), stays.Digest, nil, nil))
	heals := s.image("heals", pratique.StateScanned, weak(pratique.SeverityCritical))
	s.must(s.state.PutImage(t.Context(), heals.Digest, nil, nil))
	for _, ref := range []pratique.Ref{becomes, stays, heals} {
		s.pull(ref, "10.0.0.1", time.Hour)
	}
	before, err := s.state.Report(t.Context(), becomes.Digest)
	s.must(err)
	got := runCommand(t, s.serve(), "policy", "simulate", "--database", demoDatabase, "-o", "json")
	var out web.Simulated
	if err := json.Unmarshal([]byte(got.out), &out); err != nil || got.code != exitRefused {
		t.Fatalf("exit %d, %v\n%s%s", got.code, err, got.out, got.errout)
	}
	if len(out.Refused.Images) != 1 || out.Refused.Images[0].Ref != "docker.io/team/becomes-vulnerable:v1" || !strings.HasPrefix(out.Refused.Images[0].Reasons[0], "today/critical: ") {
		t.Errorf("refused: %+v", out.Refused)
	}
	if len(out.Served.Images) != 1 || out.Served.Images[0].Ref != "docker.io/team/heals:v1" || out.Same.References != 1 {
		t.Errorf("served: %+v, same %+v", out.Served, out.Same)
	}
	if out.Today != out.Draft || out.Database == nil || out.Database.DatabaseAt.IsZero() || out.Undecided.References != 0 {
		t.Errorf("%+v", out)
	}
	after, err := s.state.Report(t.Context(), becomes.Digest)
	s.must(err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the standing report changed: %s", diff)
	}
}

// TestSimulateUnmatchedComponents: a component of which the other database says
// nothing at all is no component without findings.
func TestSimulateUnmatchedComponents(t *testing.T) {
	s := newSimulated(t, todaysPolicy)
	components, occurrences := demoComponents(t)
	ref := s.image("a", pratique.StateScanned)
	s.must(s.state.PutImage(t.Context(), ref.Digest, components, occurrences))
	s.pull(ref, "10.0.0.1", time.Hour)
	out, err := s.sim.Simulate(t.Context(), time.Now().Add(-24*time.Hour), nil, &web.SimulatedDatabase{})
	if err != nil || out.Undecided.References != 1 || !strings.Contains(out.Undecided.Images[0].Reasons[0], "was not matched") {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestSimulateComponentsThatAreCutOff(t *testing.T) {
	s := newSimulated(t, todaysPolicy)
	components, occurrences := demoComponents(t)
	ref := s.image("a", pratique.StateScanned)
	s.must(s.state.PutImage(t.Context(), ref.Digest, components, occurrences))
	s.pull(ref, "10.0.0.1", time.Hour)
	other := s.image("b", pratique.StateScanned)
	s.must(s.state.PutImage(t.Context(), other.Digest, components, occurrences))
	s.pull(other, "10.0.0.1", time.Hour)
	cl, err := newClient(&console{}, s.serve())
	s.must(err)
	ids, got, err := cl.components(t.Context(), time.Now().Add(-24*time.Hour))
	if err != nil || len(ids) != len(components) {
		t.Fatalf("%d components, want %d, each once: %v", len(ids), len(components), err)
	}
	for i, c := range got {
		if c.ID() != ids[i] {
			t.Fatalf("component %s arrives as %s", ids[i], c.ID())
		}
	}
	for left := range 2 {
		broken := &simulated{state: s.state, sim: &simulator{live: s.sim.live, pulls: s.state, content: failing{s.state, left}}, t: t}
		cl, err := newClient(&console{}, broken.serve())
		s.must(err)
		if ids, _, err := cl.components(t.Context(), time.Now().Add(-24*time.Hour)); err == nil {
			t.Errorf("a list of %d components that is not whole is taken for one", len(ids))
		}
	}
}

// failing components cannot be read: of no image, or not of one.
type failing struct {
	components
	left int
}

func (f failing) Occurrences(ctx context.Context, image digest.Digest) ([]pratique.Occurrence, map[pratique.ComponentID]pratique.Component, error) {
	if f.left == 0 || image == digest.FromString("b") {
		return nil, nil, errors.New("disk on fire")
	}
	return f.components.Occurrences(ctx, image)
}

// TestSimulateMany replays 100,000 pulls of 1,000 images with 300 findings each
// over the real state file. How long it takes is told, and decides nothing.
func TestSimulateMany(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const images, findings, pulls = 1000, 300, 100_000
	s := newSimulated(t, todaysPolicy)
	fs := make([]pratique.Finding, findings)
	severities := []pratique.Severity{pratique.SeverityLow, pratique.SeverityMedium}
	for i := range fs {
		fs[i] = weak(severities[i%2])
		fs[i].ID, fs[i].Package = fmt.Sprintf("CVE-2024-%d", i), fmt.Sprintf("package-%d", i)
		fs[i].Title = strings.Repeat("title ", 10)
	}
	refs := make([]pratique.Ref, images)
	for i := range refs {
		these := slices.Clone(fs)
		if i%10 == 0 {
			these[7].Severity = pratique.SeverityHigh
		}
		refs[i] = s.image(fmt.Sprintf("app-%d", i), pratique.StateScanned, these...)
	}
	batch := make([]store.Pull, 0, 1000)
	for i := range pulls {
		batch = append(batch, store.Pull{Ref: refs[i%images], Client: fmt.Sprintf("10.0.%d.%d", i%7, i%251), At: time.Now().Add(-time.Hour), Outcome: pratique.OutcomeAllow, Verdict: "v"})
		if len(batch) == cap(batch) {
			s.must(s.state.Record(t.Context(), batch))
			batch = batch[:0]
		}
	}
	begun := time.Now()
	out, err := s.sim.Simulate(t.Context(), time.Now().Add(-30*24*time.Hour), []policy.File{{Name: "draft.yaml", Data: []byte(
		"name: draft\ndefault: allow\nrules:\n  - {name: high, vulnerability: {severity: HIGH}, action: deny}\n  - {name: grace, vulnerability: {severity: CRITICAL}, action: deny, grace: 30d}\n")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d pulls of %d references in %s", out.Pulls, out.References, time.Since(begun).Round(time.Millisecond))
	if out.Pulls != pulls || out.References != images || out.Refused.References != images/10 || out.Refused.Pulls != pulls/10 || out.Undecided.References != 0 {
		out.Refused.Images = nil
		t.Errorf("%+v", out)
	}
}
