package exception

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/strictyaml"
	"pratique/store"
)

// document is a GitOps file. docs/exceptions.md is its manual.
type document struct {
	Exceptions []entry `yaml:"exceptions"`
}

// entry is one exception of a file.
type entry struct {
	Pos strictyaml.Pos

	Finding    string   `yaml:"finding"`
	Rule       string   `yaml:"rule"`
	Package    string   `yaml:"package"`
	Repository string   `yaml:"repository"`
	Digest     string   `yaml:"digest"`
	Platform   platform `yaml:"platform"`
	Reason     string   `yaml:"reason"`
	Author     string   `yaml:"author"`
	Ticket     string   `yaml:"ticket"`
	// Created is when it begins. If it is left out, when it was first seen.
	Created instant `yaml:"created"`
	Expires instant `yaml:"expires"`
}

// platform reads os/architecture[/variant].
type platform struct{ *pratique.Platform }

func (p *platform) UnmarshalText(b []byte) error {
	parsed, err := pratique.ParsePlatform(string(b))
	p.Platform = &parsed
	return err
}

// instant reads RFC 3339, or a date.
type instant struct {
	time.Time
	date bool
}

func (i *instant) UnmarshalText(b []byte) (err error) {
	if i.Time, err = time.Parse(time.DateOnly, string(b)); err == nil {
		i.date = true
	} else if i.Time, err = time.Parse(time.RFC3339, string(b)); err != nil {
		return fmt.Errorf("want a date such as 2026-12-31, which means its end in UTC, or a time such as 2026-12-31T12:00:00Z, not %q", b)
	}
	if !plausible(i.Time) {
		return fmt.Errorf("%s is not in the years %d to %d", b, firstYear, lastYear)
	}
	return nil
}

// end is the instant, or the end of the day.
func (i instant) end() time.Time {
	if i.date {
		return i.AddDate(0, 0, 1)
	}
	return i.UTC()
}

// file is one that was read whole.
type file struct {
	name    string
	sum     string // of its bytes
	entries []pratique.Exception
	at      []strictyaml.Pos // of each entry
}

// source is the Source of a file's exceptions.
func (f *file) source() string { return sourceFile + f.name }

// Check reads files as Reload would and says what is wrong with them, without a
// store: durations count from created, or from now.
func Check(files []string, most time.Duration, now time.Time) error {
	read, err := readFiles(files)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range read {
		for i, x := range f.entries {
			if !x.Expires.After(now) {
				continue // over, and no mistake
			}
			if x.Created.IsZero() {
				x.Created = now.UTC().Truncate(time.Second)
			}
			x.ID = fileID(f, x, 0)
			errs = append(errs, at(f.at[i], check(x, most, time.Time{})))
		}
	}
	return errors.Join(errs...)
}

// readFiles reads all of them; the error joins what is wrong in any.
func readFiles(names []string) ([]*file, error) {
	var out []*file
	var errs []error
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		raw, err := readFile(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("exceptions: %w", err))
			continue
		}
		f, err := parseFile(name, raw)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, f)
	}
	return out, errors.Join(errs...)
}

// readFile reads one byte more than is accepted, so that a device or a mistaken
// path cannot fill the memory.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, strictyaml.MaxSize+1))
}

// parseFile reads a file's bytes; what needs the time or the store is not checked
// yet. The error wraps pratique.ErrInvalid and says file and line of each mistake.
func parseFile(name string, raw []byte) (*file, error) {
	var doc document
	positions, err := strictyaml.Decode(name, raw, &doc)
	if err != nil {
		return nil, fmt.Errorf("%w exceptions: %w", pratique.ErrInvalid, err)
	}
	if _, ok := positions["exceptions"]; !ok {
		// A file that is being written, or lost its content, is not one that
		// takes every exception back.
		return nil, fmt.Errorf("%w exceptions: %s: no key `exceptions`; to have none, write `exceptions: []`", pratique.ErrInvalid, name)
	}
	sum := sha256.Sum256(raw)
	f := &file{name: name, sum: hex.EncodeToString(sum[:])}
	var errs []error
	first := make(map[string]strictyaml.Pos)
	for _, n := range doc.Exceptions {
		x := n.exception()
		x.Source = f.source()
		id := fileID(f, x, 0)
		if twin, ok := first[id]; ok {
			errs = append(errs, at(n.Pos, invalid("the same as the one in line %d", twin.Line)))
			continue
		}
		first[id] = n.Pos
		// A stand-in for what is not known yet lets every other mistake be found
		// before anything is changed.
		trial := x
		if trial.ID = id; trial.Created.IsZero() && !trial.Expires.IsZero() {
			trial.Created = trial.Expires.Add(-time.Second)
		}
		if err := check(trial, 0, time.Time{}); err != nil {
			errs = append(errs, at(n.Pos, err))
		}
		f.entries, f.at = append(f.entries, x), append(f.at, n.Pos)
	}
	return f, errors.Join(errs...)
}

// at says where a mistake is. Each of joined errors gets the place.
func at(pos strictyaml.Pos, err error) error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok && strings.Contains(err.Error(), "\n") {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, at(pos, e))
		}
		return errors.Join(out...)
	}
	return fmt.Errorf("%s: %w", pos, err)
}

func (n *entry) exception() pratique.Exception {
	x := pratique.Exception{
		Finding: n.Finding, Rule: n.Rule, Package: n.Package,
		Repository: n.Repository, Digest: digest.Digest(n.Digest), Platform: n.Platform.Platform,
		Reason: n.Reason, Author: n.Author, Ticket: n.Ticket,
		Created: n.Created.Time, Expires: n.Expires.end(),
	}
	if n.Expires.IsZero() {
		x.Expires = time.Time{}
	}
	return tidy(x)
}

// fileID is made from what the entry says and where, so that every process and
// every start finds the same exception in it. An exception never comes back once
// it is revoked: one that was taken out and put in again has the next turn.
func fileID(f *file, x pratique.Exception, turn int) string {
	x.ID, x.Source = "", f.source()
	raw, err := json.Marshal(struct {
		Exception pratique.Exception
		Turn      int
	}{x, turn})
	if err != nil {
		panic(fmt.Sprintf("an exception does not marshal: %v", err)) // texts and times always do
	}
	sum := sha256.Sum256(raw)
	return "ex-" + hex.EncodeToString(sum[:8])
}

// follow makes the store hold what the files say, and returns all that it holds
// then. Everything is checked before anything is written. What is new is created
// before what is gone is revoked, so that a crash in between leaves too many and
// never too few; the next Reload goes on. Callers hold mu.
func (e *Exceptions) follow(ctx context.Context, all []pratique.Exception, files []*file) ([]pratique.Exception, error) {
	byID := make(map[string]pratique.Exception, len(all))
	for _, x := range all {
		byID[x.ID] = x
	}
	var create, revoke []pratique.Exception
	var errs []error
	wanted := make(map[string]bool)  // ids that the files name
	settled := make(map[string]bool) // sources that were acted on before
	for _, f := range files {
		settled[f.source()] = e.applied[f.name] == f.sum
		if settled[f.source()] {
			continue
		}
		for i, x := range f.entries {
			x, isNew, err := e.stands(f, x, byID)
			switch {
			case err != nil:
				errs = append(errs, at(f.at[i], err))
			case isNew:
				create = append(create, x)
			}
			wanted[x.ID] = true
		}
	}
	if len(errs) > 0 {
		return all, errors.Join(errs...)
	}
	for _, x := range all {
		if !strings.HasPrefix(x.Source, sourceFile) || !x.Revoked.IsZero() || wanted[x.ID] || settled[x.Source] {
			continue
		}
		// A file that is not configured here was taken away before this process began,
		// or is one that a replica with a newer configuration has.
		if _, configured := settled[x.Source]; configured || !e.begun {
			revoke = append(revoke, x)
		}
	}
	all, err := e.write(ctx, slices.Clone(all), create, revoke, settled)
	if err == nil {
		e.begun = true
		for _, f := range files {
			e.applied[f.name] = f.sum
		}
	}
	return all, err
}

// stands returns the exception that an entry is: the one there is, or a new one.
func (e *Exceptions) stands(f *file, x pratique.Exception, byID map[string]pratique.Exception) (_ pratique.Exception, isNew bool, _ error) {
	content, first := x, time.Time{}
	for turn := 0; ; turn++ {
		x.ID = fileID(f, content, turn)
		old, ok := byID[x.ID]
		if !ok {
			break
		}
		if first.IsZero() {
			first = old.Created
		}
		switch {
		case old.Revoked.IsZero():
			return old, false, nil
		case old.RevokedBy != old.Source:
			// A person took it back: that the file still has it, or has it again, is
			// no new decision.
			e.cfg.Log.Warn("an exception in a file stays revoked; change its entry to have a new one", "file", f.name, "id", old.ID, "by", old.RevokedBy)
			return old, false, nil
		}
	}
	now := e.now()
	if x.Created.IsZero() {
		x.Created = now
	}
	if !x.Expires.After(now) {
		return x, false, nil // ended before it was ever seen: nothing to lift, and no reason to fail
	}
	// To take it out and put it in again makes it last no longer.
	since := x.Created
	if !first.IsZero() && first.Before(since) {
		since = first
	}
	return x, true, check(x, e.cfg.MaxDuration, since)
}

// write stores creations and revocations and returns all with what was done, also
// when a later one fails.
func (e *Exceptions) write(ctx context.Context, all, create, revoke []pratique.Exception, known map[string]bool) ([]pratique.Exception, error) {
	for _, x := range create {
		err := e.store.CreateException(ctx, x)
		if errors.Is(err, store.ErrExists) {
			// Another replica was faster with the same file.
			if all, err = e.store.Exceptions(ctx); err != nil {
				return e.all(), fmt.Errorf("exceptions: %w", err)
			}
			continue
		}
		if err != nil {
			return all, fmt.Errorf("exceptions: %w", err)
		}
		e.created(ctx, x)
		all = append(all, x)
	}
	for _, x := range revoke {
		why := "taken out of the file"
		if _, ok := known[x.Source]; !ok {
			why = "its file is not configured any more"
		}
		gone, err := e.store.RevokeException(ctx, x.ID, x.Source, why, e.now())
		if err != nil {
			return all, fmt.Errorf("exceptions: %w", err)
		}
		e.revoked(ctx, gone)
		all = with(all, gone)
	}
	return all, nil
}
