package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"pratique/web"
)

// defaultServer is the admin address of a server with an untouched configuration.
const defaultServer = "http://127.0.0.1:5001"

// maxAnswer bounds what the client reads of one answer.
const maxAnswer = 256 << 20

// serverFlag declares --server.
func serverFlag(fs *flag.FlagSet) *string {
	return fs.String("server", "", "`URL` of the server's admin address (else PRATIQUE_SERVER, else "+defaultServer+")")
}

// client speaks to the admin API of a running server.
type client struct {
	base *url.URL
	http *http.Client
}

func newClient(c *console, server string) (*client, error) {
	from := "--server"
	if server == "" {
		server, from = c.env("PRATIQUE_SERVER"), "PRATIQUE_SERVER"
	}
	if server == "" {
		server = defaultServer
	}
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("%s is not an address; write for example %s", from, defaultServer)
	}
	// Each command makes one client and ends: no idle connection has to outlive it.
	return &client{base: u, http: &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
	}}}, nil
}

// answerError is the server's own error, with its advice.
type answerError struct {
	status int
	body   web.Error
}

func (e *answerError) Error() string { return e.body.Message }

// Hint is printed on a line of its own.
func (e *answerError) Hint() string { return e.body.Hint }

// unreachableError says that nobody answered.
type unreachableError struct {
	server string
	err    error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("no answer from %s: %v", e.server, e.err)
}

func (e *unreachableError) Unwrap() error { return e.err }

// Hint is printed on a line of its own.
func (e *unreachableError) Hint() string {
	return "is `pratique serve` running? Name its admin address with --server or PRATIQUE_SERVER"
}

// do sends one request and decodes a success into out.
func (cl *client) do(ctx context.Context, method, path string, query url.Values, body io.Reader, out any) (status int, err error) {
	raw, status, err := cl.raw(ctx, method, path, query, body)
	if err != nil {
		return status, err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return status, &answerError{status, web.Error{
			Message: fmt.Sprintf("%s does not answer as Pratique: %v", cl.base.Redacted(), err),
			Hint:    "--server wants the admin address, not the registry's",
		}}
	}
	return status, nil
}

// raw sends one request and returns the answer of a success.
func (cl *client) raw(ctx context.Context, method, path string, query url.Values, body io.Reader) (answer []byte, status int, err error) {
	res, err := cl.open(ctx, method, path, query, body)
	if e, ok := errors.AsType[*answerError](err); ok {
		return nil, e.status, err
	}
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, 0, &unreachableError{cl.base.Redacted(), err}
	}
	return raw, res.StatusCode, nil
}

// open sends one request and returns the answer of a success, whose body is the
// caller's to read and close.
func (cl *client) open(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	u := cl.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	res, err := cl.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // its text repeats method and address
		}
		return nil, &unreachableError{cl.base.Redacted(), err}
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, &unreachableError{cl.base.Redacted(), err}
	}
	e := &answerError{status: res.StatusCode}
	if json.Unmarshal(raw, &e.body) != nil || e.body.Message == "" {
		e.body.Message = fmt.Sprintf("%s answered %s, which is no answer of Pratique", cl.base.Redacted(), res.Status)
		e.body.Hint = "--server wants the admin address, not the registry's"
	}
	return nil, e
}

// printJSON writes v the way -o json promises: indented, one document.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
