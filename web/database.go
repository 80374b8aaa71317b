package web

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"pratique"
)

// DatabaseStatus is the answer of /api/v1/database.
type DatabaseStatus struct {
	// Database in use; null when there is none and nothing can be decided.
	Database *DatabaseInfo `json:"database"`
	// Sources that are asked, in order; the path of an air-gapped database is one.
	Sources []string `json:"sources"`
	// CheckedAt is when the sources were last asked; null: not yet.
	CheckedAt *time.Time `json:"checkedAt"`
	// LastError of the last check or import; "" when it went well.
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

// databaseStatus answers GET /api/v1/database.
func (s *server) databaseStatus(w http.ResponseWriter, r *http.Request) error {
	if s.Database == nil {
		return unavailable("the database")
	}
	st, err := s.Database.Status(r.Context())
	if err != nil {
		return err
	}
	if st.Sources == nil {
		st.Sources = []string{}
	}
	writeJSON(w, http.StatusOK, st)
	return nil
}

// databaseImport answers POST /api/v1/database/import?force=: the body is a
// .tar.gz of trivy.db and metadata.json.
//
// The body goes to a file first, so that a slow or broken upload never holds
// the database, and the file is gone whatever happens.
func (s *server) databaseImport(w http.ResponseWriter, r *http.Request) error {
	if s.Database == nil {
		return unavailable("the database")
	}
	force := false
	switch v := r.URL.Query().Get("force"); v {
	case "", "false", "0":
	case "true", "1":
		force = true
	default:
		return badRequest("force is not true or false: "+v, "write force=true or leave it out")
	}
	if r.ContentLength > s.MaxImport {
		return &http.MaxBytesError{Limit: s.MaxImport}
	}
	f, err := os.CreateTemp(s.Spool, "pratique-import-*.tar.gz")
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }()
	n, err := io.Copy(f, http.MaxBytesReader(w, r.Body, s.MaxImport))
	if err != nil {
		return err
	}
	if n == 0 {
		return badRequest("the upload is empty", "send a .tar.gz of trivy.db and metadata.json")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := s.Database.Import(r.Context(), f, force); err != nil {
		if errors.Is(err, pratique.ErrInvalid) {
			return &apiError{status: http.StatusUnprocessableEntity, message: err.Error(), err: err,
				hint: "the database in use stays; force=true (--force) adopts one that is older or smaller, but never a broken one"}
		}
		return err
	}
	s.Log.InfoContext(r.Context(), "database imported", "bytes", n, "force", force)
	return s.databaseStatus(w, r)
}
