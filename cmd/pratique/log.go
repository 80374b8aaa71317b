package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"pratique/internal/config"
)

// newLog writes to w as the configuration says. The caller calls flush before
// the process ends: a line about a request may be up to logDelay late.
func newLog(cfg config.Log, w io.Writer) (_ *slog.Logger, flush func()) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo // not reached: the configuration holds four words only
	}
	lines := &lineWriter{to: w}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(lines, options)
	if cfg.Format == "json" {
		handler = slog.NewJSONHandler(lines, options)
	}
	return slog.New(prompt{handler, lines}), lines.Flush
}

const (
	// logDelay is how late a line may be: what a process that is killed loses.
	logDelay = 100 * time.Millisecond
	// logRoom is how many bytes of lines wait at most; with more they are
	// written at once, by whoever logs. No line is ever dropped.
	logRoom = 64 << 10
)

// lineWriter gathers lines: a write(2) for each would be a tenth of the cost of
// a warm request.
type lineWriter struct {
	to io.Writer

	mu      sync.Mutex
	waiting bytes.Buffer
	armed   bool // a timer will flush
}

// Write takes whole lines, as slog's handlers write them.
func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting.Write(p)
	if l.waiting.Len() >= logRoom {
		return len(p), l.flush()
	}
	if !l.armed {
		l.armed = true
		time.AfterFunc(logDelay, l.Flush)
	}
	return len(p), nil
}

// Flush writes what waits.
func (l *lineWriter) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	_ = l.flush() // there is no place to tell that the log cannot be written
}

func (l *lineWriter) flush() error {
	if l.waiting.Len() == 0 {
		return nil
	}
	_, err := l.to.Write(l.waiting.Bytes())
	l.waiting.Reset()
	return err
}

// prompt writes at once what is more than an account of a request: it may be
// the last that is heard of the process.
type prompt struct {
	slog.Handler
	lines *lineWriter
}

func (p prompt) Handle(ctx context.Context, r slog.Record) error {
	err := p.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		p.lines.Flush()
	}
	return err
}

func (p prompt) WithAttrs(as []slog.Attr) slog.Handler {
	return prompt{p.Handler.WithAttrs(as), p.lines}
}
func (p prompt) WithGroup(name string) slog.Handler {
	return prompt{p.Handler.WithGroup(name), p.lines}
}

// serverLog is what net/http complains through: broken handshakes and the like,
// which any port scan causes.
func serverLog(l *slog.Logger, name string) *log.Logger {
	return slog.NewLogLogger(l.With("listener", name).Handler(), slog.LevelDebug)
}
