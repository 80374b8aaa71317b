package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/store"
)

// ServerConfig is what NewServer may be told besides the registry.
type ServerConfig struct {
	// Upstreams are the names that clients may use. If nil, every name is refused.
	Upstreams *UpstreamIndex
	// BareHead answers a HEAD whose verdict is no, or is not known yet, with a
	// 200 that has neither digest nor length: containerd and docker then ask by
	// GET instead of trying the next registry. If false, with the GET's status.
	BareHead bool
	// Log gets one line per request. If nil, slog.Default().
	Log *slog.Logger
	// Metrics registers the server's metrics. If nil, nothing is exported.
	Metrics prometheus.Registerer
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
}

// server speaks the pull side of OCI distribution-spec 1.1.
type server struct {
	registry  Registry
	upstreams *UpstreamIndex
	bareHead  bool
	log       *slog.Logger
	metrics   *serverMetrics
	now       func() time.Time
	echoes    *echoes
	buffers   *sync.Pool // of nearFile
}

// NewServer answers pull requests from reg. Mount it at the root of its
// listener and not below http.ServeMux, which cleans paths before this parser
// can refuse them.
func NewServer(reg Registry, cfg ServerConfig) http.Handler {
	s := &server{
		registry:  reg,
		upstreams: cfg.Upstreams,
		bareHead:  cfg.BareHead,
		log:       cfg.Log,
		metrics:   newServerMetrics(cfg.Metrics),
		now:       cfg.Now,
		buffers:   newNearBuffers(),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.echoes = newEchoes(s.now)
	return s
}

// Headers that are the same in many answers; net/http only reads them.
var (
	apiVersion = []string{"registry/2.0"}
	revalidate = []string{"private, no-cache"}
)

// ServeHTTP parses, asks the registry, answers, and writes the one log line.
// The ResponseWriter is never wrapped: wrapping hides ReadFrom, and with it
// sendfile and the socket. What the log needs is told to the access record instead.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &access{start: s.now(), outcome: outcomeFailed}
	ctx := r.Context()
	defer func() { s.finish(ctx, w, r, a, recover()) }()
	// Headers are written under their canonical names, with values from one array:
	// Header.Set would allocate for each.
	w.Header()["Docker-Distribution-Api-Version"] = apiVersion
	var err error
	if a.parsed, err = parse(r, s.upstreams); err == nil {
		err = s.answer(w, r, a)
	}
	if err != nil {
		s.fail(w, r, a, err)
	}
}

// finish logs and counts a request. A panic is answered if nothing was sent
// yet; else, and when a body broke off, the connection is cut.
func (s *server) finish(ctx context.Context, w http.ResponseWriter, r *http.Request, a *access, v any) {
	if v != nil && v != http.ErrAbortHandler { //nolint:errorlint // a panic's value
		s.log.ErrorContext(ctx, "panic in a request", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		a.err, a.outcome = errors.New("panic"), outcomeFailed
		if a.status == 0 {
			s.fail(w, r, a, a.err)
			v = nil
		}
	}
	took := s.now().Sub(a.start)
	a.log(ctx, s.log, r.Method, r.UserAgent(), took)
	s.metrics.observe(a, took)
	if v != nil {
		panic(http.ErrAbortHandler)
	}
}

// answer writes the content asked for, or returns an error before it has
// written anything.
func (s *server) answer(w http.ResponseWriter, r *http.Request, a *access) error {
	if e := s.echoes.find(a.Ref); e != nil && (a.kind == kindBlob || a.kind == kindManifest) {
		return e
	}
	switch a.kind {
	case kindBase:
		return s.send(w, a, "application/json", []byte("{}"))
	case kindManifest:
		return s.manifest(w, r, a)
	case kindBlob:
		return s.blob(w, r, a)
	case kindTags:
		return s.tags(w, r, a)
	case kindReferrers:
		return s.referrers(w, r, a)
	case kindNone:
	}
	return &Error{Code: CodeUnsupported, HTTPStatus: http.StatusNotFound, Message: "no such endpoint"}
}

func (s *server) manifest(w http.ResponseWriter, r *http.Request, a *access) error {
	m, err := s.registry.Manifest(r.Context(), a.Request)
	if err != nil {
		return err
	}
	a.hit, a.stale, a.verdict = m.Hit, m.Stale, m.Verdict
	if a.Ref.Digest == "" {
		a.Ref.Digest = m.Image.Digest // else as asked for, whatever its algorithm
	}
	if len(m.Warnings) > 0 {
		a.outcome = outcomeWarned
	}
	for _, text := range m.Warnings {
		w.Header().Add("Warning", warning(text))
	}
	if s.unchanged(w, r, a, a.Ref.Digest.String()) {
		return nil
	}
	if a.Head && len(m.Raw) == 0 { // a registry need not read what is not sent
		return s.sendHead(w, a, m.Image.MediaType, m.Image.Size)
	}
	return s.send(w, a, m.Image.MediaType, m.Raw)
}

func (s *server) tags(w http.ResponseWriter, r *http.Request, a *access) error {
	l, err := s.registry.Tags(r.Context(), a.Request)
	if err != nil {
		return err
	}
	tags := l.Tags
	if tags == nil {
		tags = []string{} // [] and not null: no tags is an answer
	}
	body, err := encode(struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{a.name, tags})
	if err != nil {
		return err
	}
	if l.More && len(tags) > 0 {
		q := url.Values{"last": {tags[len(tags)-1]}}
		if a.N >= 0 {
			q.Set("n", strconv.Itoa(a.N))
		}
		if a.ns != "" {
			q.Set("ns", a.ns)
		}
		w.Header().Set("Link", "</v2/"+a.name+"/tags/list?"+q.Encode()+`>; rel="next"`)
	}
	return s.send(w, a, "application/json", body)
}

func (s *server) referrers(w http.ResponseWriter, r *http.Request, a *access) error {
	refs, err := s.registry.Referrers(r.Context(), a.Request)
	if err != nil {
		return err
	}
	if refs.Filtered {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return s.send(w, a, pratique.MediaTypeImageIndex, refs.Index)
}

// send writes a whole body that is in memory.
func (s *server) send(w http.ResponseWriter, a *access, mediaType string, body []byte) error {
	if err := s.sendHead(w, a, mediaType, int64(len(body))); err != nil || a.Head {
		return err
	}
	n, err := w.Write(body)
	a.bytes = int64(n)
	if err != nil { // the client is gone; nothing can be said to it
		a.err, a.outcome = err, outcomeCanceled
	}
	return nil
}

// sendHead writes the header of a whole body.
func (s *server) sendHead(w http.ResponseWriter, a *access, mediaType string, size int64) error {
	h, values := w.Header(), []string{mediaType, strconv.FormatInt(size, 10)}
	h["Content-Type"], h["Content-Length"] = values[0:1:1], values[1:2:2]
	s.begin(w, a, http.StatusOK)
	return nil
}

// begin sends the header of an answer that went well.
func (s *server) begin(w http.ResponseWriter, a *access, status int) {
	if a.outcome == outcomeFailed {
		a.outcome = outcomeServed
	}
	a.status = status
	w.WriteHeader(status)
}

// unchanged sets digest and validators and answers 304 to a client that has the
// content. It comes after the registry's yes: having a copy gives no right to it.
func (s *server) unchanged(w http.ResponseWriter, r *http.Request, a *access, digest string) bool {
	tag := `"` + digest + `"`
	h, values := w.Header(), []string{tag, digest}
	h["Etag"], h["Docker-Content-Digest"] = values[0:1:1], values[1:2:2]
	// A cache on the way may keep content but has to ask here each time: the
	// verdict on it changes while the bytes do not.
	h["Cache-Control"] = revalidate
	if !etagMatches(r.Header.Values("If-None-Match"), tag) {
		return false
	}
	s.begin(w, a, http.StatusNotModified)
	return true
}

// etagMatches compares weakly, as If-None-Match does (RFC 9110, 13.1.2).
func etagMatches(values []string, tag string) bool {
	for _, value := range values {
		for candidate := range strings.SplitSeq(value, ",") {
			candidate = strings.TrimPrefix(strings.TrimSpace(candidate), "W/")
			if candidate == tag || candidate == "*" {
				return true
			}
		}
	}
	return false
}

// fail writes an error: the one place where errors become answers.
func (s *server) fail(w http.ResponseWriter, r *http.Request, a *access, err error) {
	e := asError(err)
	a.fail(r.Context(), e)
	h := w.Header()
	for _, name := range [...]string{"Accept-Ranges", "Content-Length", "Content-Type", "Docker-Content-Digest", "ETag", "Link", "OCI-Filters-Applied", "Warning"} {
		h.Del(name)
	}
	if e.Status() != http.StatusRequestedRangeNotSatisfiable {
		h.Del("Content-Range")
	}
	h.Set("Cache-Control", "no-store")
	if a.Head && e.Bare && s.bareHead {
		a.status = http.StatusOK
		s.flush(w, a)
		return
	}
	a.status = e.Status()
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(max(1, int64((e.RetryAfter+time.Second-1)/time.Second)), 10))
	}
	if a.status == http.StatusMethodNotAllowed {
		h.Set("Allow", "GET, HEAD")
	}
	if a.Head {
		s.flush(w, a)
		return
	}
	body, err := encode(errorBody(e))
	if err != nil { // a detail that does not marshal is our own mistake
		body, _ = encode(errorBody(&Error{Code: e.Code, Message: e.Message}))
	}
	if e.Bare && a.kind == kindManifest && a.Ref.Registry != "" {
		s.echoes.add(a.Ref, body, e)
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(body) // the client may be gone
}

// flush ends a header without a body and without a length: net/http, left to
// itself, might add Content-Length: 0.
func (s *server) flush(w http.ResponseWriter, a *access) {
	w.WriteHeader(a.status)
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}

// codeInternal is answered for what is our own mistake; the specification's
// list has no word for that.
const codeInternal Code = "INTERNAL"

// asError makes any error an answer. What the registry did not word for a
// client is not shown to one.
func asError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, store.ErrObjects):
		return bytesAway(err)
	case errors.Is(err, store.ErrUnreachable):
		return stateAway(err)
	case errors.Is(err, context.Canceled):
		return &Error{Code: codeInternal, HTTPStatus: http.StatusServiceUnavailable, Message: "the request was canceled", Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: codeInternal, HTTPStatus: http.StatusGatewayTimeout, Message: "the request took too long", Err: err}
	}
	return &Error{Code: codeInternal, HTTPStatus: http.StatusInternalServerError, Message: "internal error; the log of Pratique tells more", Err: err}
}

// errorBody is the error document of distribution-spec 1.1, "Error Codes".
func errorBody(e *Error) any {
	type entry struct {
		Code    Code   `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	return struct {
		Errors []entry `json:"errors"`
	}{[]entry{{e.Code, e.Message, e.Detail}}}
}

// encode marshals without HTML escaping: "1.0 -> 1.1" is read by people.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// maxWarning bounds one Warning header, in bytes.
const maxWarning = 400

// warning words a Warning header (RFC 7234, 5.5): printable ASCII in a quoted
// string, so that no text of an image can end the header.
func warning(text string) string {
	var b strings.Builder
	b.WriteString(`299 - "`)
	for i := 0; i < len(text) && b.Len() < maxWarning; i++ {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c > '~':
			b.WriteByte('?')
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
