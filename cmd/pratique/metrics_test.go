package main

import (
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"pratique/internal/config"
	"pratique/internal/rungroup"
	"pratique/scanner/worker/workertest"
	"pratique/store"
)

// TestMetricsAreDocumented holds the table of docs/operate.md against what the
// assembled product registers: names and labels, both ways.
func TestMetricsAreDocumented(t *testing.T) {
	cfg, err := config.Load(configuration(t, "127.0.0.1:1", demoDatabase), []string{"PRATIQUE_ANALYZER=" + workertest.Binary(t)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	metrics := newMetrics()
	var parts rungroup.Group
	if err := assemble(t.Context(), cfg, process{log: slog.New(slog.DiscardHandler), level: new(slog.LevelVar), metrics: metrics}, &parts); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := parts.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	// What only an object store has.
	objects, err := store.OpenBlobs(t.Context(), store.BlobsConfig{
		Driver: "inmemory", Spool: t.TempDir(), Hot: store.HotConfig{Dir: t.TempDir(), MaxBytes: 1}, Metrics: metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = objects.Close() }()
	manual, err := os.ReadFile(repository + "/docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(pratique_[a-z_]+)` \\| ([^|]*) \\| [^|]+ \\|$").FindAllStringSubmatch(string(manual), -1) {
		labels := strings.FieldsFunc(row[2], func(r rune) bool { return r == ' ' || r == ',' || r == '`' || r == '–' })
		slices.Sort(labels)
		documented = append(documented, fmt.Sprint(row[1], " ", labels))
	}
	slices.Sort(documented)
	if diff := cmp.Diff(registered(t, metrics), documented); diff != "" {
		t.Errorf("docs/operate.md, table of metrics (-registered +documented):\n%s", diff)
	}
}

var descPattern = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "(.*)", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// registered lists Pratique's own metrics with their labels. Descriptions show
// neither except in their text.
func registered(t *testing.T, metrics *prometheus.Registry) []string {
	t.Helper()
	ch := make(chan *prometheus.Desc)
	go func() {
		metrics.Describe(ch)
		close(ch)
	}()
	var out []string
	for d := range ch {
		m := descPattern.FindStringSubmatch(d.String())
		if m == nil {
			t.Errorf("unreadable description %s", d)
			continue
		}
		if !strings.HasPrefix(m[1], "pratique_") {
			continue
		}
		if m[2] == "" {
			t.Errorf("%s has no help", m[1])
		}
		labels := []string{}
		for _, l := range strings.Split(m[3]+","+m[4], ",") {
			if name, _, _ := strings.Cut(l, "="); name != "" {
				labels = append(labels, name)
			}
		}
		slices.Sort(labels)
		if line := fmt.Sprint(m[1], " ", labels); !slices.Contains(out, line) {
			out = append(out, line)
		}
		for _, l := range labels {
			if slices.Contains([]string{"digest", "repository", "tag", "image", "layer"}, l) {
				t.Errorf("%s has the label %s, which has no bound", m[1], l)
			}
		}
	}
	slices.Sort(out)
	return out
}
