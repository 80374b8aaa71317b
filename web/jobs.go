package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Jobs is the queue of scans. Implemented over scheduler.Jobs and scheduler.Pauses.
type Jobs interface {
	// Jobs lists jobs, those that run first, the dead last. An unknown state is
	// pratique.ErrInvalid.
	Jobs(ctx context.Context, q JobQuery) (JobList, error)
	// RetryJobs opens the dead job of an image again, or has an open one tried at
	// once; with an empty digest it opens all dead ones. It returns how many; an image
	// without such a job is pratique.ErrNotFound.
	RetryJobs(ctx context.Context, image digest.Digest) (int, error)
	// PauseJobs and ResumeJobs hold priorities back and let them go on, all but pulls
	// if none is named. One that there is not is pratique.ErrInvalid.
	PauseJobs(ctx context.Context, priorities []string) (Pauses, error)
	ResumeJobs(ctx context.Context, priorities []string) (Pauses, error)
}

// JobQuery chooses jobs.
type JobQuery struct {
	Image digest.Digest // "" = all
	State string        // "" = all
	Limit int
}

// JobList is what GET /api/v1/jobs answers.
type JobList struct {
	Jobs   []Job          `json:"jobs"`
	Open   map[string]int `json:"open"` // how many, by priority
	Dead   int            `json:"dead"` // how many
	Paused []Pause        `json:"paused"`
}

// Job is one scan to do.
type Job struct {
	Ref      string        `json:"ref"`
	Digest   digest.Digest `json:"digest"`
	State    string        `json:"state"`    // waiting, running, retry, paused, dead
	Priority string        `json:"priority"` // pull, webhook, database, schedule
	Attempts int           `json:"attempts"` // that failed
	Opened   *time.Time    `json:"opened"`
	Next     *time.Time    `json:"next"` // earliest next attempt; null: at its turn, or none
	Died     *time.Time    `json:"died"` // when it was given up
	Error    string        `json:"error"`
}

// Pauses is what POST /api/v1/jobs/pause and resume answer.
type Pauses struct {
	Paused []Pause `json:"paused"`
}

// Pause is a priority that is held back.
type Pause struct {
	Priority string    `json:"priority"`
	Since    time.Time `json:"since"`
}

// JobsRetried is what POST /api/v1/jobs/retry answers.
type JobsRetried struct {
	Jobs int `json:"jobs"` // that will be tried again
}

// Schedules are things done at set times. Implemented over scheduler.Cron.
type Schedules interface {
	Schedules(ctx context.Context) (ScheduleList, error)
	// BeginSchedule begins one now. An unknown name is pratique.ErrNotFound, one that
	// runs an error with its own status.
	BeginSchedule(ctx context.Context, name string) error
}

// ScheduleList is what GET /api/v1/schedules answers.
type ScheduleList struct {
	Schedules []Schedule `json:"schedules"`
	Paused    bool       `json:"paused"` // none begins before jobs are resumed
}

// Schedule is one.
type Schedule struct {
	Name    string       `json:"name"`
	Cron    string       `json:"cron"`
	Do      string       `json:"do"`
	Match   []string     `json:"match"` // empty: all
	Running bool         `json:"running"`
	Next    *time.Time   `json:"next"` // null: never
	Last    *ScheduleRun `json:"last"` // null: it never ran
}

// ScheduleRun is the last run of a schedule.
type ScheduleRun struct {
	Started time.Time  `json:"started"`
	Ended   *time.Time `json:"ended"`   // null: it runs, or the process was killed
	Outcome string     `json:"outcome"` // done, failed, stopped; "" while it runs
	Note    string     `json:"note"`
}

// Limits of a list of jobs.
const (
	defaultJobs = 100
	maxJobs     = 1000
)

// jobs answers GET /api/v1/jobs?state=STATE&digest=D&limit=N.
func (s *server) jobs(w http.ResponseWriter, r *http.Request) error {
	if s.Jobs == nil {
		return unavailable("the queue")
	}
	query := r.URL.Query()
	q := JobQuery{State: query.Get("state"), Limit: defaultJobs}
	var err error
	if q.Image, err = imageParameter(query.Get("digest")); err != nil {
		return err
	}
	if text := query.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > maxJobs {
			return badRequest(fmt.Sprintf("limit is no number from 1 to %d: %s", maxJobs, text), "")
		}
	}
	list, err := s.Jobs.Jobs(r.Context(), q)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

func imageParameter(text string) (digest.Digest, error) {
	if text == "" {
		return "", nil
	}
	d, err := digest.Parse(text)
	if err != nil {
		return "", badRequest("digest is none: "+text, "write sha256: and 64 hexadecimal digits; `pratique jobs list` shows them")
	}
	return d, nil
}

// jobRetry answers POST /api/v1/jobs/retry?digest=D or ?all=true.
func (s *server) jobRetry(w http.ResponseWriter, r *http.Request) error {
	if s.Jobs == nil {
		return unavailable("the queue")
	}
	text, all := r.URL.Query().Get("digest"), r.URL.Query().Get("all") == "true"
	if (text == "") != all {
		return badRequest("want one of digest=DIGEST and all=true", "`pratique jobs list --state dead` shows digests")
	}
	image, err := imageParameter(text)
	if err != nil {
		return err
	}
	n, err := s.Jobs.RetryJobs(r.Context(), image)
	if errors.Is(err, pratique.ErrNotFound) {
		return &apiError{status: http.StatusNotFound, message: "no job of " + text + " is dead or waits for its next attempt", hint: "`pratique jobs list` shows them; those that were given up are kept for 30 days", err: err}
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, JobsRetried{Jobs: n})
	return nil
}

// jobsPause answers POST /api/v1/jobs/pause?priority=P…, jobsResume the reverse.
func (s *server) jobsPause(w http.ResponseWriter, r *http.Request) error {
	return s.pauses(w, r, func(ps []string) (Pauses, error) { return s.Jobs.PauseJobs(r.Context(), ps) })
}

func (s *server) jobsResume(w http.ResponseWriter, r *http.Request) error {
	return s.pauses(w, r, func(ps []string) (Pauses, error) { return s.Jobs.ResumeJobs(r.Context(), ps) })
}

func (s *server) pauses(w http.ResponseWriter, r *http.Request, do func([]string) (Pauses, error)) error {
	if s.Jobs == nil {
		return unavailable("the queue")
	}
	ps := r.URL.Query()["priority"]
	if slices.Contains(ps, "pull") {
		return badRequest("pulls are never paused: somebody waits", "want webhook, database, schedule, or none for all of these")
	}
	out, err := do(ps)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// schedules answers GET /api/v1/schedules.
func (s *server) schedules(w http.ResponseWriter, r *http.Request) error {
	if s.Schedules == nil {
		return unavailable("the list of schedules")
	}
	list, err := s.Schedules.Schedules(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// scheduleRun answers POST /api/v1/schedules/{name}/run.
func (s *server) scheduleRun(w http.ResponseWriter, r *http.Request) error {
	if s.Schedules == nil {
		return unavailable("the list of schedules")
	}
	name := r.PathValue("name")
	err := s.Schedules.BeginSchedule(r.Context(), name)
	if errors.Is(err, pratique.ErrNotFound) {
		return &apiError{status: http.StatusNotFound, message: "no schedule " + strconv.Quote(name), hint: "`pratique schedule list` shows them; they are configured under schedules", err: err}
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusAccepted, struct {
		Begun string `json:"begun"`
	}{name})
	return nil
}
