package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Exceptions makes and ends exceptions. Implemented by exception.Exceptions.
type Exceptions interface {
	// Create makes one of what is asked for, with an id; it is in force when Create
	// returns. What will never be accepted is an error wrapping pratique.ErrInvalid.
	Create(ctx context.Context, e pratique.Exception) (pratique.Exception, error)
	// Revoke ends one; it is not in force any more when Revoke returns. One that was
	// revoked before stays as it is.
	Revoke(ctx context.Context, id, by, why string) (pratique.Exception, error)
	// List returns all that there ever were, oldest first.
	List(ctx context.Context) ([]pratique.Exception, error)
}

// ExceptionList is what GET /api/v1/exceptions answers.
type ExceptionList struct {
	Exceptions []Exception `json:"exceptions"`
}

// Exception is one exception. Every key is always there; a text that does not
// apply is "", a time null.
type Exception struct {
	ID         string        `json:"id"`
	State      string        `json:"state"` // active, pending (begins later), expired, revoked
	Finding    string        `json:"finding"`
	Rule       string        `json:"rule"`
	Package    string        `json:"package"`
	Repository string        `json:"repository"`
	Digest     digest.Digest `json:"digest"`
	Platform   string        `json:"platform"` // os/architecture[/variant]
	Reason     string        `json:"reason"`
	Author     string        `json:"author"`
	Ticket     string        `json:"ticket"`
	Created    time.Time     `json:"created"`
	Expires    time.Time     `json:"expires"`
	Source     string        `json:"source"` // api, file:NAME
	Revoked    *time.Time    `json:"revoked"`
	RevokedBy  string        `json:"revokedBy"`
	RevokedWhy string        `json:"revokedWhy"`
}

// NewException is the body of POST /api/v1/exceptions.
type NewException struct {
	Finding    string        `json:"finding,omitempty"`
	Rule       string        `json:"rule,omitempty"`
	Package    string        `json:"package,omitempty"`
	Repository string        `json:"repository,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
	Platform   string        `json:"platform,omitempty"`
	Reason     string        `json:"reason"`
	Author     string        `json:"author"`
	Ticket     string        `json:"ticket,omitempty"`
	Expires    time.Time     `json:"expires"`
}

// States of an exception.
const (
	exceptionActive  = "active"
	exceptionPending = "pending"
	exceptionExpired = "expired"
	exceptionRevoked = "revoked"
)

// maxException bounds the body of a new exception: its texts are at most 1,000
// bytes each, and escapes make six of one.
const maxException = 64 << 10

// exceptions answers GET /api/v1/exceptions?all=true: those that are or will be in
// force, or all that there ever were, oldest first.
func (s *server) exceptions(w http.ResponseWriter, r *http.Request) error {
	all := false
	if text := r.URL.Query().Get("all"); text != "" {
		var err error
		if all, err = strconv.ParseBool(text); err != nil {
			return badRequest("all is neither true nor false: "+text, "write all=true for those that ended too")
		}
	}
	list, err := s.listExceptions(r.Context())
	if err != nil {
		return err
	}
	out := ExceptionList{Exceptions: []Exception{}}
	for _, e := range list {
		if all || e.State == exceptionActive || e.State == exceptionPending {
			out.Exceptions = append(out.Exceptions, e)
		}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// exception answers GET /api/v1/exceptions/{id}.
func (s *server) exception(w http.ResponseWriter, r *http.Request) error {
	list, err := s.listExceptions(r.Context())
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.ID == r.PathValue("id") {
			writeJSON(w, http.StatusOK, e)
			return nil
		}
	}
	return noException(r.PathValue("id"))
}

// exceptionCreate answers POST /api/v1/exceptions: 201 with what was made.
func (s *server) exceptionCreate(w http.ResponseWriter, r *http.Request) error {
	if s.Exceptions == nil {
		return unavailable("the list of exceptions")
	}
	var in NewException
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxException))
	dec.DisallowUnknownFields() // a misspelt "package" would make the exception one for all packages
	err := dec.Decode(&in)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = errors.New("something follows the object")
		}
	}
	switch _, large := errors.AsType[*http.MaxBytesError](err); {
	case large:
		return &apiError{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("more than %d bytes", maxException), err: err}
	case err != nil:
		return badRequest("not an exception: "+err.Error(), "docs/cli.md shows one; times are RFC 3339")
	}
	e := pratique.Exception{
		Finding: in.Finding, Rule: in.Rule, Package: in.Package, Repository: in.Repository, Digest: in.Digest,
		Reason: in.Reason, Author: in.Author, Ticket: in.Ticket, Expires: in.Expires,
	}
	if in.Platform != "" {
		p, err := pratique.ParsePlatform(in.Platform)
		if err != nil {
			return badRequest(err.Error(), "")
		}
		e.Platform = &p
	}
	if e.Repository, err = s.byKey(strings.TrimSpace(e.Repository)); err != nil {
		return err
	}
	if e, err = s.Exceptions.Create(r.Context(), e); err != nil {
		return refusedException(err)
	}
	writeJSON(w, http.StatusCreated, newException(e, time.Now()))
	return nil
}

// exceptionRevoke answers DELETE /api/v1/exceptions/{id}?by=NAME&reason=TEXT:
// 200 with the exception as it is kept. Nothing is ever deleted.
func (s *server) exceptionRevoke(w http.ResponseWriter, r *http.Request) error {
	if s.Exceptions == nil {
		return unavailable("the list of exceptions")
	}
	query := r.URL.Query()
	e, err := s.Exceptions.Revoke(r.Context(), r.PathValue("id"), query.Get("by"), query.Get("reason"))
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		return noException(r.PathValue("id"))
	case err != nil:
		return refusedException(err)
	}
	writeJSON(w, http.StatusOK, newException(e, time.Now()))
	return nil
}

// byKey writes a repository's glob with the key of its upstream, under which images
// are judged. An upstream that nobody configured would make the exception one that
// never lifts anything.
func (s *server) byKey(glob string) (string, error) {
	upstream, name, ok := strings.Cut(glob, "/")
	if !ok || s.Upstreams == nil || strings.ContainsAny(upstream, "*?") {
		return glob, nil
	}
	key, ok := s.Upstreams.Lookup(upstream)
	if !ok {
		return "", badRequest(fmt.Sprintf("repository %.200q: no upstream %.100q", glob, upstream), "configured are: "+strings.Join(s.Upstreams.Keys(), ", "))
	}
	return key + "/" + name, nil
}

func noException(id string) error {
	return &apiError{status: http.StatusNotFound, message: fmt.Sprintf("no exception %.80q", id), hint: "`pratique exception list --all` shows them"}
}

// refusedException puts what was joined into one line.
func refusedException(err error) error {
	if !errors.Is(err, pratique.ErrInvalid) {
		return err
	}
	message := strings.ReplaceAll(err.Error(), "\n", "; ")
	return &apiError{status: http.StatusBadRequest, message: message, err: err}
}

func (s *server) listExceptions(ctx context.Context) ([]Exception, error) {
	if s.Exceptions == nil {
		return nil, unavailable("the list of exceptions")
	}
	all, err := s.Exceptions.List(ctx)
	if err != nil {
		return nil, err
	}
	out, now := make([]Exception, len(all)), time.Now()
	for i, e := range all {
		out[i] = newException(e, now)
	}
	return out, nil
}

func newException(e pratique.Exception, now time.Time) Exception {
	out := Exception{
		ID: e.ID, State: exceptionState(e, now), Finding: e.Finding, Rule: e.Rule, Package: e.Package,
		Repository: e.Repository, Digest: e.Digest, Reason: e.Reason, Author: e.Author, Ticket: e.Ticket,
		Created: e.Created.UTC(), Expires: e.Expires.UTC(), Source: e.Source,
		Revoked: instant(e.Revoked), RevokedBy: e.RevokedBy, RevokedWhy: e.RevokedWhy,
	}
	if e.Platform != nil {
		out.Platform = e.Platform.String()
	}
	return out
}

func exceptionState(e pratique.Exception, now time.Time) string {
	switch {
	case e.Active(now):
		return exceptionActive
	case !e.Revoked.IsZero():
		return exceptionRevoked
	case now.Before(e.Created):
		return exceptionPending
	}
	return exceptionExpired
}
