package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// blob answers with a blob or the part of it that one Range asks for.
func (s *server) blob(w http.ResponseWriter, r *http.Request, a *access) error {
	b, err := s.registry.Blob(r.Context(), a.Request)
	if err != nil {
		return err
	}
	a.hit, a.verdict = b.Hit, b.Verdict
	h := w.Header()
	if s.unchanged(w, r, a, b.Digest.String()) {
		return nil
	}
	h.Set("Content-Type", "application/octet-stream")
	if b.Size >= 0 {
		h.Set("Accept-Ranges", "bytes")
	}
	if a.Head {
		if b.Size >= 0 {
			h.Set("Content-Length", strconv.FormatInt(b.Size, 10))
		}
		s.begin(w, a, http.StatusOK)
		return nil
	}
	if s.redirect(w, r, a, b) {
		return nil
	}
	from, length, status := int64(0), b.Size, http.StatusOK
	if b.Size >= 0 && rangeApplies(r, b.Digest.String()) {
		var ok bool
		switch from, length, ok = parseRange(r.Header.Get("Range"), b.Size); {
		case !ok:
			from, length = 0, b.Size
		case length == 0:
			h.Set("Content-Range", "bytes */"+strconv.FormatInt(b.Size, 10))
			return &Error{Code: CodeSizeInvalid, HTTPStatus: http.StatusRequestedRangeNotSatisfiable, Message: fmt.Sprintf("the range lies outside of the blob's %d bytes", b.Size)}
		default:
			status = http.StatusPartialContent
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from+length-1, b.Size))
		}
	}
	body, err := b.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // read only
	if length >= 0 {
		h.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	s.begin(w, a, status)
	s.stream(w, r, a, body, length)
	return nil
}

// redirect sends a client to where the bytes are, if that is elsewhere. The registry
// has said yes to this client and this blob before it comes here. Where no address is
// to be had, the bytes are served: an address spares a way and is no condition.
//
// A Range needs no more than that: clients that follow repeat it there.
func (s *server) redirect(w http.ResponseWriter, r *http.Request, a *access, b Blob) bool {
	if b.Redirect == nil {
		return false
	}
	address, err := b.Redirect(r.Context())
	if err != nil || address == "" {
		return false
	}
	h := w.Header()
	h.Set("Location", address)
	h.Set("Cache-Control", "no-store") // it is good for this client, and not for long
	h.Set("Referrer-Policy", "no-referrer")
	h.Del("Content-Type")
	h.Del("Accept-Ranges")
	h.Set("Content-Length", "0")
	s.begin(w, a, http.StatusTemporaryRedirect)
	return true
}

// elsewhere is where a stored blob may be read from besides here. A small one is
// answered sooner than it is sent for.
func (c *Cache) elsewhere(d digest.Digest, size int64) func(context.Context) (string, error) {
	if size <= smallBlob {
		return nil
	}
	return func(ctx context.Context) (string, error) { return c.blobs.RedirectURL(ctx, d, http.MethodGet) }
}

// stream copies the body. From here on the header is out: a failure truncates,
// so that no client takes an error document for the end of a layer.
func (s *server) stream(w http.ResponseWriter, r *http.Request, a *access, body io.Reader, length int64) {
	var broken error // the body, not the client
	a.bytes, broken, a.err = s.copy(w, r, a, body, length)
	if a.err == nil && length >= 0 && a.bytes < length {
		a.err, broken = io.ErrUnexpectedEOF, io.ErrUnexpectedEOF
	}
	if a.err == nil {
		return
	}
	a.outcome = outcomeCanceled
	if broken != nil {
		a.outcome = outcomeUpstream
	}
	panic(http.ErrAbortHandler)
}

// copy sends a file to a client on another machine by sendfile, to one on this
// machine by short writes, and what still arrives as it comes. The second result
// is an error of the body's.
func (s *server) copy(w http.ResponseWriter, r *http.Request, a *access, body io.Reader, length int64) (n int64, broken, err error) {
	file, ok := body.(*os.File)
	if !ok {
		src := &source{Reader: body}
		limited := io.Reader(src)
		if length >= 0 {
			limited = io.LimitReader(src, length)
		}
		n, err = io.Copy(w, limited)
		return n, src.err, err
	}
	if to, ok := w.(io.ReaderFrom); ok && length >= 0 && near(r, a.Client.Addr) {
		from, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return 0, err, err
		}
		src := &nearFile{file: file, from: from, end: from + length, buffers: s.buffers}
		n, err = to.ReadFrom(src)
		return n, src.err, err
	}
	// The file must be bare: net/http hands a limited *os.File to sendfile(2).
	limited := io.Reader(file)
	if length >= 0 {
		limited = io.LimitReader(file, length)
	}
	n, err = io.Copy(w, limited)
	return n, nil, err
}

// source tells a body that broke from a client that went away.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// rangeApplies reports whether a Range header is to be honoured: with If-Range
// only for the very same content (RFC 9110, 13.1.5).
func rangeApplies(r *http.Request, digest string) bool {
	if r.Header.Get("Range") == "" || len(r.Header.Values("Range")) != 1 {
		return false
	}
	cond := r.Header.Get("If-Range")
	return cond == "" || cond == `"`+digest+`"`
}

// parseRange reads one range of bytes (RFC 9110, 14.1.2). It is not ok for
// several ranges, other units and nonsense: these get the whole. A length of 0
// is a range that cannot be satisfied.
func parseRange(header string, size int64) (from, length int64, ok bool) {
	spec, found := strings.CutPrefix(header, "bytes=")
	if !found || strings.Contains(spec, ",") {
		return 0, 0, false
	}
	first, last, found := strings.Cut(strings.TrimSpace(spec), "-")
	if !found {
		return 0, 0, false
	}
	if first == "" { // the last n bytes
		n, err := position(last)
		if err != nil {
			return 0, 0, false
		}
		n = min(n, size)
		return size - n, n, true
	}
	from, err := position(first)
	if err != nil {
		return 0, 0, false
	}
	end := size - 1
	if last != "" {
		n, err := position(last)
		if err != nil || n < from {
			return 0, 0, false
		}
		end = min(end, n)
	}
	if from > end {
		return 0, 0, true
	}
	return from, end - from + 1, true
}

// position reads digits only: ParseInt alone would take a sign.
func position(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}
