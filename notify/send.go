package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// SignatureHeader holds t=UNIXTIME,v1=HEX: HMAC-SHA256 with the sink's secret over
// UNIXTIME, ".", in binary mode the ce- headers, and the body (docs/events.md).
const SignatureHeader = "Pratique-Signature"

const (
	maxAnswer     = 64 << 10
	maxRetryAfter = time.Hour
)

// failure says why a sink did not take an event.
type failure struct {
	text  string
	after time.Duration // not before; 0 = as we like
	// wide: the sink would not take another one either.
	wide bool
}

func (f *failure) Error() string { return f.text }

// send posts a message; nil means that the sink has it.
func (s *sink) send(ctx context.Context, m message, now time.Time, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(m.body))
	if err != nil {
		return &failure{text: "the URL cannot be used", wide: true}
	}
	req.Header = m.header.Clone()
	req.Header.Set("User-Agent", "pratique")
	if len(s.Secret) > 0 {
		req.Header.Set(SignatureHeader, sign(s.Secret, now, m))
	}
	client := &http.Client{Transport: s.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // its text has the URL, which may be a secret
		}
		return &failure{text: line(err.Error()), wide: true}
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // so that the connection can be used again
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return nil
	}
	f := &failure{text: fmt.Sprintf("answered %d", res.StatusCode), after: retryAfter(res, now)}
	switch res.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType:
		// It does not like this one.
	default:
		f.wide = true
	}
	return f
}

func sign(secret []byte, now time.Time, m message) string {
	t := strconv.FormatInt(now.Unix(), 10)
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(t + "." + m.signed))
	h.Write(m.body)
	return "t=" + t + ",v1=" + hex.EncodeToString(h.Sum(nil))
}

// retryAfter is what the sink asks for, in seconds or as a date.
func retryAfter(res *http.Response, now time.Time) time.Duration {
	text := res.Header.Get("Retry-After")
	var d time.Duration
	if n, err := strconv.Atoi(text); err == nil {
		d = time.Duration(min(max(n, 0), int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
