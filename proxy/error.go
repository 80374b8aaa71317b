package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Code is an error code of OCI distribution-spec 1.1; the list is closed.
type Code string

// Codes that the pull side uses.
const (
	CodeBlobUnknown     Code = "BLOB_UNKNOWN"
	CodeDigestInvalid   Code = "DIGEST_INVALID"
	CodeManifestInvalid Code = "MANIFEST_INVALID"
	CodeManifestUnknown Code = "MANIFEST_UNKNOWN"
	CodeNameInvalid     Code = "NAME_INVALID"
	CodeNameUnknown     Code = "NAME_UNKNOWN"
	CodeSizeInvalid     Code = "SIZE_INVALID"
	CodeUnauthorized    Code = "UNAUTHORIZED"
	CodeDenied          Code = "DENIED"
	CodeUnsupported     Code = "UNSUPPORTED"
	CodeTooManyRequests Code = "TOOMANYREQUESTS"
)

// statuses is the one table from code to HTTP status.
var statuses = map[Code]int{
	CodeBlobUnknown:     http.StatusNotFound,
	CodeDigestInvalid:   http.StatusBadRequest,
	CodeManifestInvalid: http.StatusBadRequest,
	CodeManifestUnknown: http.StatusNotFound,
	CodeNameInvalid:     http.StatusBadRequest,
	CodeNameUnknown:     http.StatusNotFound,
	CodeSizeInvalid:     http.StatusBadRequest,
	CodeUnauthorized:    http.StatusUnauthorized,
	CodeDenied:          http.StatusForbidden,
	CodeUnsupported:     http.StatusMethodNotAllowed,
	CodeTooManyRequests: http.StatusTooManyRequests,
}

// Error is an answer that is not the content asked for. Message is one line
// for a person, Detail the same for a program.
type Error struct {
	Code       Code
	Message    string
	Detail     any
	RetryAfter time.Duration // 0 = no header
	// HTTPStatus overrides the code's status: 502, 503 and 504 have no code of
	// their own in the closed list.
	HTTPStatus int
	// Bare marks a refusal or a pending verdict whose HEAD is answered 200
	// without digest and length, so that no client falls back or believes it.
	Bare bool
	Err  error // cause, for the log; never shown to a client
}

// Errorf makes an Error with the code's own status.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

func (e *Error) Unwrap() error { return e.Err }

// Status is the HTTP status the error is answered with; an unknown code is 500.
func (e *Error) Status() int {
	if e.HTTPStatus != 0 {
		return e.HTTPStatus
	}
	if s, ok := statuses[e.Code]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Delay is RetryAfter for those who know an error only by its methods: the
// scheduler, which must not import this package.
func (e *Error) Delay() time.Duration { return e.RetryAfter }
