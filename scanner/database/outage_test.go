package database_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique/scanner/database"
)

// TestOutage: whatever a source does, the standing database stays, the log says why
// once, however often it is met, and once that it is over, the metrics count it, and
// the age rises.
func TestOutage(t *testing.T) {
	raw := archive(t, "new")
	for _, c := range []struct {
		name    string
		arrange func(t *testing.T, s *source)
		failure string // reason in failures_total and in the log
		refusal string // reason in refusals_total
		says    string // the error
	}{
		{"429", func(_ *testing.T, s *source) {
			s.failing(func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Retry-After", "120")
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			})
		}, "limited", "", "429"},
		{"down", func(_ *testing.T, s *source) {
			s.failing(func(w http.ResponseWriter, _ *http.Request) bool { panic(http.ErrAbortHandler) })
		}, "unreachable", "", "EOF"},
		{"500", func(_ *testing.T, s *source) {
			s.failing(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true })
		}, "unreachable", "", "500"},
		{"403", func(_ *testing.T, s *source) {
			s.failing(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(403); return true })
		}, "unauthorized", "", "403"},
		{"gone", func(_ *testing.T, s *source) {
			s.failing(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(404); return true })
		}, "missing", "", "404"},
		{"slow", func(_ *testing.T, s *source) {
			s.failing(func(w http.ResponseWriter, r *http.Request) bool {
				if kindOf(r.URL.Path) != "blob" {
					return false
				}
				w.Header().Set("Content-Length", "100000")
				_, _ = w.Write(raw[:10])
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				return true
			})
		}, "timeout", "", "deadline"},
		{"another media type", func(t *testing.T, s *source) {
			s.push(t, artifact(t, raw, "application/vnd.oci.image.layer.v1.tar+gzip"))
		}, "missing", "", "want one layer of type"},
		{"truncated", func(t *testing.T, s *source) { s.push(t, artifact(t, raw[:len(raw)/2], layerType)) }, "refused", "digest", "ends early"},
		{"older", func(t *testing.T, s *source) {
			s.push(t, artifact(t, edit(t, "old", oldAt.Add(-time.Hour), func(string) {}), layerType))
		}, "refused", "older", "the standing one"},
		{"empty", func(t *testing.T, s *source) {
			s.push(t, artifact(t, edit(t, "new", newAt, emptyDatabase(t)), layerType))
		}, "refused", "empty", "0 vulnerabilities"},
		{"corrupt", func(t *testing.T, s *source) {
			s.push(t, artifact(t, edit(t, "new", newAt, truncated(t, 1, 2)), layerType))
		}, "refused", "corrupt", "truncated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			src := newSource(t)
			src.push(t, artifact(t, raw, layerType))
			var log bytes.Buffer
			reg := prometheus.NewPedanticRegistry()
			clock := now
			timeout := 10 * time.Minute
			if c.failure == "timeout" {
				timeout = 300 * time.Millisecond
			}
			d := database.New(database.Config{
				Dir: t.TempDir(), Sources: []string{src.ref}, Timeout: timeout, Metrics: reg,
				Now: func() time.Time { return clock }, Log: slog.New(slog.NewJSONHandler(&log, nil)),
			}, &failing{})
			if _, err := d.Import(t.Context(), bytes.NewReader(archive(t, "old")), false); err != nil {
				t.Fatal(err)
			}
			standing, age := d.Status().Digest, gauge(t, reg, "pratique_database_age_seconds", "")
			c.arrange(t, src)
			log.Reset()
			for range 3 {
				if err := d.Check(t.Context()); err == nil {
					t.Fatal("no error")
				}
				clock = clock.Add(30 * time.Second)
			}
			lines := strings.Count(log.String(), `"level":"WARN"`)
			if lines != 1 || !strings.Contains(log.String(), `"reason":"`+c.failure+`"`) || !strings.Contains(log.String(), c.says) || strings.Contains(log.String(), `"level":"ERROR"`) {
				t.Errorf("%d lines, want one that holds %q and %q:\n%s", lines, c.failure, c.says, &log)
			}
			st := d.Status()
			if st.Digest != standing || len(st.Sources) != 1 || !strings.Contains(st.Sources[0].LastError, c.says) || !st.Sources[0].FailingAt.Equal(now) {
				t.Errorf("status %+v", st)
			}
			if got := gauge(t, reg, "pratique_database_age_seconds", ""); got != age+90 {
				t.Errorf("age %g, it was %g ninety seconds ago", got, age)
			}
			if n := gauge(t, reg, "pratique_database_failures_total", c.failure); n < 1 {
				t.Errorf("failures for %q: %g", c.failure, n)
			}
			if n := gauge(t, reg, "pratique_database_refusals_total", c.refusal); c.refusal != "" && n != 1 && c.refusal != "digest" {
				t.Errorf("refusals for %q: %g", c.refusal, n)
			}

			// It is over.
			log.Reset()
			if c.failure == "timeout" {
				return // a sound answer may take longer than this test waits for a bad one
			}
			src.push(t, artifact(t, raw, layerType))
			clock = clock.Add(2 * time.Minute)
			for range 2 {
				if err := d.Check(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if st := d.Status(); st.Digest == standing || st.Sources[0] != (database.SourceStatus{Source: src.ref}) {
				t.Errorf("afterwards: %+v", st)
			}
			if n := strings.Count(log.String(), "answers again"); n != 1 {
				t.Errorf("told %d times that it is over:\n%s", n, &log)
			}
		})
	}
}

// gauge is the value of a metric, of the series with this reason.
func gauge(t testing.TB, reg *prometheus.Registry, name, reason string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			found := reason == ""
			for _, l := range m.GetLabel() {
				found = found || l.GetName() == "reason" && l.GetValue() == reason
			}
			if f.GetName() == name && found {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
