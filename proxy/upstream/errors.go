package upstream

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"pratique/proxy"
)

var (
	errTimeout  = errors.New("no answer in time")
	errStalled  = errors.New("no progress")
	errRedirect = errors.New("redirect refused")
)

// defaultHold is for a 429 that does not say how long; maxHold bounds one that
// asks for more than anybody would wait.
const (
	defaultHold = 10 * time.Second
	maxHold     = time.Hour
)

// statusError is what a client of Pratique should see of an answer that is not
// the content: what is unknown stays unknown, a refusal of us is no challenge
// to the client, and everything else is the upstream's failure.
func (c *Client) statusError(res *http.Response, q request) *proxy.Error {
	said := said(res)
	status := res.StatusCode
	switch status {
	case http.StatusNotFound, http.StatusGone:
		return proxy.Errorf(q.unknown, "%s is not known to upstream %s", q.what, c.key)
	case http.StatusUnauthorized, http.StatusForbidden:
		who := "our credentials"
		if c.auth.creds.resolve == nil {
			who = "an anonymous pull"
		}
		return proxy.Errorf(proxy.CodeDenied, "upstream %s refused %s for %s (%d%s)", c.key, who, q.what, status, said)
	case http.StatusUnavailableForLegalReasons:
		return proxy.Errorf(proxy.CodeDenied, "upstream %s does not serve %s for legal reasons (451%s)", c.key, q.what, said)
	case http.StatusTooManyRequests:
		e := proxy.Errorf(proxy.CodeTooManyRequests, "upstream %s limits our requests (429%s)", c.key, said)
		e.RetryAfter = retryAfter(res.Header, c.cfg.Now())
		if e.RetryAfter == 0 {
			e.RetryAfter = defaultHold
		}
		return e
	}
	code := http.StatusBadGateway
	if status == http.StatusGatewayTimeout {
		code = http.StatusGatewayTimeout
	}
	e := proxy.Unavailable(code, "upstream %s answered %s for %s%s", c.key, strconv.Itoa(status), q.what, said)
	e.RetryAfter = retryAfter(res.Header, c.cfg.Now())
	return e
}

// badAnswer is an answer whose content makes no sense.
func (c *Client) badAnswer(what string, format string, args ...any) *proxy.Error {
	return proxy.Unavailable(http.StatusBadGateway, "upstream %s sent nonsense for %s: %w", c.key, what, permanentError{fmt.Errorf(format, args...)})
}

// transportError is the failure of a request or of a body. ctx is the caller's:
// its end is not the upstream's fault.
func (c *Client) transportError(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("upstream %s: %w", c.key, context.Cause(ctx))
	}
	// The URL may be a presigned one: it goes into no message.
	var ue *url.Error
	for errors.As(err, &ue) {
		err = ue.Err
	}
	var ne net.Error
	switch {
	case errors.Is(err, errTimeout), errors.Is(err, errStalled), errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &ne) && ne.Timeout():
		return proxy.Unavailable(http.StatusGatewayTimeout, "upstream %s does not answer for %s: %w", c.key, what, err)
	}
	return proxy.Unavailable(http.StatusBadGateway, "upstream %s cannot be asked for %s: %w", c.key, what, err)
}

// retryAfter reads the header in both its forms: seconds and HTTP date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	var d time.Duration
	if n, err := strconv.Atoi(v); err == nil {
		d = maxHold
		if n < int(maxHold/time.Second) {
			d = time.Duration(n) * time.Second
		}
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxHold)
}

// said is the upstream's own message, shortened and made one line: it is shown
// to people.
func said(res *http.Response) string {
	raw, err := io.ReadAll(io.LimitReader(res.Body, 16<<10))
	if err != nil {
		return ""
	}
	var body struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(raw, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	text := strings.Join(strings.Fields(body.Errors[0].Code+": "+body.Errors[0].Message), " ")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	const most = 160
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return " " + text
}

// permanentError marks what will not be better in a second.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func permanent(err error) bool {
	var cert *tls.CertificateVerificationError
	var p permanentError
	return errors.Is(err, errForbidden) || errors.Is(err, errRedirect) || errors.As(err, &cert) || errors.As(err, &p)
}
