package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"pratique"
)

// check answers GET /api/v1/check?ref=REF&wait=DURATION: 200 with a verdict,
// 202 when there is none yet. Without wait it does not wait.
func (s *server) check(w http.ResponseWriter, r *http.Request) error {
	if s.Checker == nil {
		return unavailable("checking")
	}
	ref, err := s.resolve(r.URL.Query().Get("ref"))
	if err != nil {
		return err
	}
	wait, err := s.wait(r.URL.Query().Get("wait"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	d, err := s.Checker.Check(ctx, ref)
	if errors.Is(err, context.DeadlineExceeded) && r.Context().Err() == nil {
		// The time that ran out is the caller's wait, not the upstream's answer.
		err = errors.Join(err, pratique.ErrPending)
	}
	if err != nil && !errors.Is(err, pratique.ErrPending) {
		return err
	}
	if d.Ref.Repo == "" {
		d.Ref = ref
	}
	out := newCheck(d)
	if err != nil || undecided(d) {
		out.Verdict = nil
		if out.Report.State == pratique.StateUnknown.String() {
			out.Report.State = string(pratique.StatePending)
		}
		writeJSON(w, http.StatusAccepted, out)
		return nil
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// minWait is what a check without wait is given: enough to read a standing
// report, too little to scan.
const minWait = 2 * time.Second

func (s *server) wait(text string) (time.Duration, error) {
	if text == "" {
		return minWait, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, badRequest("wait is not a duration: "+text, "write for example wait=20s")
	}
	return min(max(d, minWait), s.MaxWait), nil
}

// undecided reports whether a refusal is only the lack of a report. A rule that
// lets unscanned images pass makes that a verdict.
func undecided(d pratique.Decision) bool {
	if d.Verdict.Outcome != pratique.OutcomeDeny {
		return false
	}
	for _, c := range d.Children {
		if undecided(c) {
			return true
		}
	}
	if len(d.Children) > 0 {
		return false
	}
	return d.Report.State == pratique.StateUnknown || d.Report.State == pratique.StatePending
}
