package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

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
			s.Log.ErrorContext(r.Context(), "admin request failed", "method", r.Method, "path", r.URL.Path, "status", e.status, "error", err)
		}
		writeError(w, e)
	})
}

// classify is the one table from error to status. An error with a Status method
// (an upstream's, for one) has chosen its own.
func classify(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	e := &apiError{message: err.Error(), err: err}
	statused, ok := errors.AsType[interface {
		error
		Status() int
	}](err)
	switch tooLarge, isTooLarge := errors.AsType[*http.MaxBytesError](err); {
	case isTooLarge:
		_ = tooLarge
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
