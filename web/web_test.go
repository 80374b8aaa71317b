package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"pratique"
	"pratique/store"
	"pratique/web"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

func TestReferencesResolveAsPeopleTypeThem(t *testing.T) {
	for _, tc := range []struct {
		typed, want, hint string
	}{
		{"docker.io/library/nginx:1.27", "docker.io/library/nginx:1.27", ""},
		{"nginx:1.27", "docker.io/library/nginx:1.27", ""},
		{"nginx", "docker.io/library/nginx:latest", ""},
		{"docker.io/nginx", "docker.io/library/nginx:latest", ""},
		{"index.docker.io/nginx:1", "docker.io/library/nginx:1", ""},
		{"bitnami/redis:7", "docker.io/bitnami/redis:7", ""},
		{"docker://ghcr.io/org/app:v1", "ghcr.io/org/app:v1", ""},
		{"127.0.0.1:7001/clean:1", "lab/clean:1", ""},
		{"lab/clean:1", "lab/clean:1", ""},
		{"lab/clean@" + digestOf("x").String(), "lab/clean@" + digestOf("x").String(), ""},
		{"  lab/clean:1 ", "lab/clean:1", ""},
		{"", "", "name an image"},
		{"quay.io/org/app:v1", "", "configured are: docker.io, ghcr.io, lab"},
		{"localhost/app", "", "configured are"},
		{"proxy:5000/docker.io/library/nginx:1", "", "leave out the address of Pratique itself: docker.io/library/nginx:1"},
		{digestOf("x").String(), "", "write REPOSITORY@"},
		{"Nginx:1", "", "lower case"},
		{"lab/clean@sha256:12", "", "write UPSTREAM/REPOSITORY"},
		{"lab/../secret:1", "", "write UPSTREAM/REPOSITORY"},
		{"lab/", "", "write UPSTREAM/REPOSITORY"},
	} {
		t.Run(tc.typed, func(t *testing.T) {
			gate := &fakeGate{decision: pratique.Decision{Verdict: pratique.Verdict{Outcome: pratique.OutcomeAllow}}}
			srv := serve(t, web.Config{Gate: gate})
			status, body := ask(t, "GET", srv.URL+"/api/v1/check?ref="+escape(tc.typed), "")
			if tc.want == "" {
				if status != http.StatusBadRequest || !strings.Contains(body, tc.hint) || len(gate.asked) > 0 {
					t.Fatalf("status %d, asked %q, body %s; want 400 with %q and nothing asked", status, gate.asked, body, tc.hint)
				}
				return
			}
			if diff := cmp.Diff([]string{tc.want}, gate.asked); diff != "" {
				t.Fatalf("status %d, body %s, asked (-want +got):\n%s", status, body, diff)
			}
		})
	}
}

// escape is url.QueryEscape for the characters these tests use.
func escape(s string) string {
	return strings.NewReplacer(" ", "%20", "&", "%26", "#", "%23", "+", "%2B", "%", "%25").Replace(s)
}

func TestCheckAnswers(t *testing.T) {
	vulnerable := pratique.Report{
		Image: digestOf("a"), State: pratique.StateScanned, OS: pratique.OS{Family: "debian", Name: "12.5"},
		Engine: pratique.Engine{Database: digestOf("db"), DatabaseAt: now}, ScannedAt: now,
		Findings: []pratique.Finding{
			{ID: "CVE-1", Kind: pratique.KindVulnerability, Package: "zlib", Installed: "1", Severity: pratique.SeverityLow, Status: "affected"},
			{ID: "CVE-2", Kind: pratique.KindVulnerability, Package: "openssl", Installed: "1", Fixed: "2", Severity: pratique.SeverityCritical, Status: "fixed"},
		},
	}
	refused := pratique.Verdict{ID: "v1", Until: now, Reasons: []pratique.Reason{{
		Policy: "default", Rule: "critical", Message: "a fixable CRITICAL", Findings: vulnerable.Findings,
	}}}
	for _, tc := range []struct {
		name     string
		decision pratique.Decision
		fail     error
		status   int
		want     string
	}{
		{
			name:     "refused, findings worst first",
			decision: pratique.Decision{Image: pratique.Image{Digest: digestOf("a")}, Report: vulnerable, Verdict: refused},
			status:   200,
			want: `{"ref":"lab/a:1","digest":"` + digestOf("a").String() + `","verdict":{"outcome":"deny","reasons":[{"policy":"default","rule":"critical","action":"deny","message":"a fixable CRITICAL","findings":["CVE-2","CVE-1"],"graceEnds":null}],"lifted":[],"until":"2026-11-23T12:00:00Z","id":"v1"},` +
				`"report":{"state":"scanned","os":{"family":"debian","name":"12.5"},"eol":false,"findings":[` +
				`{"id":"CVE-2","kind":"vulnerability","package":"openssl","installed":"1","fixed":"2","severity":"CRITICAL","status":"fixed","path":""},` +
				`{"id":"CVE-1","kind":"vulnerability","package":"zlib","installed":"1","fixed":"","severity":"LOW","status":"affected","path":""}],` +
				`"database":{"digest":"` + digestOf("db").String() + `","updatedAt":"2026-11-23T12:00:00Z"},"scannedAt":"2026-11-23T12:00:00Z"}}`,
		},
		{
			name:     "clean is an empty list",
			decision: pratique.Decision{Report: pratique.Report{State: pratique.StateScanned}, Verdict: pratique.Verdict{Outcome: pratique.OutcomeAllow, ID: "v"}},
			status:   200,
			want:     `{"ref":"lab/a:1","digest":"","verdict":{"outcome":"allow","reasons":[],"lifted":[],"until":null,"id":"v"},"report":{"state":"scanned","os":null,"eol":false,"findings":[],"database":null,"scannedAt":null}}`,
		},
		{
			name: "failed is no empty list",
			decision: pratique.Decision{Report: pratique.Report{State: pratique.StateFailed, Problems: []pratique.Problem{{Source: "worker", Message: "killed"}}},
				Verdict: pratique.Verdict{ID: "v"}},
			status: 200,
			want:   `{"ref":"lab/a:1","digest":"","verdict":{"outcome":"deny","reasons":[],"lifted":[],"until":null,"id":"v"},"report":{"state":"failed","os":null,"eol":false,"findings":null,"database":null,"scannedAt":null,"problems":["worker: killed"]}}`,
		},
		{
			name:     "nobody read what is unsupported",
			decision: pratique.Decision{Report: pratique.Report{State: pratique.StateUnsupported}, Verdict: pratique.Verdict{Outcome: pratique.OutcomeAllow, ID: "v"}},
			status:   200,
			want:     `{"ref":"lab/a:1","digest":"","verdict":{"outcome":"allow","reasons":[],"lifted":[],"until":null,"id":"v"},"report":{"state":"unsupported","os":null,"eol":false,"findings":null,"database":null,"scannedAt":null}}`,
		},
		{
			name:   "pending by error",
			fail:   fmt.Errorf("lab: %w", pratique.ErrPending),
			status: 202,
			want:   `{"ref":"lab/a:1","digest":"","verdict":null,"report":{"state":"pending","os":null,"eol":false,"findings":null,"database":null,"scannedAt":null}}`,
		},
		{
			name:     "refused for lack of a report is pending",
			decision: pratique.Decision{Report: pratique.Report{State: pratique.StatePending}},
			status:   202,
			want:     `{"ref":"lab/a:1","digest":"","verdict":null,"report":{"state":"pending","os":null,"eol":false,"findings":null,"database":null,"scannedAt":null}}`,
		},
		{
			name:     "allowed though unscanned is a verdict",
			decision: pratique.Decision{Verdict: pratique.Verdict{Outcome: pratique.OutcomeWarn, ID: "v"}},
			status:   200,
			want:     `{"ref":"lab/a:1","digest":"","verdict":{"outcome":"warn","reasons":[],"lifted":[],"until":null,"id":"v"},"report":{"state":"unknown","os":null,"eol":false,"findings":null,"database":null,"scannedAt":null}}`,
		},
		{
			name: "an index is as well known as its least known child",
			decision: pratique.Decision{
				Image: pratique.Image{Digest: digestOf("i"), Kind: pratique.KindIndex, Children: []pratique.Descriptor{
					{Digest: digestOf("a"), Platform: &pratique.Platform{OS: "linux", Architecture: "amd64"}},
				}},
				Children: []pratique.Decision{
					{Ref: pratique.Ref{Registry: "lab", Repo: "a", Digest: digestOf("a")}, Image: pratique.Image{Digest: digestOf("a")}, Report: pratique.Report{State: pratique.StateScanned}, Verdict: pratique.Verdict{Outcome: pratique.OutcomeAllow, ID: "c"}},
					{Ref: pratique.Ref{Registry: "lab", Repo: "a", Digest: digestOf("b")}, Image: pratique.Image{Digest: digestOf("b")}},
				},
				Verdict: pratique.Verdict{Outcome: pratique.OutcomeAllow, ID: "v"},
			},
			status: 200,
			want: `{"ref":"lab/a:1","digest":"` + digestOf("i").String() + `","verdict":{"outcome":"allow","reasons":[],"lifted":[],"until":null,"id":"v"},` +
				`"report":{"state":"unknown","os":null,"eol":false,"findings":null,"database":null,"scannedAt":null},"children":[` +
				`{"ref":"lab/a@` + digestOf("a").String() + `","digest":"` + digestOf("a").String() + `","platform":"linux/amd64","verdict":{"outcome":"allow","reasons":[],"lifted":[],"until":null,"id":"c"},"report":{"state":"scanned","os":null,"eol":false,"findings":[],"database":null,"scannedAt":null}},` +
				`{"ref":"lab/a@` + digestOf("b").String() + `","digest":"` + digestOf("b").String() + `","verdict":null,"report":{"state":"unknown","os":null,"eol":false,"findings":null,"database":null,"scannedAt":null}}]}`,
		},
		{
			name:   "not found",
			fail:   fmt.Errorf("lab/a:1: %w", pratique.ErrNotFound),
			status: 404,
			want:   `{"error":"lab/a:1: not found","hint":"check the name and tag; the upstream does not have it or does not show it to this server"}`,
		},
		{
			name:   "an error with a status of its own",
			fail:   &statusError{429},
			status: 429,
			want:   `{"error":"status 429","hint":"the upstream limits requests; configure credentials for it or try again later"}`,
		},
		{
			name:   "anything else is ours",
			fail:   errors.New("disk full"),
			status: 500,
			want:   `{"error":"disk full","hint":"the server's log has the details"}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv := serve(t, web.Config{Gate: &fakeGate{decision: tc.decision, fail: tc.fail}})
			status, body := ask(t, "GET", srv.URL+"/api/v1/check?ref=lab/a:1&wait=1s", "")
			if status != tc.status {
				t.Errorf("status %d, want %d", status, tc.status)
			}
			if diff := cmp.Diff(tc.want+"\n", body); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

type statusError struct{ status int }

func (e *statusError) Error() string { return fmt.Sprintf("TOOMANYREQUESTS: status %d", e.status) }
func (e *statusError) Status() int   { return e.status }

func TestCheckPassesWaitAndClient(t *testing.T) {
	gate := &fakeGate{fail: pratique.ErrPending}
	srv := serve(t, web.Config{Gate: gate, MaxWait: 5 * time.Second})
	for _, wait := range []string{"", "0s", "4s", "24h"} {
		if status, body := ask(t, "GET", srv.URL+"/api/v1/check?ref=lab/a&wait="+wait, "", "X-Forwarded-For", "10.9.8.7"); status != 202 {
			t.Fatalf("wait=%s: %d %s", wait, status, body)
		}
	}
	if diff := cmp.Diff([]time.Duration{0, 0, 4 * time.Second, 5 * time.Second}, gate.waits); diff != "" {
		t.Errorf("waits (-want +got):\n%s", diff)
	}
	for _, c := range gate.clients {
		if c != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("client %s: a header named it", c)
		}
	}
	for _, wait := range []string{"soon", "-1s"} {
		if status, body := ask(t, "GET", srv.URL+"/api/v1/check?ref=lab/a&wait="+wait, ""); status != 400 {
			t.Errorf("wait=%s: %d %s", wait, status, body)
		}
	}
}

func TestPanicIsAnsweredAndLogged(t *testing.T) {
	var log bytes.Buffer
	srv := serve(t, web.Config{Gate: &fakeGate{panics: true}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if status, body := ask(t, "GET", srv.URL+"/api/v1/check?ref=lab/a", ""); status != 500 || !strings.Contains(body, `{"error":"internal error"`) {
		t.Errorf("%d %s", status, body)
	}
	if !strings.Contains(log.String(), "panic in an admin request") {
		t.Errorf("log: %s", log.String())
	}
}

func TestImages(t *testing.T) {
	st := &fakeCatalog{}
	gate := &fakeGate{reports: map[digest.Digest]pratique.Report{}}
	names := []string{"a", "b", "c"}
	for _, n := range names {
		st.known = append(st.known, store.Known{
			Ref:   pratique.Ref{Registry: "lab", Repo: n, Tag: "1"},
			Image: pratique.Image{Digest: digest.Digest("sha256:" + strings.Repeat(n, 64)), Kind: pratique.KindImage},
		})
	}
	d := func(i int) digest.Digest { return st.known[i].Image.Digest }
	gate.reports[d(0)] = pratique.Report{State: pratique.StateScanned, ScannedAt: now}
	gate.reports[d(1)] = pratique.Report{State: pratique.StateIncomplete, ScannedAt: now, Findings: []pratique.Finding{
		{Severity: pratique.SeverityCritical}, {Severity: pratique.SeverityCritical}, {Severity: "strange"},
	}}
	srv := serve(t, web.Config{Catalog: st, Gate: gate})

	var pages []string
	url := srv.URL + "/api/v1/images?limit=2"
	for next := ""; ; {
		status, body := ask(t, "GET", url+next, "")
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		pages = append(pages, body)
		var page web.ImageList
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		if page.Next == "" {
			break
		}
		next = "&after=" + page.Next
	}
	want := []string{
		`{"images":[{"ref":"lab/a:1","digest":"` + string(d(0)) + `","state":"scanned","outcome":"allow","findings":{"critical":0,"high":0,"medium":0,"low":0,"unknown":0},"scannedAt":"2026-11-23T12:00:00Z"},` +
			`{"ref":"lab/b:1","digest":"` + string(d(1)) + `","state":"incomplete","outcome":"deny","findings":{"critical":2,"high":0,"medium":0,"low":0,"unknown":1},"scannedAt":"2026-11-23T12:00:00Z"}],"next":"` + string(d(1)) + "\"}\n",
		`{"images":[{"ref":"lab/c:1","digest":"` + string(d(2)) + `","state":"unknown","outcome":"deny","findings":null,"scannedAt":null}]}` + "\n",
	}
	if diff := cmp.Diff(want, pages); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"limit=0", "limit=x", "after=latest"} {
		if status, body := ask(t, "GET", srv.URL+"/api/v1/images?"+bad, ""); status != 400 {
			t.Errorf("%s: %d %s", bad, status, body)
		}
	}
}

// answered is an error that a client would be answered with.
type answered struct{ error }

func (answered) Status() int     { return http.StatusServiceUnavailable }
func (e answered) Unwrap() error { return e.error }

// TestImagesUndecided: what cannot be decided on one image is said of it, and
// the others are still listed.
func TestImagesUndecided(t *testing.T) {
	known := []store.Known{{Ref: pratique.Ref{Registry: "lab", Repo: "a", Tag: "1"}, Image: pratique.Image{Digest: digestOf("a")}}}
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"being looked up": {fmt.Errorf("x: %w", pratique.ErrPending), `"outcome":"deny","pending":true,`},
		"cannot be known": {answered{errors.New("registry down")}, `"outcome":"deny","error":"registry down: registry down",`},
	} {
		t.Run(name, func(t *testing.T) {
			gate := &fakeGate{standingErr: tc.err, reports: map[digest.Digest]pratique.Report{digestOf("a"): {State: pratique.StateScanned}}}
			srv := serve(t, web.Config{Catalog: &fakeCatalog{known: known}, Gate: gate})
			if status, body := ask(t, "GET", srv.URL+"/api/v1/images", ""); status != 200 || !strings.Contains(body, tc.want) {
				t.Errorf("%d %s", status, body)
			}
		})
	}
}

func TestImagesNeverHideAFailure(t *testing.T) {
	known := []store.Known{{Image: pratique.Image{Digest: digestOf("a")}}, {Image: pratique.Image{Digest: digestOf("b")}}}
	for name, tc := range map[string]struct {
		failAt      int
		standingErr error
	}{
		"the catalog breaks off": {failAt: 1},
		"a report is unreadable": {standingErr: errors.New("disk")},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			srv := serve(t, web.Config{
				Catalog: &fakeCatalog{known: known, failAt: tc.failAt}, Gate: &fakeGate{standingErr: tc.standingErr},
				Log: slog.New(slog.NewTextHandler(&log, nil)),
			})
			if status, body := ask(t, "GET", srv.URL+"/api/v1/images", ""); status != 500 || strings.Contains(body, "images") {
				t.Errorf("%d %s", status, body)
			}
			if !strings.Contains(log.String(), "admin request failed") {
				t.Errorf("log: %s", log.String())
			}
		})
	}
}

func TestDatabaseImport(t *testing.T) {
	for _, tc := range []struct {
		name, query, body string
		fail              error
		status            int
		want              string
	}{
		{"adopted", "", "tarball", nil, 200, digestOf("tarball").String()},
		{"forced", "?force=true", "tarball", nil, 200, digestOf("tarball").String()},
		{"refused", "", "old", fmt.Errorf("%w database: older", pratique.ErrInvalid), 422, "--force"},
		{"our fault", "", "old", errors.New("disk full"), 500, "disk full"},
		{"empty", "", "", nil, 400, "empty"},
		{"too large", "", strings.Repeat("x", 100), nil, 413, "larger"},
		{"nonsense", "?force=perhaps", "x", nil, 400, "force"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db := &fakeDatabase{fail: tc.fail}
			spool := t.TempDir()
			srv := serve(t, web.Config{Database: db, MaxImport: 50, Spool: spool})
			status, body := ask(t, "POST", srv.URL+"/api/v1/database/import"+tc.query, tc.body)
			if status != tc.status || !strings.Contains(body, tc.want) {
				t.Errorf("%d %s; want %d with %q", status, body, tc.status, tc.want)
			}
			if db.force != (tc.query == "?force=true") {
				t.Errorf("force %v", db.force)
			}
			left, err := os.ReadDir(spool)
			if err != nil || len(left) > 0 {
				t.Errorf("left in the spool: %v %v", left, err)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	var missing error
	srv := serve(t, web.Config{Probes: []web.Probe{
		{Name: "state", Check: func(context.Context) error { return nil }},
		{Name: "database", Check: func(context.Context) error { return missing }},
	}})
	type answer struct {
		Status int
		Body   string
	}
	get := func(path string, headers ...string) answer {
		status, body := ask(t, "GET", srv.URL+path, "", headers...)
		return answer{status, body}
	}
	got := []answer{get("/readyz")}
	missing = errors.New("no vulnerability database yet")
	got = append(got, get("/readyz"), get("/readyz", "Accept", "application/json"), get("/healthz"))
	want := []answer{
		{200, "ok    state\nok    database\nready\n"},
		{503, "ok    state\nFAIL  database: no vulnerability database yet\nnot ready\n"},
		{503, `{"ready":false,"checks":[{"name":"state","ready":true,"message":""},{"name":"database","ready":false,"message":"no vulnerability database yet"}]}` + "\n"},
		{200, "ok\n"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSurface(t *testing.T) {
	srv := serve(t, web.Config{})
	for _, tc := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 200},
		{"GET", "/metrics", 200},
		{"GET", "/debug/pprof/", 200},
		{"GET", "/debug/pprof/cmdline", 404},
		{"GET", "/debug/vars", 404},
		{"GET", "/api/v1/nothing", 404},
		{"GET", "/v2/", 404},
		{"POST", "/api/v1/check?ref=lab/a", 405},
		{"GET", "/api/v1/database/import", 405},
		{"DELETE", "/api/v1/images", 405},
		{"GET", "/api/v1/check?ref=lab/a", 503}, // nothing is wired
		{"GET", "/api/v1/images", 503},
		{"GET", "/api/v1/database", 503},
		{"POST", "/api/v1/database/import", 503},
	} {
		status, body := ask(t, tc.method, srv.URL+tc.path, "")
		if status != tc.status {
			t.Errorf("%s %s: %d %s, want %d", tc.method, tc.path, status, body, tc.status)
		}
		if strings.HasPrefix(tc.path, "/api/") && !strings.HasPrefix(body, `{"error":"`) {
			t.Errorf("%s %s: no JSON error: %s", tc.method, tc.path, body)
		}
	}
}

func TestOtherSitesAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name, method, path string
		headers            []string
		status             int
	}{
		{"address", "GET", "/api/v1/database", []string{"Host", "10.0.0.7:5001"}, 200},
		{"address v6", "GET", "/api/v1/database", []string{"Host", "[::1]:5001"}, 200},
		{"localhost", "GET", "/api/v1/database", []string{"Host", "LOCALHOST:5001"}, 200},
		{"configured name", "GET", "/api/v1/database", []string{"Host", "admin.example"}, 200},
		{"rebound name", "GET", "/api/v1/database", []string{"Host", "evil.example:5001"}, 421},
		{"name that contains a known one", "GET", "/api/v1/database", []string{"Host", "admin.example.evil.example"}, 421},
		{"name that looks like an address", "GET", "/metrics", []string{"Host", "127.0.0.1.evil.example"}, 421},
		{"rebound name, profile", "GET", "/debug/pprof/heap", []string{"Host", "evil.example"}, 421},
		{"rebound name, import", "POST", "/api/v1/database/import", []string{"Host", "evil.example"}, 421},
		{"probes by any name", "GET", "/healthz", []string{"Host", "pod.cluster.local"}, 200},
		{"form of another site", "POST", "/api/v1/database/import", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"form of an old browser", "POST", "/api/v1/database/import", []string{"Origin", "https://evil.example"}, 403},
		{"image tag of another site", "GET", "/api/v1/database", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"profile asked by another site", "GET", "/debug/pprof/profile?seconds=1", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"own page", "POST", "/api/v1/database/import", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"own page, old browser", "GET", "/api/v1/database", []string{"Sec-Fetch-Site", "none"}, 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db := &fakeDatabase{}
			srv := serve(t, web.Config{Database: db, Hosts: []string{"admin.example"}})
			status, body := ask(t, tc.method, srv.URL+tc.path, "x", tc.headers...)
			if status != tc.status {
				t.Errorf("%d %s, want %d", status, body, tc.status)
			}
			if status >= 400 && db.asked {
				t.Error("the refused request reached the database")
			}
		})
	}
}
