package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/web"
)

// fakeJobs remembers what it was asked.
type fakeJobs struct {
	asked []string
	fail  error
}

func (f *fakeJobs) Jobs(_ context.Context, q web.JobQuery) (web.JobList, error) {
	f.asked = append(f.asked, fmt.Sprintf("list %q %q %d", q.State, q.Image, q.Limit))
	return web.JobList{Jobs: []web.Job{{Ref: "lab/a:v1", State: "dead", Died: &now, Error: "gone"}}, Open: map[string]int{"pull": 1}, Dead: 1, Paused: []web.Pause{{Priority: "schedule", Since: now}}}, f.fail
}

func (f *fakeJobs) RetryJobs(_ context.Context, d digest.Digest) (int, error) {
	f.asked = append(f.asked, "retry "+d.String())
	return 3, f.fail
}

func (f *fakeJobs) PauseJobs(_ context.Context, ps []string) (web.Pauses, error) {
	f.asked = append(f.asked, fmt.Sprint("pause ", ps))
	return web.Pauses{Paused: []web.Pause{}}, f.fail
}

func (f *fakeJobs) ResumeJobs(_ context.Context, ps []string) (web.Pauses, error) {
	f.asked = append(f.asked, fmt.Sprint("resume ", ps))
	return web.Pauses{Paused: []web.Pause{}}, f.fail
}

func (f *fakeJobs) Schedules(context.Context) (web.ScheduleList, error) {
	return web.ScheduleList{Schedules: []web.Schedule{{Name: "nightly", Match: []string{}}}}, f.fail
}

func (f *fakeJobs) BeginSchedule(_ context.Context, name string) error {
	f.asked = append(f.asked, "begin "+name)
	return f.fail
}

func TestJobs(t *testing.T) {
	f := &fakeJobs{}
	url := serve(t, web.Config{Jobs: f, Schedules: f}).URL + "/api/v1"
	_, body := ask(t, http.MethodGet, url+"/jobs", "")
	var list web.JobList
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Jobs) != 1 || list.Jobs[0].Error != "gone" || list.Open["pull"] != 1 || list.Dead != 1 || len(list.Paused) != 1 {
		t.Errorf("%s %v", body, err)
	}
	d := digestOf("x").String()
	for _, tc := range []struct {
		method, path string
		status       int
		want         string
	}{
		{http.MethodGet, "/jobs?state=dead&limit=7&digest=" + d, 200, `"lab/a:v1"`},
		{http.MethodGet, "/jobs?limit=0", 400, "from 1 to 1000"},
		{http.MethodGet, "/jobs?digest=x", 400, "digest is none"},
		{http.MethodPost, "/jobs/retry?digest=" + d, 200, `"jobs":3`},
		{http.MethodPost, "/jobs/retry?all=true", 200, `"jobs":3`},
		{http.MethodPost, "/jobs/retry", 400, "want one of"},
		{http.MethodPost, "/jobs/retry?all=true&digest=" + d, 400, "want one of"},
		{http.MethodPost, "/jobs/retry?digest=sha256:1", 400, "digest is none"},
		{http.MethodPost, "/jobs/pause", 200, `"paused":[]`},
		{http.MethodPost, "/jobs/pause?priority=webhook&priority=schedule", 200, `"paused":[]`},
		{http.MethodPost, "/jobs/pause?priority=schedule&priority=pull", 400, "never paused"},
		{http.MethodPost, "/jobs/resume?priority=webhook", 200, `"paused":[]`},
		{http.MethodGet, "/jobs/pause", 405, "POST"},
		{http.MethodGet, "/schedules", 200, `"nightly"`},
		{http.MethodPost, "/schedules/nightly/run", 202, `"begun":"nightly"`},
		{http.MethodGet, "/schedules/nightly/run", 405, "POST"},
	} {
		status, body := ask(t, tc.method, url+tc.path, "")
		if status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s %s: %d %s, want %d %q", tc.method, tc.path, status, body, tc.status, tc.want)
		}
	}
	want := []string{`list "" "" 100`, `list "dead" "` + d + `" 7`, "retry " + d, "retry ", "pause []", "pause [webhook schedule]", "resume [webhook]", "begin nightly"}
	if diff := cmp.Diff(want, f.asked); diff != "" {
		t.Error(diff)
	}
	for fail, status := range map[error]int{pratique.ErrNotFound: 404, pratique.ErrInvalid: 400, errors.New("disk"): 500} {
		f.fail = fail
		for _, path := range []string{"/jobs/retry?all=true", "/jobs/pause", "/jobs/resume", "/schedules/x/run"} {
			if got, body := ask(t, http.MethodPost, url+path, ""); got != status {
				t.Errorf("%s: %v: %d %s, want %d", path, fail, got, body, status)
			}
		}
	}
	none := serve(t, web.Config{}).URL + "/api/v1"
	for _, tc := range [][2]string{
		{http.MethodGet, "/jobs"}, {http.MethodPost, "/jobs/retry?all=true"}, {http.MethodPost, "/jobs/pause"}, {http.MethodPost, "/jobs/resume"},
		{http.MethodGet, "/schedules"}, {http.MethodPost, "/schedules/x/run"},
	} {
		if status, _ := ask(t, tc[0], none+tc[1], ""); status != http.StatusServiceUnavailable {
			t.Errorf("%s without a queue: %d", tc[1], status)
		}
	}
}
