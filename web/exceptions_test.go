package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/web"
)

// fakeExceptions keeps what it is given.
type fakeExceptions struct {
	all  []pratique.Exception
	fail error
}

func (f *fakeExceptions) Create(_ context.Context, e pratique.Exception) (pratique.Exception, error) {
	if f.fail != nil {
		return pratique.Exception{}, f.fail
	}
	e.ID, e.Source, e.Created = fmt.Sprintf("ex-%d", len(f.all)), "api", now
	if err := e.Validate(0); err != nil {
		return pratique.Exception{}, err
	}
	f.all = append(f.all, e)
	return e, nil
}

func (f *fakeExceptions) Revoke(_ context.Context, id, by, why string) (pratique.Exception, error) {
	for i := range f.all {
		if f.all[i].ID == id {
			f.all[i].Revoked, f.all[i].RevokedBy, f.all[i].RevokedWhy = now, by, why
			return f.all[i], f.fail
		}
	}
	return pratique.Exception{}, fmt.Errorf("exception %s: %w", id, pratique.ErrNotFound)
}

func (f *fakeExceptions) List(context.Context) ([]pratique.Exception, error) { return f.all, f.fail }

const newException = `{"finding": "CVE-2024-1234", "package": "openssl", "repository": "docker.io/library/nginx", "platform": "linux/arm/v7",
"reason": "not reachable", "author": "ann", "ticket": "SEC-1", "expires": "2999-12-31T12:00:00+01:00"}`

const createdException = `{"id":"ex-0","state":%q,"finding":"CVE-2024-1234","rule":"","package":"openssl","repository":"docker.io/library/nginx","digest":"","platform":"linux/arm/v7",` +
	`"reason":"not reachable","author":"ann","ticket":"SEC-1","created":"2026-11-23T12:00:00Z","expires":"2999-12-31T11:00:00Z","source":"api",%s}`

func TestExceptionsLife(t *testing.T) {
	f := &fakeExceptions{}
	srv := serve(t, web.Config{Exceptions: f})
	// now may be in the past or in the future of the machine that runs this
	state := "active"
	if now.After(time.Now()) {
		state = "pending"
	}
	made := fmt.Sprintf(createdException, state, `"revoked":null,"revokedBy":"","revokedWhy":""`)
	gone := fmt.Sprintf(createdException, "revoked", `"revoked":"2026-11-23T12:00:00Z","revokedBy":"ben","revokedWhy":"fixed & gone"`)
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "", "", 200, `{"exceptions":[]}`},
		{"POST", "", newException, 201, made},
		{"GET", "", "", 200, `{"exceptions":[` + made + `]}`},
		{"GET", "/ex-0", "", 200, made},
		{"GET", "/ex-1", "", 404, "`pratique exception list --all` shows them"},
		{"DELETE", "/ex-1?by=ben&reason=x", "", 404, `no exception \"ex-1\"`},
		{"DELETE", "/ex-0?by=ben&reason=fixed+%26+gone", "", 200, strings.ReplaceAll(gone, "&", `\u0026`)},
		{"GET", "?all=false", "", 200, `{"exceptions":[]}`},
		{"GET", "?all=true", "", 200, `{"exceptions":[` + strings.ReplaceAll(gone, "&", `\u0026`) + `]}`},
		{"GET", "?all=maybe", "", 400, "neither true nor false"},
		{"PUT", "/ex-0", "", 405, "use GET or DELETE"},
		{"DELETE", "", "", 405, "use GET or POST"},
	} {
		status, body := ask(t, step.method, srv.URL+"/api/v1/exceptions"+step.path, step.body)
		if status != step.status || !strings.Contains(body, step.want) {
			t.Errorf("%s %s: %d %s\nwant %d %s", step.method, step.path, status, body, step.status, step.want)
		}
	}
}

func TestExceptionCreateRefuses(t *testing.T) {
	set := func(key, value string) string {
		var in map[string]any
		if err := json.Unmarshal([]byte(newException), &in); err != nil {
			t.Fatal(err)
		}
		in[key] = value
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, tc := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"nothing", "", 400, "not an exception"},
		{"a list", "[]", 400, "not an exception"},
		{"misspelt key, which would make it wide", set("pakcage", "openssl"), 400, `unknown field \"pakcage\"`},
		{"more than one", newException + newException, 400, "something follows"},
		{"more than anybody writes", set("reason", strings.Repeat("x", 70_000)), 413, "more than 65536 bytes"},
		{"platform", set("platform", "arm"), 400, "want os/architecture"},
		{"time", set("expires", "14d"), 400, "RFC 3339"},
		{"mistakes in one line", `{"finding": "CVE-1"}`, 400, "; invalid exception: say why"},
		{"upstream that is not there", set("repository", "quay.io/org/app"), 400, "configured are: docker.io, ghcr.io, lab"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fakeExceptions{}
			status, body := ask(t, "POST", serve(t, web.Config{Exceptions: f}).URL+"/api/v1/exceptions", tc.body)
			if status != tc.status || !strings.Contains(body, tc.want) || len(f.all) > 0 {
				t.Errorf("%d %s, kept %v; want %d with %q", status, body, f.all, tc.status, tc.want)
			}
		})
	}
	// Other names of an upstream are written as its key, by which images are judged.
	f := &fakeExceptions{}
	for _, repository := range []string{"127.0.0.1:7001/team/*", "*/team/app", "**"} {
		if status, body := ask(t, "POST", serve(t, web.Config{Exceptions: f}).URL+"/api/v1/exceptions", set("repository", repository)); status != 201 {
			t.Errorf("%d %s", status, body)
		}
	}
	var got []string
	for _, e := range f.all {
		got = append(got, e.Repository)
	}
	if d := cmp.Diff([]string{"lab/team/*", "*/team/app", "**"}, got); d != "" {
		t.Error(d)
	}
}

// TestExceptionsAreGuarded: no web site makes or ends one through somebody's browser.
func TestExceptionsAreGuarded(t *testing.T) {
	f := &fakeExceptions{all: []pratique.Exception{{ID: "ex-0"}}}
	srv := serve(t, web.Config{Exceptions: f})
	for _, headers := range [][]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}} {
		for _, r := range [][3]string{{"POST", "", newException}, {"DELETE", "/ex-0?by=eve&reason=x", ""}} {
			if status, body := ask(t, r[0], srv.URL+"/api/v1/exceptions"+r[1], r[2], headers...); status != 403 {
				t.Errorf("%v %s: %d %s", headers, r[0], status, body)
			}
		}
	}
	if status, _ := ask(t, "POST", srv.URL+"/api/v1/exceptions", newException, "Host", "evil.example"); status != 421 {
		t.Errorf("another name: %d", status)
	}
	if len(f.all) != 1 || !f.all[0].Revoked.IsZero() {
		t.Errorf("%+v", f.all)
	}
}

func TestExceptionsFailures(t *testing.T) {
	for _, r := range [][3]string{{"GET", "", ""}, {"GET", "/ex-0", ""}, {"POST", "", newException}, {"DELETE", "/ex-0?by=a&reason=b", ""}} {
		if status, body := ask(t, r[0], serve(t, web.Config{}).URL+"/api/v1/exceptions"+r[1], r[2]); status != 503 {
			t.Errorf("without exceptions: %s %s: %d %s", r[0], r[1], status, body)
		}
		f := &fakeExceptions{all: []pratique.Exception{{ID: "ex-0"}}, fail: errors.New("disk is gone")}
		if status, body := ask(t, r[0], serve(t, web.Config{Exceptions: f}).URL+"/api/v1/exceptions"+r[1], r[2]); status != 500 {
			t.Errorf("with a broken store: %s %s: %d %s", r[0], r[1], status, body)
		}
	}
}
