package web

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
)

// Explainer is what a Gate can do besides. Implemented by proxy.Gate.
type Explainer interface {
	// Explain is Check, with every rule's part by the digest of the image that was
	// judged.
	Explain(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, map[digest.Digest][]policy.Evaluation, error)
}

// check answers GET /api/v1/check?ref=REF&wait=DURATION&explain=BOOL: 200 with a
// verdict, 202 when there is none yet. Without wait it does not wait.
func (s *server) check(w http.ResponseWriter, r *http.Request) error {
	if s.Gate == nil {
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
	explain, err := explains(r.URL.Query().Get("explain"))
	if err != nil {
		return err
	}
	var d pratique.Decision
	var rules map[digest.Digest][]policy.Evaluation
	if explain {
		x, ok := s.Gate.(Explainer)
		if !ok {
			return unavailable("explaining")
		}
		d, rules, err = x.Explain(r.Context(), ref, clientAddr(r), wait)
	} else {
		d, err = s.Gate.Check(r.Context(), ref, clientAddr(r), wait)
	}
	if err != nil && !errors.Is(err, pratique.ErrPending) {
		return err
	}
	if d.Ref.Repo == "" {
		d.Ref = ref
	}
	out := newCheck(d)
	out.explain(rules)
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

// explain adds the parts of rules to the images that they were about.
func (c *Check) explain(rules map[digest.Digest][]policy.Evaluation) {
	c.Rules = rules[c.Digest]
	for i := range c.Children {
		c.Children[i].explain(rules)
	}
}

func explains(text string) (bool, error) {
	if text == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return false, badRequest("explain is neither true nor false: "+text, "write explain=true")
	}
	return on, nil
}

// clientAddr is the address of the connection; no header names a client.
func clientAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

func (s *server) wait(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, badRequest("wait is not a duration: "+text, "write for example wait=20s")
	}
	return min(d, s.MaxWait), nil
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
