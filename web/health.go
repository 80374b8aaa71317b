package web

import (
	"fmt"
	"net/http"
	"strings"
)

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready  bool          `json:"ready"`
	Checks []ProbeResult `json:"checks"`
}

// ProbeResult is one probe's part in it.
type ProbeResult struct {
	Name    string `json:"name"`
	Ready   bool   `json:"ready"`
	Message string `json:"message"` // "" when ready and there is nothing to say
}

// healthz says that the process answers. It asks nothing else: an orchestrator
// restarts what fails here, and no restart brings an upstream back.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// readyz answers 200 when every probe passes, else 503; JSON when asked for by
// Accept, else text.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	out := Readiness{Ready: true, Checks: []ProbeResult{}}
	for _, p := range s.Probes {
		res := ProbeResult{Name: p.Name, Ready: true}
		if err := p.Check(r.Context()); err != nil {
			res.Ready, res.Message, out.Ready = false, err.Error(), false
		} else if p.Note != nil {
			res.Message = p.Note()
		}
		out.Checks = append(out.Checks, res)
	}
	status := http.StatusOK
	if !out.Ready {
		status = http.StatusServiceUnavailable
	}
	if strings.Contains(r.Header.Get("Accept"), "json") {
		writeJSON(w, status, out)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	for _, c := range out.Checks {
		switch {
		case c.Ready && c.Message == "":
			_, _ = fmt.Fprintf(w, "ok    %s\n", c.Name)
		case c.Ready:
			_, _ = fmt.Fprintf(w, "ok    %s: %s\n", c.Name, c.Message)
		default:
			_, _ = fmt.Fprintf(w, "FAIL  %s: %s\n", c.Name, c.Message)
		}
	}
	if out.Ready {
		_, _ = fmt.Fprintln(w, "ready")
	} else {
		_, _ = fmt.Fprintln(w, "not ready")
	}
}
