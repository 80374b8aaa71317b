package main

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pratique/internal/config"
)

// counted is a destination that counts writes.
type counted struct {
	bytes.Buffer
	writes int
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes++
	return c.Buffer.Write(p)
}

// TestLogIsGathered: lines are written together, in order, and not late.
func TestLogIsGathered(t *testing.T) {
	tests := []struct {
		name string
		do   func(log *slog.Logger, flush func(), wait func())
		want int // writes
	}{
		{"after a while", func(log *slog.Logger, _ func(), wait func()) { log.Info("one"); log.Info("two"); wait() }, 1},
		{"when flushed", func(log *slog.Logger, flush, _ func()) { log.Info("one"); log.Info("two"); flush() }, 1},
		{"with a warning", func(log *slog.Logger, _, _ func()) { log.Info("one"); log.With("a", 1).Warn("two") }, 1},
		{"each after a while", func(log *slog.Logger, _ func(), wait func()) { log.Info("one"); wait(); log.Info("two"); wait() }, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out counted
				log, flush := newLog(config.Log{Level: "info"}, &out)
				tt.do(log, flush, func() { time.Sleep(logDelay); synctest.Wait() })
				text := out.String()
				if i := strings.Index(text, "msg=one"); i < 0 || strings.Index(text, "msg=two") < i || out.writes != tt.want {
					t.Errorf("%d writes, want %d:\n%s", out.writes, tt.want, text)
				}
				flush()
			})
		})
	}
}

// TestLogLosesNoLine: many at once, more than the buffer holds.
func TestLogLosesNoLine(t *testing.T) {
	const writers, each = 8, 2000
	var out counted
	log, flush := newLog(config.Log{Level: "info", Format: "json"}, &out)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				log.Info("request", "repository", "library/app", "outcome", "served")
			}
		})
	}
	wg.Wait()
	flush()
	lines := strings.Count(out.String(), "\n")
	if lines != writers*each || strings.Count(out.String(), `{"time":`) != lines {
		t.Errorf("%d lines, want %d", lines, writers*each)
	}
	if out.writes > lines/50 {
		t.Errorf("%d writes for %d lines", out.writes, lines)
	}
}
