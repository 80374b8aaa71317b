package web

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Verdicts are those that clients met. Part of store.PullLog.
type Verdicts interface {
	// Verdict returns the verdict with this id; ErrNotFound when there is none.
	Verdict(ctx context.Context, id string) (store.Judged, error)
}

// Met is what GET /api/v1/verdicts/ID answers and `pratique check --verdict ID
// -o json` prints: a refusal or warning that a client met.
type Met struct {
	Ref     string        `json:"ref"`
	Digest  digest.Digest `json:"digest"`
	Client  string        `json:"client"` // address of the first client that met it
	At      time.Time     `json:"at"`     // when that was
	Verdict *CheckVerdict `json:"verdict"`
	// Findings of the reasons, worst first, each once.
	Findings []CheckFinding `json:"findings"`
	Now      MetNow         `json:"now"`
}

// MetNow is what the same client would meet now by the same pull.
type MetNow struct {
	Digest digest.Digest `json:"digest"` // another one when the tag moved
	// Verdict is null when there is none; Error then says why.
	Verdict *CheckVerdict `json:"verdict"`
	Error   string        `json:"error,omitempty"`
}

// maxVerdictID bounds what is looked up, in bytes.
const maxVerdictID = 64

// verdict answers GET /api/v1/verdicts/{id}.
func (s *server) verdict(w http.ResponseWriter, r *http.Request) error {
	if s.Verdicts == nil || s.Gate == nil {
		return unavailable("the history of verdicts")
	}
	id := r.PathValue("id")
	if len(id) > maxVerdictID {
		return badRequest("that is no id of a verdict", "it stands in the refusal, behind the word verdict")
	}
	j, err := s.Verdicts.Verdict(r.Context(), id)
	if errors.Is(err, pratique.ErrNotFound) {
		return &apiError{
			status: http.StatusNotFound, message: "no client met a verdict " + id, err: err,
			hint: "refusals and warnings are kept, as long as history.retention says, from half a second after they were met",
		}
	}
	if err != nil {
		return err
	}
	out := Met{
		Ref: typedRef(j.Ref), Digest: j.Ref.Digest, Client: j.Client, At: j.At.UTC(),
		Verdict: newVerdict(j.Verdict), Findings: findingsOf(j.Verdict), Now: s.now(r.Context(), j),
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// now decides on the same pull anew, without waiting: by its tag if it had one.
func (s *server) now(ctx context.Context, j store.Judged) MetNow {
	ref := j.Ref
	if ref.Tag != "" {
		ref.Digest = ""
	}
	client, err := netip.ParseAddr(j.Client)
	if err != nil {
		client = netip.Addr{}
	}
	d, err := s.Gate.Check(ctx, ref, client, 0)
	out := MetNow{Digest: d.Image.Digest}
	switch {
	case errors.Is(err, pratique.ErrPending) || err == nil && undecided(d):
		out.Error = "not decided yet: " + plain(ref.String()) + " is being looked at"
	case err != nil:
		out.Error = classify(err).message
	default:
		out.Verdict = newVerdict(d.Verdict)
	}
	return out
}

// findingsOf are those of all reasons, worst first, each once.
func findingsOf(v pratique.Verdict) []CheckFinding {
	var all []pratique.Finding
	for _, r := range v.Reasons {
		all = append(all, r.Findings...)
	}
	out := []CheckFinding{}
	seen := make(map[CheckFinding]bool)
	for _, f := range worstFirst(all) {
		if c := newFinding(f); !seen[c] {
			seen[c] = true
			out = append(out, c)
		}
	}
	return out
}
