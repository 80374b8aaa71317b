//go:build goexperiment.jsonv2

package analyze

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"github.com/aquasecurity/trivy/pkg/log"
)

// Lines that Trivy writes, word for word, and whether something was not read.
func TestRecorder(t *testing.T) {
	deep := func(path, cause string) error {
		return errors.New("failed to parse " + path + ": failed to parse " + path + ": " + cause)
	}
	tests := map[string]struct {
		write func(*slog.Logger)
		want  bool
	}{
		"analyzer failed": {func(l *slog.Logger) { l.Debug("Analysis error", log.Err(errors.New("failed to parse rpmdb: boom"))) }, true},
		"post analyzer failed": {func(l *slog.Logger) {
			l.Debug("Walk error", log.FilePath("var/lib/dpkg/status"), log.Err(errors.New("scan error")))
		}, true},
		"jar in a jar": {func(l *slog.Logger) {
			l.Debug("Failed to parse", log.String("file", "a.jar"), log.Err(errors.New("no space left")))
		}, true},
		"no permission": {func(l *slog.Logger) { l.Debug("Permission error", log.FilePath("x")) }, true},
		"image config":  {func(l *slog.Logger) { l.Debug("Image config analysis error", log.Err(errors.New("x"))) }, true},
		"dpkg paragraph": {func(l *slog.Logger) {
			l.Warn("Parse error", log.FilePath("var/lib/dpkg/status"), log.Err(errors.New("x")))
		}, true},
		"dpkg version": {func(l *slog.Logger) { l.Warn("Invalid version", log.String("package", "a")) }, true},
		"any warning":  {func(l *slog.Logger) { l.Warn("something new in a later version of Trivy") }, true},
		"any error":    {func(l *slog.Logger) { l.Error("something new in a later version of Trivy") }, true},
		"other debug":  {func(l *slog.Logger) { l.Debug("Unable to find the direct dependency", log.Err(errors.New("x"))) }, false},
		"info":         {func(l *slog.Logger) { l.Info("Walk error is only said") }, false},
		"md5sums": {func(l *slog.Logger) {
			l.Debug("Walk error", log.FilePath("var/lib/dpkg/info/a.md5sums"), log.Err(errors.New("x")))
		}, false},
		"available": {func(l *slog.Logger) {
			l.Warn("Parse error", log.FilePath("var/lib/dpkg/available"), log.Err(errors.New("x")))
		}, false},
		"large text file": {func(l *slog.Logger) {
			l.Warn("The size of the scanned file is too large. It is recommended to use `--skip-files` for this file to avoid high memory consumption.", log.FilePath("x"))
		}, false},
		"not UTF-8": {func(l *slog.Logger) {
			l.Warn("Invalid UTF-8 sequences detected in file content, replacing with empty string")
		}, false},
		"somebody's SBOM": {func(l *slog.Logger) { l.Warn("Third-party SBOM may lead to inaccurate vulnerability detection") }, false},
		"no history": {func(l *slog.Logger) {
			l.Error("Failed to parse file", log.FilePath("Dockerfile"), log.Err(errors.New("dockerfile parse error: file with no instructions")))
		}, false},
		"history not parsed": {func(l *slog.Logger) {
			l.Error("Failed to parse file", log.FilePath("Dockerfile"), log.Err(errors.New("dockerfile parse error on line 3: unknown instruction: foo")))
		}, true},
		"rxjs 6": {func(l *slog.Logger) {
			l.Debug("Analysis error", log.Err(deep("n/node_modules/rxjs/ajax/package.json", "Name can only contain URL-friendly characters")))
		}, false},
		"no JSON": {func(l *slog.Logger) {
			l.Debug("Analysis error", log.Err(deep("package.json", "JSON decode error: invalid character '}' looking for beginning of value")))
		}, false},
		"no object": {func(l *slog.Logger) {
			l.Debug("Analysis error", log.Err(deep("a/package.json", "JSON decode error: json: cannot unmarshal string into Go value of type packagejson.packageJSON")))
		}, false},
		"field of another type": {func(l *slog.Logger) {
			l.Debug("Analysis error", log.Err(deep("a/package.json", "JSON decode error: json: cannot unmarshal array into Go struct field packageJSON.dependencies of type map[string]string")))
		}, true},
		"no JSON elsewhere": {func(l *slog.Logger) {
			l.Debug("Analysis error", log.Err(deep("a/installed.json", "JSON decode error: unexpected EOF")))
		}, true},
		"Bitnami's SBOM": {func(l *slog.Logger) { l.Debug("Analysis error", log.Err(errors.New("SBOM decode error: EOF"))) }, true},
		"not a Java archive": {func(l *slog.Logger) {
			l.Debug("Walk error", log.FilePath("usr/share/a.par"), log.Err(errors.New("failed to parse usr/share/a.par: unable to parse usr/share/a.par: zip error: zip: not a valid zip file")))
		}, false},
		"broken jar": {func(l *slog.Logger) {
			l.Debug("Walk error", log.FilePath("a.jar"), log.Err(errors.New("zip error: zip: not a valid zip file")))
		}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRecorder()
			tt.write(slog.New(r).With(log.Prefix("test")))
			got := r.take()
			if (len(got) > 0) != tt.want {
				t.Errorf("problems %+v, want one: %v", got, tt.want)
			}
			for _, p := range got {
				if p.Source != "test" || p.Message == "" {
					t.Errorf("problem %+v", p)
				}
			}
		})
	}
}

// What the machine did is fatal, so that it is not stored as the layer's doing.
func TestRecorderEnvironment(t *testing.T) {
	for err, want := range map[error]bool{
		fmt.Errorf("failed to parse rpmdb: %w", &fs.PathError{Op: "write", Path: "/tmp/x", Err: syscall.ENOSPC}): true,
		fmt.Errorf("copy: %w", &fs.PathError{Op: "write", Path: "/tmp/x", Err: syscall.EFBIG}):                   true,
		errors.New("failed to parse rpmdb: unexpected EOF"):                                                      false,
	} {
		r := newRecorder()
		slog.New(r).Debug("Analysis error", log.Err(err))
		if got := r.take(); len(got) != 1 || got[0].Fatal != want {
			t.Errorf("%v: %+v, want fatal %v", err, got, want)
		}
	}
}

// A layer cannot make the parent keep without end, nor put control characters
// on a terminal.
func TestRecorderBounds(t *testing.T) {
	r := newRecorder()
	l := slog.New(r)
	for range 5 * maxProblems {
		l.Warn("x", log.Err(errors.New("\x1b[31m"+strings.Repeat("y", 10_000))))
	}
	got := r.take()
	if len(got) != maxProblems+1 {
		t.Errorf("%d problems", len(got))
	}
	if m := got[0].Message; len(m) > 600 || strings.Contains(m, "\x1b") {
		t.Errorf("message %q", m)
	}
	if again := r.take(); len(again) != 0 {
		t.Errorf("taken twice: %d", len(again))
	}
}
