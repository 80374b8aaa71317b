//go:build goexperiment.jsonv2

package analyze

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"syscall"

	"pratique"
)

// maxProblems bounds what one layer can make us keep; a thousand malformed
// files are as incomplete as ten.
const maxProblems = 100

// recorder is the slog.Handler that turns what Trivy's analyzers log and drop
// into problems. Most failures are logged at DEBUG with one of the messages in
// failures; every WARN and ERROR counts unless harmless says why not.
type recorder struct {
	shared *recorded
	attrs  []slog.Attr
	least  slog.Level
}

type recorded struct {
	mu       sync.Mutex
	problems []pratique.Problem
	dropped  int
}

func newRecorder() *recorder { return &recorder{shared: new(recorded), least: slog.LevelDebug} }

// take returns the problems since the last take.
func (r *recorder) take() []pratique.Problem {
	r.shared.mu.Lock()
	defer r.shared.mu.Unlock()
	out := r.shared.problems
	if r.shared.dropped > 0 {
		out = append(out, pratique.Problem{Source: "log", Message: "more problems than are kept"})
	}
	r.shared.problems, r.shared.dropped = nil, 0
	return out
}

// Enabled implements slog.Handler.
func (r *recorder) Enabled(_ context.Context, l slog.Level) bool { return l >= r.least }

// Handle implements slog.Handler.
func (r *recorder) Handle(_ context.Context, rec slog.Record) error {
	if rec.Level < slog.LevelWarn && !failures[rec.Message] {
		return nil
	}
	e := entry{message: rec.Message}
	for _, a := range r.attrs {
		e.add(a)
	}
	rec.Attrs(func(a slog.Attr) bool {
		e.add(a)
		return true
	})
	if e.harmless() {
		return nil
	}
	r.shared.mu.Lock()
	defer r.shared.mu.Unlock()
	if len(r.shared.problems) >= maxProblems {
		r.shared.dropped++
		return nil
	}
	r.shared.problems = append(r.shared.problems, e.problem())
	return nil
}

// WithAttrs implements slog.Handler. The secret scanner writes several lines at
// DEBUG for every file and rule and none of them is a failure; not to be asked
// for them saves a tenth of the time.
func (r *recorder) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *r
	c.attrs = append(c.attrs[:len(c.attrs):len(c.attrs)], attrs...)
	for _, a := range attrs {
		if strings.TrimSpace(a.Value.String()) == "[secret]" {
			c.least = slog.LevelWarn
		}
	}
	return &c
}

// WithGroup implements slog.Handler. Trivy's analyzers use no groups.
func (r *recorder) WithGroup(string) slog.Handler { return r }

// entry is one log line.
type entry struct {
	message string
	path    string
	err     string
	source  string
	details []string
}

func (e *entry) add(a slog.Attr) {
	v := a.Value.String()
	switch {
	case a.Key == "file_path":
		e.path = v
	case strings.HasPrefix(v, "[") && strings.HasSuffix(v, "] "):
		e.source = strings.Trim(v, "[] ")
	default:
		if err, ok := a.Value.Any().(error); ok {
			e.err = err.Error()
			return
		}
		e.details = append(e.details, a.Key+"="+v)
	}
}

func (e entry) problem() pratique.Problem {
	m := e.message
	if e.err != "" {
		m += ": " + e.err
	}
	if len(e.details) > 0 {
		m += " (" + strings.Join(e.details, ", ") + ")"
	}
	p := pratique.Problem{Path: printable(e.path), Source: e.source, Message: printable(m)}
	if environment(e.err) {
		p.Source, p.Fatal = "worker", true
	}
	return p
}

// environment tells errors that are the machine's or a limit's: they must not be
// stored as the layer's own, so they are fatal.
func environment(err string) bool {
	for _, errno := range []syscall.Errno{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EIO, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
		syscall.EPERM, syscall.EACCES,
	} {
		if strings.HasSuffix(err, ": "+errno.Error()) {
			return true
		}
	}
	return false
}

// printable bounds a message and takes out what a layer's file names and
// contents could do to a terminal or a log.
func printable(s string) string {
	const most = 500
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
}

// failures are the messages below WARN with which Trivy drops something.
var failures = map[string]bool{
	"Analysis error":              true, // an analyzer failed on a file (analyzer.go)
	"Walk error":                  true, // a post analyzer failed on a file (fsutils, parallel)
	"Failed to parse":             true, // an archive in an archive (jar)
	"Parse error":                 true,
	"Permission error":            true,
	"Image config analysis error": true, // a config analyzer failed
	"Failed to get process-specific temp directory, falling back to system temp": true,
}

// harmless tells the lines that do not mean that something was not read. Each is
// one exact message, narrowed where one message has several causes.
func (e entry) harmless() bool {
	switch e.message {
	// The file is scanned all the same.
	case "The size of the scanned file is too large. It is recommended to use `--skip-files` for this file to avoid high memory consumption.",
		"Invalid UTF-8 sequences detected in file content, replacing with empty string":
		return true
	// Advice about SBOMs by others; they are read.
	case "Third-party SBOM may lead to inaccurate vulnerability detection", "Recommend using Trivy to generate SBOMs",
		"Unsupported hash algorithm":
		return true
	// Licences, checksums, and the main module's version: not what is matched.
	case "Unable to collect additional info", "Unable to get checksum", "Failed to calculate the package hash",
		"Could not parse -ldflags found in build info":
		return true
	// dpkg: lists of installed files serve to hide language packages that dpkg
	// owns; without one more is reported. `available` gives checksums alone.
	case "Parse error":
		return e.path == "var/lib/dpkg/available"
	case "Walk error":
		// ".par" is also the name of things that are no Java archives.
		return strings.HasSuffix(e.path, ".md5sums") ||
			strings.HasSuffix(e.path, ".par") && strings.HasSuffix(e.err, ": zip: not a valid zip file")
	case "Analysis error":
		return notNPM(e.err)
	// A config without history makes a Dockerfile without a line: nothing to check.
	case "Failed to parse file":
		return e.path == historyFile && e.err == "dockerfile parse error: file with no instructions"
	}
	return false
}

// notNPM tells a package.json that is not one: npm packages carry others inside
// (rxjs 6 has one per module, test suites broken ones on purpose). Without a name
// that the registry takes no advisory can be of it, and what is no JSON object is
// not loaded by Node.js either. An object with a field of an unexpected type is
// not among them: it may be an installed package.
func notNPM(err string) bool {
	rest, ok := strings.CutPrefix(err, "failed to parse ")
	if !ok {
		return false
	}
	path, cause, ok := strings.Cut(rest, ": ")
	if !ok || path != "package.json" && !strings.HasSuffix(path, "/package.json") {
		return false
	}
	cause = strings.TrimPrefix(cause, "failed to parse "+path+": ")
	if cause == "Name can only contain URL-friendly characters" {
		return true
	}
	decode, ok := strings.CutPrefix(cause, "JSON decode error: ")
	return ok && (decode == "EOF" || decode == "unexpected EOF" || strings.HasPrefix(decode, "invalid character ") ||
		strings.HasPrefix(decode, "json: cannot unmarshal ") && strings.HasSuffix(decode, " into Go value of type packagejson.packageJSON"))
}
