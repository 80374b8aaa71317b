package hook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"pratique"
	"pratique/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "correct horse battery staple"

// taken records what it is given.
type taken struct {
	mu   sync.Mutex
	refs []string
	fail error
}

func (k *taken) Put(_ context.Context, ps []store.Push) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	for _, p := range ps {
		text := p.Ref.String()
		if p.Deleted {
			text = "-" + text
		}
		k.refs = append(k.refs, text)
	}
	return nil
}

func (k *taken) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.refs...)
}

// desk is a handler with one hook, what it took, its clock and its log.
type desk struct {
	http.Handler
	*taken
	now time.Time
	log bytes.Buffer
	reg *prometheus.Registry
}

func newDesk(t *testing.T, r Receiver) *desk {
	t.Helper()
	d := &desk{taken: &taken{}, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), reg: prometheus.NewRegistry()}
	if r.Upstream == "" {
		r.Upstream = "lab"
	}
	if r.Secret == nil && r.Auth != OIDC {
		r.Secret = []byte(secret)
	}
	h, err := New(t.Context(), map[string]Receiver{"lab": r}, d.taken, Config{
		Now: func() time.Time { return d.now }, Metrics: d.reg, Log: slog.New(slog.NewTextHandler(&d.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Handler = h
	return d
}

// call posts a body and returns the answer.
func (d *desk) call(path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

// count is how often calls ended so.
func (d *desk) count(outcome string) float64 {
	n, err := testutil.GatherAndCount(d.reg, "pratique_hook_calls_total")
	if err != nil || n == 0 {
		return -1
	}
	fs, _ := d.reg.Gather()
	for _, f := range fs {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "outcome" && l.GetValue() == outcome {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return -1
}

// body is a push as distribution tells it; each has an id of its own.
func body(id, repo, tag string) string {
	return fmt.Sprintf(`{"events": [{"id": %q, "action": "push", "target": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "repository": %q, "tag": %q}}]}`, id, repo, tag)
}

func sign(body string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(body))
	return "sha256=" + hex.EncodeToString(h.Sum(nil))
}

func TestAuthentication(t *testing.T) {
	push := body("1", "team/app", "1.0")
	const auth, signature = "Authorization", "X-Hub-Signature-256"
	bearer := "Bearer " + secret
	for name, tt := range map[string]struct {
		auth   Auth
		secret string
		header string
		path   string
		body   string
		send   []string
		want   int
	}{
		"header":                         {auth: Header, send: []string{auth, secret}, want: 202},
		"header, whole value":            {auth: Header, secret: bearer, send: []string{auth, bearer}, want: 202},
		"header, another name":           {auth: Header, header: "x-token", send: []string{"X-Token", secret}, want: 202},
		"header, without scheme":         {auth: Header, secret: bearer, send: []string{auth, secret}, want: 401},
		"header, missing":                {auth: Header, want: 401},
		"header, empty":                  {auth: Header, send: []string{auth, ""}, want: 401},
		"header, prefix":                 {auth: Header, send: []string{auth, secret[:10]}, want: 401},
		"header, longer":                 {auth: Header, send: []string{auth, secret + "x"}, want: 401},
		"header, twice":                  {auth: Header, send: []string{auth, "x", auth, secret}, want: 401},
		"header, in the path":            {auth: Header, path: "/correct%20horse%20battery%20staple", want: 401},
		"header, and a path":             {auth: Header, path: "/x", send: []string{auth, secret}, want: 401},
		"path":                           {auth: Path, secret: "0123456789abcdef", path: "/0123456789abcdef", want: 202},
		"path, missing":                  {auth: Path, want: 401},
		"path, empty":                    {auth: Path, path: "/", want: 401},
		"path, wrong":                    {auth: Path, path: "/0123456789abcdeg", want: 401},
		"path, in a header":              {auth: Path, send: []string{auth, secret}, want: 401},
		"path, more behind":              {auth: Path, secret: "0123456789abcdef", path: "/0123456789abcdef/x", want: 401},
		"hmac":                           {auth: HMAC, send: []string{signature, sign(push)}, want: 202},
		"hmac, capitals":                 {auth: HMAC, send: []string{signature, "sha256=" + strings.ToUpper(sign(push)[7:])}, want: 202},
		"hmac, missing":                  {auth: HMAC, want: 401},
		"hmac, of another body":          {auth: HMAC, send: []string{signature, sign(push + " ")}, want: 401},
		"hmac, of the empty body":        {auth: HMAC, send: []string{signature, sign("")}, want: 401},
		"hmac, empty body, signed":       {auth: HMAC, body: "-", send: []string{signature, sign("")}, want: 400},
		"hmac, SHA-1":                    {auth: HMAC, send: []string{"X-Hub-Signature", "sha1=" + strings.Repeat("0", 40)}, want: 401},
		"hmac, without the algorithm":    {auth: HMAC, send: []string{signature, sign(push)[7:]}, want: 401},
		"hmac, half":                     {auth: HMAC, send: []string{signature, sign(push)[:40]}, want: 401},
		"hmac, no hex":                   {auth: HMAC, send: []string{signature, "sha256=" + strings.Repeat("g", 64)}, want: 401},
		"hmac, two":                      {auth: HMAC, send: []string{signature, "sha256=00", signature, sign(push)}, want: 401},
		"hmac, with nothing as the key":  {auth: HMAC, send: []string{signature, "sha256=" + hex.EncodeToString(hmac.New(sha256.New, nil).Sum(nil))}, want: 401},
		"hmac, the secret in the header": {auth: HMAC, send: []string{auth, secret}, want: 401},
	} {
		t.Run(name, func(t *testing.T) {
			r := Receiver{Type: Distribution, Auth: tt.auth, Header: tt.header}
			if tt.secret != "" {
				r.Secret = []byte(tt.secret)
			}
			d := newDesk(t, r)
			sent := push
			if tt.body == "-" {
				sent = ""
			}
			w := d.call("/hooks/lab"+tt.path, sent, tt.send...)
			if w.Code != tt.want {
				t.Errorf("answered %d: %s", w.Code, w.Body)
			}
			if got := len(d.all()); (got == 1) != (tt.want == 202) {
				t.Errorf("%d pushes", got)
			}
			for _, text := range []string{w.Body.String(), d.log.String()} {
				for _, hidden := range []string{secret, "0123456789abcde", "/0123"} {
					if strings.Contains(text, hidden) {
						t.Errorf("shows a secret: %s", text)
					}
				}
			}
			if tt.want == 401 && (d.count("unauthorized") != 1 || !strings.Contains(d.log.String(), "webhook turned away")) {
				t.Errorf("not counted (%v) or not logged: %s", d.count("unauthorized"), d.log.String())
			}
		})
	}
}

func TestNoReceiver(t *testing.T) {
	for name, r := range map[string]Receiver{
		"no secret":    {Type: Quay, Upstream: "lab", Auth: Header},
		"short secret": {Type: Quay, Upstream: "lab", Auth: Path, Secret: []byte("hunter2")},
		"no type":      {Upstream: "lab", Auth: Header, Secret: []byte(secret)},
		"no auth":      {Type: Quay, Upstream: "lab", Secret: []byte(secret)},
		"no upstream":  {Type: Quay, Auth: Header, Secret: []byte(secret)},
		"no audience":  {Type: Quay, Upstream: "lab", Auth: OIDC, Account: "a", Keys: http.DefaultTransport},
		"no account":   {Type: Quay, Upstream: "lab", Auth: OIDC, Audience: "a", Keys: http.DefaultTransport},
		"no keys":      {Type: Quay, Upstream: "lab", Auth: OIDC, Audience: "a", Account: "a"},
		"no URL":       {Type: Quay, Upstream: "lab", Auth: OIDC, Audience: "a", Account: "a", Keys: http.DefaultTransport, KeysURL: "file:///etc/passwd"},
	} {
		_, err := New(t.Context(), map[string]Receiver{"h": r}, nil, Config{})
		if !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "hook h") {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("%s: shows the secret: %v", name, err)
		}
	}
}

func TestAnswers(t *testing.T) {
	d := newDesk(t, Receiver{Type: Distribution, Auth: Header})
	many := strings.Repeat(`{"action": "pull"},`, 101)
	for name, tt := range map[string]struct {
		method, path, body string
		want               int
		has                string
	}{
		"accepted":       {"POST", "/hooks/lab", body("a", "team/app", "1"), 202, `"accepted":1`},
		"ignored":        {"POST", "/hooks/lab", `{"events": [{"action": "pull"}]}`, 202, `"ignored":1`},
		"other hook":     {"POST", "/hooks/lap", "", 404, ""},
		"no hook":        {"POST", "/hooks/", "", 404, ""},
		"GET":            {"GET", "/hooks/lab", "", 405, ""},
		"PUT":            {"PUT", "/hooks/lab", "", 405, ""},
		"nothing":        {"POST", "/hooks/lab", "", 400, ""},
		"text":           {"POST", "/hooks/lab", "push!", 400, ""},
		"no event":       {"POST", "/hooks/lab", `{"events": []}`, 400, ""},
		"key twice":      {"POST", "/hooks/lab", strings.Replace(body("b", "team/app", "1"), `"tag"`, `"repository": "other/app", "tag"`, 1), 400, "key twice"},
		"many events":    {"POST", "/hooks/lab", `{"events": [` + strings.TrimSuffix(many, ",") + `]}`, 400, "100"},
		"traversal":      {"POST", "/hooks/lab", body("c", "../admin", "1"), 400, ""},
		"traversal, tag": {"POST", "/hooks/lab", body("d", "team/app", "../x"), 400, ""},
		"host":           {"POST", "/hooks/lab", body("e", "169.254.169.254:80/x", "1"), 400, ""},
		"query":          {"POST", "/hooks/lab", body("f", "team/app?ns=evil.example", "1"), 400, ""},
		"capitals":       {"POST", "/hooks/lab", body("g", "Team/App", "1"), 400, ""},
		"great":          {"POST", "/hooks/lab", `"` + strings.Repeat("x", maxBody) + `"`, 413, ""},
	} {
		r := httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body))
		r.Header.Set("Authorization", secret)
		if name == "great" {
			r.ContentLength = -1 // not told
		}
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		if w.Code != tt.want || !strings.Contains(w.Body.String(), tt.has) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if strings.Contains(w.Body.String(), "169.254") || strings.Contains(w.Body.String(), "evil") {
			t.Errorf("%s: repeats what was sent: %s", name, w.Body)
		}
	}
	if diff := cmp.Diff([]string{"lab/team/app:1"}, d.all()); diff != "" {
		t.Error(diff)
	}
}

func TestSameAgain(t *testing.T) {
	d := newDesk(t, Receiver{Type: CloudEvents, Auth: Header})
	a, b := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	n := 0
	tell := func(what, id, tag, digest string, deleted bool, want string) {
		t.Helper()
		if id == "" {
			n++
			id = fmt.Sprint("own", n)
		}
		w := d.call("/hooks/lab", fmt.Sprintf(`{"specversion": "1.0", "id": %q, "source": "/ci", "type": "x", "data": {"repository": "team/app", "tag": %q, "digest": %q, "deleted": %v}}`,
			id, tag, digest, deleted), "Authorization", secret)
		if w.Code != 202 || !strings.Contains(w.Body.String(), `"`+want+`":1`) {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
	tell("first", "1", "v", a, false, "accepted")
	tell("the same event", "1", "v", a, false, "duplicate")
	tell("the same event, said otherwise", "1", "w", b, false, "duplicate")
	tell("another event about the same", "", "v", a, false, "duplicate")
	tell("the tag moved", "", "v", b, false, "accepted")
	tell("and back", "", "v", a, false, "accepted")
	tell("deleted", "", "v", a, true, "accepted")
	tell("and pushed again", "", "v", a, false, "accepted")
	tell("without a digest", "", "w", "", false, "accepted")
	tell("without a digest, again: it may have moved", "", "w", "", false, "accepted")
	d.now = d.now.Add(2 * time.Minute)
	tell("two minutes later", "", "v", a, false, "accepted")
	d.now = d.now.Add(time.Hour)
	tell("an hour later: it is asked for again, which is all that it does", "1", "v", a, false, "accepted")

	d.fail = ErrFull
	w := d.call("/hooks/lab", `{"specversion": "1.0", "id": "full", "source": "/ci", "type": "x", "data": {"repository": "team/app", "tag": "x"}}`, "Authorization", secret)
	if w.Code != 503 {
		t.Errorf("full: %d", w.Code)
	}
	d.fail = nil
	tell("what could not be kept is taken when it comes again", "full", "x", "", false, "accepted")

	s := newSeen(func() time.Time { return d.now })
	for i := range 3 * maxSeen {
		s.note(event{id: fmt.Sprint(i), ref: pratique.Ref{Registry: "lab", Repo: "team/app", Tag: fmt.Sprint(i)}})
	}
	if len(s.ids) > maxSeen || len(s.tags) > maxSeen {
		t.Errorf("it remembers %d ids and %d tags", len(s.ids), len(s.tags))
	}
}

// TestAgree: a sender of CloudEvents may ask first, with the secret.
func TestAgree(t *testing.T) {
	ask := func(kind Type, path string) *httptest.ResponseRecorder {
		d := newDesk(t, Receiver{Type: kind, Auth: Path, Secret: []byte("0123456789abcdef"), Rate: 120})
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodOptions, path, nil)
		r.Header.Set("WebHook-Request-Origin", "eventgrid.azure.net")
		d.ServeHTTP(w, r)
		return w
	}
	if w := ask(CloudEvents, "/hooks/lab/0123456789abcdef"); w.Code != 200 || w.Header().Get("WebHook-Allowed-Rate") != "120" || w.Header().Get("WebHook-Allowed-Origin") == "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := ask(CloudEvents, "/hooks/lab/0123456789abcdeg"); w.Code != 401 || w.Header().Get("WebHook-Allowed-Origin") != "" {
		t.Errorf("without the secret: %d %v", w.Code, w.Header())
	}
	if w := ask(Quay, "/hooks/lab/0123456789abcdef"); w.Code != 405 {
		t.Errorf("of another type: %d", w.Code)
	}
}

// TestPanic: a parser that panics is a wrong body.
func TestPanic(t *testing.T) {
	d := newDesk(t, Receiver{Type: Distribution, Auth: Header})
	one := d.Handler.(*handler).hooks["lab"]
	one.parse = func(*message) ([]event, error) { panic("secret " + secret) }
	if w := d.call("/hooks/lab", "{}", "Authorization", secret); w.Code != 400 || strings.Contains(w.Body.String()+d.log.String(), secret) {
		t.Errorf("%d %s %s", w.Code, w.Body, d.log.String())
	}
}
