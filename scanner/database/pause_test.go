package database

import (
	"net/http"
	"testing"
	"time"
)

// TestPause: both sides of the jitter, which is a fifth at most.
func TestPause(t *testing.T) {
	for _, c := range []struct {
		name     string
		refresh  time.Duration
		failures int
		standing bool
		want     time.Duration
	}{
		{"after a success", time.Hour, 0, true, time.Hour},
		{"first failure", time.Hour, 1, true, time.Minute},
		{"first failure, nothing to match with", time.Hour, 1, false, 10 * time.Second},
		{"third failure", time.Hour, 3, true, 4 * time.Minute},
		{"many failures", time.Hour, 1000, true, time.Hour},
		{"many failures, rare refresh", 24 * time.Hour, 1000, true, time.Hour},
		{"failure, quick refresh", 30 * time.Second, 5, true, 30 * time.Second},
		{"failure, very quick refresh", time.Millisecond, 5, true, 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 100 {
				if got := pause(c.refresh, c.failures, c.standing); got < c.want || got > c.want*12/10 {
					t.Fatalf("%s, want %s and at most a fifth more", got, c.want)
				}
			}
		})
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"":                   0,
		"soon":               0,
		"-5":                 0,
		"0":                  0,
		"120":                2 * time.Minute,
		"99999999999999":     24 * time.Hour,
		"999999999999999999": 24 * time.Hour,
		now.Add(time.Minute).Format(http.TimeFormat):  time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat): 0,
		now.AddDate(9, 0, 0).Format(http.TimeFormat):  24 * time.Hour,
	} {
		if got := parseRetryAfter(s, now); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}
