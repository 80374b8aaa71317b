package proxy

import (
	"errors"
	"fmt"
	"net/http"
)

// Unavailable makes an Error for what is nobody's fault but ours or the
// upstream's: 502, 503 or 504. The closed list of codes has none for it;
// TOOMANYREQUESTS is the one whose advice fits (ask again later).
func Unavailable(status int, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: CodeTooManyRequests, Message: err.Error(), HTTPStatus: status, Err: errors.Unwrap(err)}
}

// Down reports whether err says that the upstream could not answer now (down,
// limited, too slow), so that what was cached may stand in. An answer that the
// upstream did give, an unknown name or a refusal, is not one, and neither is a
// 503: that is ours (disk full, shutting down).
func Down(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status() {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
		return true
	}
	return false
}
