package web

import "net/http"

// Reloaded is the answer of POST /api/v1/reload.
type Reloaded struct {
	// Policies is the version of the policies in force now.
	Policies string `json:"policies"`
	// Changed are the keys that are in force with another value than before.
	Changed []string `json:"changed"`
	// NeedsRestart are the keys that were changed and are not in force before the
	// process is started anew.
	NeedsRestart []string `json:"needsRestart"`
}

// reload answers POST /api/v1/reload.
func (s *server) reload(w http.ResponseWriter, r *http.Request) error {
	if s.Reloader == nil {
		return unavailable("reloading")
	}
	out, err := s.Reloader.Reload(r.Context())
	if err != nil { // a mistake in a file, or one that cannot be read
		return &apiError{status: http.StatusUnprocessableEntity, message: err.Error(), err: err,
			hint: "the configuration in force stays; `pratique config check FILE` says the same"}
	}
	if out.Changed == nil {
		out.Changed = []string{}
	}
	if out.NeedsRestart == nil {
		out.NeedsRestart = []string{}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}
