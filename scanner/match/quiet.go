package match

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"strings"

	dblog "github.com/aquasecurity/trivy-db/pkg/log"
)

// init undoes what linking Trivy does to a program: its log package replaces
// slog's default by a handler that keeps every record in memory for ever,
// without a lock. A program that sets its own default afterwards, as pratique
// does, is not affected; it should wrap its handler in Quiet.
//
//nolint:gochecknoinits // forced by the library, in the one package that wraps it
func init() {
	slog.SetDefault(slog.New(Quiet(slog.NewTextHandler(os.Stderr, nil))))
	dblog.SetLogger(slog.New(slog.DiscardHandler))
}

// Quiet wraps the handler of a program's default logger: whatever Trivy's
// packages log through slog.Default() below the level of errors is passed on as
// a debug message. They log at INFO for each call, and at WARN what reports say
// anyway (unsupported OS, unknown severity).
func Quiet(h slog.Handler) slog.Handler { return quiet{h} }

type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelError && fromTrivy(r.PC) {
		if !q.Enabled(ctx, slog.LevelDebug) {
			return nil
		}
		r.Level = slog.LevelDebug
	}
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(as []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(as)} }
func (q quiet) WithGroup(name string) slog.Handler    { return quiet{q.Handler.WithGroup(name)} }

func fromTrivy(pc uintptr) bool {
	if pc == 0 {
		return false
	}
	f, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	return strings.HasPrefix(f.Function, "github.com/aquasecurity/trivy")
}
