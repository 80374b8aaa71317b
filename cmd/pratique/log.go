package main

import (
	"io"
	"log"
	"log/slog"

	"pratique/internal/config"
	"pratique/scanner/match"
)

// newLog writes to w as the configuration says. Trivy's detectors log through
// slog's default logger for each image; match.Quiet keeps that to what matters.
func newLog(cfg config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo // not reached: the configuration holds four words only
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if cfg.Format == "json" {
		handler = slog.NewJSONHandler(w, options)
	}
	return slog.New(match.Quiet(handler))
}

// serverLog is what net/http complains through: broken handshakes and the like,
// which any port scan causes.
func serverLog(l *slog.Logger, name string) *log.Logger {
	return slog.NewLogLogger(l.With("listener", name).Handler(), slog.LevelDebug)
}
