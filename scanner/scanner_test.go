package scanner_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/scanner"
)

const (
	base = "os debian 12\npkg libc6 2.36\npkg zlib1g 1.2\n"
	top  = "pkg libc6 2.36\npkg zlib1g 1.2\npkg curl 7.88\nsecret aws-key etc/creds\n"
)

func TestScan(t *testing.T) {
	l := newLab(t, scanner.Config{Metrics: prometheus.NewPedanticRegistry()})
	l.matcher.vulns["zlib1g"] = []pratique.Vulnerability{
		{ID: "CVE-2", Severity: pratique.SeverityLow, Status: "affected"},
		{ID: "CVE-1", Severity: pratique.SeverityCritical, Status: "fixed", Fixed: "1.3", Source: "debian", Title: "t", URL: "u", CVSS: 9.8, VendorIDs: []string{"DSA-1"}},
	}
	l.matcher.vulns["curl"] = []pratique.Vulnerability{{ID: "CVE-1", Severity: pratique.SeverityCritical}}
	ref := l.image("app", nil, base, top)
	got := l.scan(ref)

	zlib := pratique.Component{Context: pratique.Context{Class: pratique.ClassOS, Type: "debian", Name: "12"}, Name: "zlib1g", Version: "1.2", SrcName: "zlib1g", SrcVersion: "1.2"}.ID()
	curl := pratique.Component{Context: pratique.Context{Class: pratique.ClassOS, Type: "debian", Name: "12"}, Name: "curl", Version: "7.88", SrcName: "curl", SrcVersion: "7.88"}.ID()
	lower, upper := digest.FromString(base), digest.FromString(top)
	want := pratique.Report{
		Image: ref.Digest, State: pratique.StateScanned, OS: pratique.OS{Family: "debian", Name: "12"},
		Findings: []pratique.Finding{
			{ID: "CVE-1", Kind: pratique.KindVulnerability, Component: curl, Package: "curl", Ecosystem: "debian", Installed: "7.88", Severity: pratique.SeverityCritical, Target: "var/lib/dpkg/status", Layer: upper, PURL: "pkg:deb/debian/curl@7.88?distro=debian-12", FirstSeen: now},
			{ID: "CVE-1", Kind: pratique.KindVulnerability, Component: zlib, Package: "zlib1g", Ecosystem: "debian", Installed: "1.2", Fixed: "1.3", Status: "fixed", Severity: pratique.SeverityCritical, Target: "var/lib/dpkg/status", Layer: lower, Title: "t", URL: "u", CVSS: 9.8, Source: "debian", VendorIDs: []string{"DSA-1"}, PURL: "pkg:deb/debian/zlib1g@1.2?distro=debian-12", FirstSeen: now},
			{ID: "aws-key", Kind: pratique.KindSecret, Severity: pratique.SeverityCritical, Path: "etc/creds", Layer: upper, Title: "a secret", FirstSeen: now},
			{ID: "DS-0002", Kind: pratique.KindMisconfiguration, Severity: pratique.SeverityHigh, Title: "runs as root", FirstSeen: now},
			{ID: "CVE-2", Kind: pratique.KindVulnerability, Component: zlib, Package: "zlib1g", Ecosystem: "debian", Installed: "1.2", Status: "affected", Severity: pratique.SeverityLow, Target: "var/lib/dpkg/status", Layer: lower, PURL: "pkg:deb/debian/zlib1g@1.2?distro=debian-12", FirstSeen: now},
		},
		Config:    pratique.ConfigFacts{Platform: pratique.Platform{OS: "linux", Architecture: "amd64"}},
		Engine:    pratique.Engine{Version: "v0.74.0", Analyzer: key, Database: digest.FromString("db1"), DatabaseAt: now.Add(-time.Hour)},
		ScannedAt: now, FirstSeen: now.Add(-time.Hour), FirstScanned: now,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("report (-want +got):\n%s", d)
	}
	stored, err := l.db.Report(t.Context(), ref.Digest)
	if err != nil || cmp.Diff(got, stored) != "" {
		t.Errorf("what Scan returns is not what stands: %v\n%s", err, cmp.Diff(got, stored))
	}
	if l.layers.open != 0 {
		t.Errorf("%d readers left open", l.layers.open)
	}
}

// TestOnce: a layer is analysed once, a component is matched once, ever.
func TestOnce(t *testing.T) {
	l := newLab(t, scanner.Config{})
	release := make(chan struct{})
	var arrived sync.WaitGroup
	arrived.Add(1)
	var first sync.Once
	l.analyzer.begin = func(context.Context, pratique.Descriptor) {
		first.Do(arrived.Done)
		<-release
	}
	var refs []pratique.Ref
	for i := range 8 {
		refs = append(refs, l.image(fmt.Sprint("app", i), nil, base, base, fmt.Sprintf("pkg own%d 1\n", i)))
	}
	var wg sync.WaitGroup
	for _, ref := range refs {
		wg.Go(func() {
			if _, err := l.scanner.Scan(t.Context(), ref); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { // the same image asked for twice at once
			if _, err := l.scanner.Scan(t.Context(), ref); err != nil {
				t.Error(err)
			}
		})
	}
	arrived.Wait()
	close(release)
	wg.Wait()
	if n := l.analysed[digest.FromString(base)]; n != 1 {
		t.Errorf("base analysed %d times", n)
	}
	for d, n := range l.analysed {
		if n != 1 {
			t.Errorf("%s analysed %d times", d, n)
		}
	}
	// Scanned again: nothing is transferred but the config, nothing matched.
	l.layers.forget()
	l.matcher.matched = nil
	l.scan(refs[0])
	if img, _ := l.db.Image(t.Context(), refs[0].Digest); len(l.layers.opened) != 1 || l.layers.opened[0] != img.Config.Digest {
		t.Errorf("opened %v", l.layers.opened)
	}
	// Another image with a component that is known: only the new one is matched.
	l.scan(l.image("other", nil, base, "pkg own0 1\npkg new 1\n"))
	if d := cmp.Diff([]string{"new"}, l.matcher.matched); d != "" {
		t.Errorf("matched (-want +got):\n%s", d)
	}
}

func TestTransfersStartTogether(t *testing.T) {
	l := newLab(t, scanner.Config{})
	const n = 10
	started := make(chan digest.Digest, n)
	blocked, release := make(chan struct{}), make(chan struct{})
	l.layers.fail = func(d pratique.Descriptor, r io.Reader) (io.Reader, error) {
		if d.MediaType == gzipType {
			started <- d.Digest
		}
		return r, nil
	}
	l.analyzer.begin = func(context.Context, pratique.Descriptor) { <-release }
	var layers []string
	for i := range n {
		layers = append(layers, fmt.Sprintf("pkg p%d 1\n", i))
	}
	ref := l.image("app", nil, layers...)
	go func() {
		for range n {
			<-started
		}
		close(blocked)
	}()
	done := make(chan error)
	go func() { _, err := l.scanner.Scan(t.Context(), ref); done <- err }()
	select {
	case <-blocked: // all are in transfer although no analysis has ended
	case <-time.After(10 * time.Second):
		t.Error("transfers wait for analyses")
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStates(t *testing.T) {
	problem := func(source string) func(pratique.Problem) bool {
		return func(p pratique.Problem) bool { return p.Source == source }
	}
	tests := []struct {
		name   string
		spoil  func(l *lab, d *draft)
		layers []string
		state  pratique.State
		source string // of a problem that must be there
		opened bool   // bytes are transferred
	}{
		{name: "static binary, nothing found", layers: []string{"nothing\n"}, state: pratique.StateScanned, opened: true},
		{name: "no layers", state: pratique.StateScanned, opened: true},
		{name: "no layers but claimed", spoil: func(_ *lab, d *draft) { d.diffIDs = []digest.Digest{diffID("x")} }, state: pratique.StateFailed, source: "diffid", opened: true},
		{name: "the problem of an analyzer", layers: []string{base + "problem malformed\n"}, state: pratique.StateIncomplete, source: "dpkg", opened: true},
		{name: "os without packages", layers: []string{"os debian 12\n"}, state: pratique.StateIncomplete, source: "os", opened: true},
		{name: "packages without os", layers: []string{"pkg libc6 1\n"}, state: pratique.StateIncomplete, source: "os", opened: true},
		{name: "a layer that cannot be read", layers: []string{base, "fatal broken\n"}, state: pratique.StateFailed, source: "compression", opened: true},
		{name: "windows", spoil: func(_ *lab, d *draft) { d.os = " Windows" }, layers: []string{base}, state: pratique.StateIncomplete, source: "config", opened: true},
		{name: "freebsd", spoil: func(_ *lab, d *draft) { d.os = "freebsd" }, layers: []string{base}, state: pratique.StateIncomplete, source: "config", opened: true},
		{name: "no os named", spoil: func(_ *lab, d *draft) { d.os = "" }, layers: []string{base}, state: pratique.StateScanned, opened: true},
		{name: "a claimed diffID is wrong", spoil: func(_ *lab, d *draft) { d.diffIDs[1] = diffID("other") }, layers: []string{base, top}, state: pratique.StateFailed, source: "diffid", opened: true},
		{name: "diffIDs in another order", spoil: func(_ *lab, d *draft) { d.diffIDs[0], d.diffIDs[1] = d.diffIDs[1], d.diffIDs[0] }, layers: []string{base, top}, state: pratique.StateFailed, source: "diffid", opened: true},
		{name: "a diffID too few", spoil: func(_ *lab, d *draft) { d.diffIDs = d.diffIDs[:1] }, layers: []string{base, top}, state: pratique.StateFailed, source: "diffid", opened: true},
		{name: "a diffID too many", spoil: func(_ *lab, d *draft) { d.diffIDs = append(d.diffIDs, diffID("x")) }, layers: []string{base, top}, state: pratique.StateFailed, source: "diffid", opened: true},
		{name: "config is not JSON", spoil: func(_ *lab, d *draft) { d.config = []byte("{") }, layers: []string{base}, state: pratique.StateFailed, source: "config", opened: true},
		{name: "config is another JSON", spoil: func(_ *lab, d *draft) { d.config = []byte(`["os"]`) }, layers: []string{base}, state: pratique.StateFailed, source: "config", opened: true},
		{name: "config is empty JSON", spoil: func(_ *lab, d *draft) { d.config = []byte(`{}`) }, layers: []string{base}, state: pratique.StateFailed, source: "diffid", opened: true},
		{name: "config too large", spoil: func(_ *lab, d *draft) {
			d.image.Config.Digest, d.image.Config.Size = digest.FromString("big"), pratique.MaxConfigSize+1
		}, layers: []string{base}, state: pratique.StateFailed, source: "manifest"},
		{name: "foreign layer", spoil: func(_ *lab, d *draft) { d.image.Layers[0].URLs = []string{"https://elsewhere"} }, layers: []string{base}, state: pratique.StateFailed, source: "manifest"},
		{name: "layer of unknown type", spoil: func(_ *lab, d *draft) { d.image.Layers[1].MediaType = tarType + "+xz" }, layers: []string{base, top}, state: pratique.StateFailed, source: "manifest"},
		{name: "layer of another compression than claimed", spoil: func(_ *lab, d *draft) { d.image.Layers[0].MediaType = tarType }, layers: []string{base}, state: pratique.StateFailed, source: "mediatype", opened: true},
		{name: "layer of another size than claimed", spoil: func(_ *lab, d *draft) { d.image.Layers[0].Size++ }, layers: []string{base}, state: pratique.StateFailed, source: "size", opened: true},
		{name: "too many layers", layers: strings.SplitAfter(strings.Repeat("x", 21), "x")[:21], state: pratique.StateFailed, source: "manifest"},
		{name: "artifact", spoil: func(l *lab, d *draft) {
			d.image.Kind, d.image.ArtifactType = pratique.KindArtifact, "application/vnd.cncf.helm.config.v1+json"
			d.image.Config = l.blob("application/vnd.cncf.helm.config.v1+json", "{}")
			d.image.Layers = []pratique.Descriptor{l.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "chart")}
		}, state: pratique.StateUnsupported, source: "image"},
		{name: "image that calls itself an artifact", spoil: func(_ *lab, d *draft) {
			d.image.Kind, d.image.ArtifactType = pratique.KindArtifact, "application/vnd.example"
			d.image.Config.MediaType = "application/vnd.example"
		}, layers: []string{base + "problem x\n"}, state: pratique.StateIncomplete, source: "dpkg", opened: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, scanner.Config{MaxLayers: 20})
			// The honest image first: nothing that it left may help the other.
			l.scan(l.image("honest", nil, base, top))
			l.layers.forget()
			r := l.scan(l.image("x", func(d *draft) {
				if test.spoil != nil {
					test.spoil(l, d)
				}
			}, test.layers...))
			if r.State != test.state {
				t.Errorf("state %s, want %s; problems %+v", r.State, test.state, r.Problems)
			}
			found := false
			for _, p := range r.Problems {
				found = found || problem(test.source)(p)
			}
			if test.source != "" && !found {
				t.Errorf("no problem from %q in %+v", test.source, r.Problems)
			}
			if test.source == "" && len(r.Problems) > 0 {
				t.Errorf("problems %+v", r.Problems)
			}
			if r.State == pratique.StateFailed && len(r.Findings) > 0 {
				t.Errorf("findings of what was not read whole: %+v", r.Findings)
			}
			if opened := len(l.layers.opened) > 0; opened != test.opened {
				t.Errorf("opened %v", l.layers.opened)
			}
			// And nothing that the other left may harm the honest one.
			if honest := l.scan(l.image("honest2", nil, base, top)); honest.State != pratique.StateScanned {
				t.Errorf("an honest image over the same layers is %s: %+v", honest.State, honest.Problems)
			}
		})
	}
}

func TestEOL(t *testing.T) {
	l := newLab(t, scanner.Config{})
	if r := l.scan(l.image("old", nil, "os debian 8\npkg libc6 1\n")); !r.EOL || !r.EOLAt.Equal(oldEnds) || r.State != pratique.StateScanned {
		t.Errorf("%s, end of life %v, at %s", r.State, r.EOL, r.EOLAt)
	}
	if r := l.scan(l.image("new", nil, base)); r.EOL || !r.EOLAt.IsZero() {
		t.Error("end of life")
	}
}

func TestIndexIsNotScanned(t *testing.T) {
	l := newLab(t, scanner.Config{})
	img := pratique.Image{Digest: digest.FromString("i"), Kind: pratique.KindIndex, MediaType: pratique.MediaTypeImageIndex}
	ref := pratique.Ref{Registry: "docker.io", Repo: "x", Digest: img.Digest}
	if err := l.db.Link(t.Context(), ref, img, now); err != nil {
		t.Fatal(err)
	}
	if _, err := l.scanner.Scan(t.Context(), ref); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("error %v, want one wrapping pratique.ErrInvalid", err)
	}
	if _, err := l.scanner.Scan(t.Context(), ref.At(digest.FromString("unknown"))); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("unknown image: error %v", err)
	}
}

// TestErrors: what is not the image's fault is an error, and leaves neither a
// report nor an inventory of the layer it met.
func TestErrors(t *testing.T) {
	bad := digest.FromString(top)
	onTop := func(f func(r io.Reader) (io.Reader, error)) func(*lab) {
		return func(l *lab) {
			l.layers.fail = func(d pratique.Descriptor, r io.Reader) (io.Reader, error) {
				if d.Digest == bad {
					return f(r)
				}
				return r, nil
			}
		}
	}
	answer := func(change func(*pratique.Inventory)) func(*lab) {
		return func(l *lab) {
			l.analyzer.layer = func(inv pratique.Inventory, err error) (pratique.Inventory, error) {
				if inv.Layer == bad {
					change(&inv)
				}
				return inv, err
			}
		}
	}
	tests := []struct {
		name  string
		spoil func(*lab)
		want  error
	}{
		{"a layer is not to be had", onTop(func(io.Reader) (io.Reader, error) { return nil, errHook }), errHook},
		{"a transfer breaks", onTop(func(r io.Reader) (io.Reader, error) {
			return io.MultiReader(io.LimitReader(r, 10), iotest.ErrReader(errHook)), nil
		}), errHook},
		{"a transfer breaks after the last byte", onTop(func(r io.Reader) (io.Reader, error) { return io.MultiReader(r, iotest.ErrReader(errHook)), nil }), errHook},
		{"a transfer breaks where the analyzer does not look", func(l *lab) {
			l.analyzer.unread = bad
			onTop(func(r io.Reader) (io.Reader, error) { return io.MultiReader(r, iotest.ErrReader(errHook)), nil })(l)
		}, errHook},
		{"the analyzer fails", func(l *lab) {
			l.analyzer.layer = func(inv pratique.Inventory, _ error) (pratique.Inventory, error) {
				if inv.Layer == bad {
					return inv, errHook
				}
				return inv, nil
			}
		}, errHook},
		{"the analyzer answers for another layer", answer(func(i *pratique.Inventory) { i.Layer = digest.FromString(base) }), nil},
		{"the analyzer measures no diffID", answer(func(i *pratique.Inventory) { i.DiffID = "" }), nil},
		{"the analyzer is another", answer(func(i *pratique.Inventory) { i.Analyzer = "fake-2" }), nil},
		{"the analyzer answers nothing", answer(func(i *pratique.Inventory) { *i = pratique.Inventory{} }), nil},
		{"the analyzer fails on the config", func(l *lab) {
			l.analyzer.config = func(pratique.Inventory, error) (pratique.Inventory, error) { return pratique.Inventory{}, errHook }
		}, errHook},
		{"the analyzer answers nothing on the config", func(l *lab) {
			l.analyzer.config = func(pratique.Inventory, error) (pratique.Inventory, error) { return pratique.Inventory{}, nil }
		}, nil},
		{"the config has other bytes", func(l *lab) {
			l.layers.fail = func(d pratique.Descriptor, r io.Reader) (io.Reader, error) {
				if d.MediaType == pratique.MediaTypeImageConfig {
					return strings.NewReader(strings.Repeat("x", int(d.Size))), nil
				}
				return r, nil
			}
		}, nil},
		{"the config is longer than it says", func(l *lab) {
			l.layers.fail = func(d pratique.Descriptor, r io.Reader) (io.Reader, error) {
				if d.MediaType == pratique.MediaTypeImageConfig {
					return io.MultiReader(r, strings.NewReader(" ")), nil
				}
				return r, nil
			}
		}, nil},
		{"matching fails", func(l *lab) { l.matcher.match = func(*fakeMatcher) error { return errHook } }, errHook},
		{"no database", func(l *lab) { l.matcher.noDB = true }, pratique.ErrNoDatabase},
		{"a database without a name", func(l *lab) { l.matcher.engine.Database = "" }, pratique.ErrNoDatabase},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, scanner.Config{})
			ref := l.image("app", nil, base, top)
			test.spoil(l)
			_, err := l.scanner.Scan(t.Context(), ref)
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if _, err := l.db.Report(t.Context(), ref.Digest); !errors.Is(err, pratique.ErrNotFound) {
				t.Errorf("a report stands: %v", err)
			}
			if l.layers.open != 0 {
				t.Errorf("%d readers left open", l.layers.open)
			}
			// The cause gone, the same scan is complete.
			l.layers.fail, l.matcher.match, l.matcher.noDB = nil, nil, false
			l.matcher.adopt("db1", now)
			*l.analyzer = fakeAnalyzer{}
			if r := l.scan(ref); r.State != pratique.StateScanned || len(r.Problems) > 0 {
				t.Errorf("afterwards %s: %+v", r.State, r.Problems)
			}
		})
	}
}

// TestNoDatabaseKeepsAnalyses: the first database may come late.
func TestNoDatabaseKeepsAnalyses(t *testing.T) {
	l := newLab(t, scanner.Config{})
	ref := l.image("app", nil, base, top)
	l.matcher.noDB = true
	for range 3 {
		if _, err := l.scanner.Scan(t.Context(), ref); !errors.Is(err, pratique.ErrNoDatabase) {
			t.Fatal(err)
		}
	}
	l.matcher.noDB = false
	l.scan(ref)
	for d, n := range l.analysed {
		if n != 1 {
			t.Errorf("%s analysed %d times", d, n)
		}
	}
	// What needs no database does not wait for one.
	l.matcher.noDB = true
	if r := l.scan(l.image("broken", nil, "fatal x\n")); r.State != pratique.StateFailed {
		t.Errorf("broken image: %s", r.State)
	}
}

// TestWorkerDeath: the inventory is not kept, the failure may pass, and it does
// not replace a report.
func TestWorkerDeath(t *testing.T) {
	die := func(inv pratique.Inventory, err error) (pratique.Inventory, error) {
		if inv.Layer == digest.FromString(base) {
			return inv, err
		}
		return pratique.Inventory{Analyzer: inv.Analyzer, Layer: inv.Layer, Problems: []pratique.Problem{{Source: scanner.SourceWorker, Fatal: true, Message: "killed"}}}, nil
	}
	for _, part := range []string{"layer", "config"} {
		t.Run(part, func(t *testing.T) {
			l := newLab(t, scanner.Config{})
			ref := l.image("app", nil, base, top)
			if part == "layer" {
				l.analyzer.layer = die
			} else {
				l.analyzer.config = die
			}
			r := l.scan(ref)
			if r.State != pratique.StateFailed || !scanner.Passing(r) {
				t.Errorf("%s, problems %+v: want failed, and that it may pass", r.State, r.Problems)
			}
			if len(r.Findings) > 0 {
				t.Errorf("findings %v", r.Findings)
			}
			l.analyzer.layer, l.analyzer.config = nil, nil
			if r = l.scan(ref); r.State != pratique.StateScanned {
				t.Errorf("second scan: %s, %+v", r.State, r.Problems)
			}
			if n := l.analysed[digest.FromString(base)]; n != 1 {
				t.Errorf("the layer that was well is analysed %d times", n)
			}
			// Another analyzer's worker dies on an image that has a report.
			l.analyzer.key = "fake-2"
			l.analyzer.layer, l.analyzer.config = die, die
			if got := l.scan(ref); cmp.Diff(r, got) != "" {
				t.Errorf("a passing failure replaced a report:\n%s", cmp.Diff(r, got))
			}
		})
	}
}

// TestAnalyzerUpgrade: content is analysed again by another analyzer.
func TestAnalyzerUpgrade(t *testing.T) {
	l := newLab(t, scanner.Config{})
	ref := l.image("app", nil, base, top)
	l.scan(ref)
	l.analyzer.key = "fake-2"
	if r := l.scan(ref); r.Engine.Analyzer != "fake-2" || l.analysed[digest.FromString(base)] != 2 {
		t.Errorf("by %q, base analysed %d times", r.Engine.Analyzer, l.analysed[digest.FromString(base)])
	}
}

func TestCancelled(t *testing.T) {
	l := newLab(t, scanner.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	l.analyzer.begin = func(context.Context, pratique.Descriptor) { cancel() }
	if _, err := l.scanner.Scan(ctx, l.image("app", nil, base, top)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	// Whoever waited for the layer is not ended by it.
	l.analyzer.begin = nil
	l.scan(l.image("app2", nil, base, top))
}
