package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"pratique"
	"pratique/policy"
	"pratique/policy/simulate"
)

// maxSimulation bounds what is sent to be simulated: policies, and what another
// database says of all components in use.
const maxSimulation = 256 << 20

// maxSince is how far back is looked at most.
const maxSince = 10 * 366 * 24 * time.Hour

// ErrBusy means that a simulation is running: one at a time is enough for people.
var ErrBusy = errors.New("another simulation is running")

// Simulator replays recorded pulls.
type Simulator interface {
	// Simulate compares what the policies in force say of the pulls with what a
	// draft does, and perhaps another database. Mistakes in the policies are an error
	// wrapping pratique.ErrInvalid.
	Simulate(ctx context.Context, since time.Time, policies []policy.File, db *SimulatedDatabase) (Simulated, error)
	// Components yields each distinct component of the images pulled since then.
	Components(ctx context.Context, since time.Time) iter.Seq2[SimulatedComponent, error]
}

// Simulation is the body of POST /api/v1/policy/simulate.
type Simulation struct {
	// Since is how far back pulls are looked at: a moment.
	Since time.Time `json:"since"`
	// Policies are the draft, all files of it. If empty, the policies in force.
	Policies []SimulatedPolicy `json:"policies,omitempty"`
	// Database is what another database says. If null, the reports that stand.
	Database *SimulatedDatabase `json:"database,omitempty"`
}

// SimulatedPolicy is one file of a draft.
type SimulatedPolicy struct {
	Name string `json:"name"` // for messages
	Text string `json:"text"`
}

// SimulatedDatabase is what a database says of components, matched by whoever
// asks: this process has its own database open, and can have no other.
type SimulatedDatabase struct {
	Engine pratique.Engine `json:"engine"`
	// Matches are the findings by component; one that is absent was not matched, and
	// its images cannot be decided.
	Matches map[pratique.ComponentID][]pratique.Vulnerability `json:"matches"`
}

// SimulatedComponent is a line of GET /api/v1/policy/simulate/components. The last
// line has End and neither of the others: without it the list is not whole.
type SimulatedComponent struct {
	ID        pratique.ComponentID `json:"id,omitempty"`
	Component *pratique.Component  `json:"component,omitempty"`
	End       bool                 `json:"end,omitempty"`
}

// Simulated is the answer of POST /api/v1/policy/simulate and what `pratique policy
// simulate -o json` prints.
type Simulated struct {
	// Today and Draft are the versions of the policies that were compared.
	Today string `json:"today"`
	Draft string `json:"draft"`
	// Database is set when another one was tried.
	Database *pratique.Engine `json:"database,omitempty"`
	simulate.Result
}

// simulate answers POST /api/v1/policy/simulate.
func (s *server) simulate(w http.ResponseWriter, r *http.Request) error {
	if s.Simulator == nil {
		return unavailable("simulating")
	}
	var in Simulation
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxSimulation))
	dec.DisallowUnknownFields()
	err := dec.Decode(&in)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = errors.New("something follows the object")
		}
	}
	switch _, large := errors.AsType[*http.MaxBytesError](err); {
	case large:
		return err
	case err != nil:
		return badRequest("not a simulation: "+err.Error(), "`pratique policy simulate` sends one")
	case in.Since.IsZero():
		return badRequest("since is missing", "write the moment from which on pulls count, RFC 3339")
	case len(in.Policies) == 0 && in.Database == nil:
		return badRequest("nothing to simulate", "send policies, or what another database says")
	case time.Since(in.Since) > maxSince:
		return badRequest("since is too long ago", "at most ten years")
	}
	files := make([]policy.File, len(in.Policies))
	for i, p := range in.Policies {
		files[i] = policy.File{Name: p.Name, Data: []byte(p.Text)}
	}
	out, err := s.Simulator.Simulate(r.Context(), in.Since, files, in.Database)
	if err != nil {
		return notSimulated(err)
	}
	for _, c := range []*simulate.Changes{&out.Refused, &out.Served, &out.Undecided} {
		if c.Images == nil {
			c.Images = []simulate.Change{}
		}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func notSimulated(err error) error {
	switch {
	case errors.Is(err, pratique.ErrInvalid):
		return &apiError{status: http.StatusUnprocessableEntity, message: err.Error(), err: err, hint: "`pratique policy check FILE` says the same"}
	case errors.Is(err, ErrBusy):
		return &apiError{status: http.StatusTooManyRequests, message: err.Error(), err: err, hint: "try again when it has ended"}
	case errors.Is(err, simulate.ErrTooMany):
		return &apiError{status: http.StatusUnprocessableEntity, message: err.Error(), err: err, hint: "look less far back (--since)"}
	}
	return err
}

// simulateComponents answers GET /api/v1/policy/simulate/components?since=TIME with a
// line of JSON for each component. A failure after the first line ends the answer
// without the last one.
func (s *server) simulateComponents(w http.ResponseWriter, r *http.Request) error {
	if s.Simulator == nil {
		return unavailable("simulating")
	}
	text := r.URL.Query().Get("since")
	since, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return badRequest(fmt.Sprintf("since %.80q is no time", text), "write RFC 3339, for example 2026-11-01T00:00:00Z")
	}
	begun := false
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	for c, err := range s.Simulator.Components(r.Context(), since) { //nolint:contextcheck // it is passed
		if err != nil && !begun {
			return notSimulated(err)
		}
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		if err == nil {
			err = enc.Encode(c)
		}
		if err != nil {
			s.Log.WarnContext(r.Context(), "listing components", "error", err)
			panic(http.ErrAbortHandler) // the client sees that it is cut off
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	return errors.Join(enc.Encode(SimulatedComponent{End: true}), out.Flush())
}
