package web

import (
	"fmt"
	"net/http"
	"strings"
	"time"
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
	Message string `json:"message"` // "" when ready
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
		if c.Ready {
			_, _ = fmt.Fprintf(w, "ok    %s\n", c.Name)
		} else {
			_, _ = fmt.Fprintf(w, "FAIL  %s: %s\n", c.Name, c.Message)
		}
	}
	if out.Ready {
		_, _ = fmt.Fprintln(w, "ready")
	} else {
		_, _ = fmt.Fprintln(w, "not ready")
	}
}

// DatabaseStatus is the answer of /api/v1/database.
type DatabaseStatus struct {
	// Database in use; null when there is none and nothing can be decided.
	Database *DatabaseInfo `json:"database"`
	// Sources that are asked, in order; the path of an air-gapped database is one.
	Sources []string `json:"sources"`
	// CheckedAt is when a source last answered, NextCheck when one is asked again.
	CheckedAt *time.Time `json:"checkedAt"`
	NextCheck *time.Time `json:"nextCheck"`
	// LastError of the last refresh; "" when it went well.
	LastError string `json:"lastError"`
}

// DatabaseInfo describes an adopted database.
type DatabaseInfo struct {
	Digest    string     `json:"digest"`
	UpdatedAt time.Time  `json:"updatedAt"`
	AdoptedAt *time.Time `json:"adoptedAt"`
	Source    string     `json:"source"`
	// Vulnerabilities and Advisories are how many records it holds.
	Vulnerabilities int `json:"vulnerabilities"`
	Advisories      int `json:"advisories"`
}
