package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"

	"pratique"
)

// Error is the body of every answer that is not a success.
type Error struct {
	Message string `json:"error"`
	Hint    string `json:"hint"` // what to do about it; may be empty
}

// apiError is an error with the status that it is answered with.
type apiError struct {
	status  int
	message string
	hint    string
	err     error // cause, for the log; never shown
}

func (e *apiError) Error() string { return e.message }

func (e *apiError) Unwrap() error { return e.err }

// Status is the HTTP status of the answer.
func (e *apiError) Status() int { return e.status }

func badRequest(message, hint string) error {
	return &apiError{status: http.StatusBadRequest, message: message, hint: hint}
}

func unavailable(what string) error {
	return &apiError{status: http.StatusServiceUnavailable, message: what + " is not available in this process"}
}

func notFound(_ http.ResponseWriter, r *http.Request) error {
	return &apiError{
		status:  http.StatusNotFound,
		message: "no such endpoint: " + r.URL.Path,
		hint:    "GET / lists what is here; client and server may be of different versions",
	}
}

// answer runs a handler that returns its error, and is the one place that
// writes it.
func (s *server) answer(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		e := classify(err)
		if e.status >= http.StatusInternalServerError {
			level := slog.LevelWarn // 502 to 504: somebody else's failure
			if e.status == http.StatusInternalServerError {
				level = slog.LevelError
			}
			s.Log.Log(r.Context(), level, "admin request failed", "method", r.Method, "path", r.URL.Path, "status", e.status, "error", err)
		}
		writeError(w, e)
	})
}

// recovering logs a panic where the others are and answers it; net/http would
// only cut the connection.
func (s *server) recovering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.recovered(w, r)
		next.ServeHTTP(w, r)
	})
}

// recovered is deferred.
func (s *server) recovered(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // a panic's value
		panic(v)
	}
	s.Log.ErrorContext(r.Context(), "panic in an admin request", "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	writeError(w, &apiError{status: http.StatusInternalServerError, message: "internal error", hint: "the server's log has the details"})
}

// classify is the one table from error to status. An error with a Status method
// (an upstream's, for one) has chosen its own.
func classify(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	e := &apiError{message: plain(err.Error()), err: err}
	statused, ok := errors.AsType[interface {
		error
		Status() int
	}](err)
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case tooLarge:
		e.status = http.StatusRequestEntityTooLarge
		e.hint = "the upload is larger than this server accepts"
	case ok:
		e.status = statused.Status()
	case errors.Is(err, pratique.ErrInvalid):
		e.status = http.StatusBadRequest
	case errors.Is(err, pratique.ErrNotFound):
		e.status = http.StatusNotFound
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e.status = http.StatusGatewayTimeout
	default:
		e.status = http.StatusInternalServerError
		e.hint = "the server's log has the details"
	}
	switch e.status {
	case http.StatusNotFound:
		e.hint = "check the name and tag; the upstream does not have it or does not show it to this server"
	case http.StatusTooManyRequests:
		e.hint = "the upstream limits requests; configure credentials for it or try again later"
	case http.StatusUnauthorized:
		e.hint = "configure credentials for this upstream"
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		e.hint = "the upstream does not answer as it should; try again, then look at the server's log"
	}
	return e
}

// ociCode is how errors of a registry begin: for its clients, not for people.
var ociCode = regexp.MustCompile(`^[A-Z_]+: `)

func plain(message string) string { return ociCode.ReplaceAllString(message, "") }

func writeError(w http.ResponseWriter, e *apiError) {
	writeJSON(w, e.status, Error{Message: e.message, Hint: e.hint})
}

// writeJSON marshals before it writes, so that a failure is a 500 and not half
// a document.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, `{"error":"the answer does not marshal","hint":""}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}
