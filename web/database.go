package web

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

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
	// Previous is the digest of the database that `db rollback` returns to; "" when
	// there is none.
	Previous string `json:"previous"`
	// RolledBack is the database that an operator rolled back from; null: none.
	RolledBack *DatabaseRollback `json:"rolledBack"`
	// Failing are the sources that failed when they were asked last.
	Failing []SourceFailure `json:"failing"`
	// Served is what other users of Trivy get; null when database.serve is off.
	Served *DatabaseServed `json:"served"`
	// Replica is how this process stands among those that share the state; null when
	// it is alone.
	Replica *DatabaseReplica `json:"replica"`
}

// DatabaseReplica is how a replica stands to the database that all agreed on.
type DatabaseReplica struct {
	// Name of this replica, and whether it asks the sources: leader, follower.
	Name string `json:"name"`
	Role string `json:"role"`
	// Wanted is the digest of the database that all are to use; "" when nothing was
	// agreed on yet.
	Wanted string `json:"wanted"`
	// Cause of that, and the replica that said so: kept, source, import, rollback, undo.
	Cause string `json:"cause"`
	By    string `json:"by"`
	// Lag is for how many seconds another one is used here.
	Lag float64 `json:"lag"`
	// LastError of using what all are to use; "" when it went well.
	LastError string `json:"lastError"`
}

// DatabaseRollback is a database that no source brings back.
type DatabaseRollback struct {
	Digest string    `json:"digest"`
	At     time.Time `json:"at"`
}

// SourceFailure is how a source failed when it was asked last.
type SourceFailure struct {
	Source string `json:"source"`
	Error  string `json:"error"`
	// Since is when it began to fail.
	Since time.Time `json:"since"`
	// NotBefore is when it wants to be asked again; null: it did not say.
	NotBefore *time.Time `json:"notBefore"`
}

// DatabaseServed is the database as an OCI artifact of the registry listener.
type DatabaseServed struct {
	// Name after the registry's address: pratique/trivy-db:2.
	Name string `json:"name"`
	// Digest of the manifest that it names; "" while there is none.
	Digest string `json:"digest"`
	// Database is the digest of the database that it holds.
	Database string `json:"database"`
	// Bytes of the compressed layer.
	Bytes int64 `json:"bytes"`
	// LastError of making the copy; "" when it went well.
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
	if st.Failing == nil {
		st.Failing = []SourceFailure{}
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
	force, err := parameterBool(r, "force")
	if err != nil {
		return err
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

// parameterBool reads a parameter that is true, false or left out.
func parameterBool(r *http.Request, name string) (bool, error) {
	switch v := r.URL.Query().Get(name); v {
	case "", "false", "0":
		return false, nil
	case "true", "1":
		return true, nil
	default:
		return false, badRequest(name+" is not true or false: "+v, "write "+name+"=true or leave it out")
	}
}

// databaseRollback answers POST /api/v1/database/rollback?undo=.
func (s *server) databaseRollback(w http.ResponseWriter, r *http.Request) error {
	if s.Database == nil {
		return unavailable("the database")
	}
	undo, err := parameterBool(r, "undo")
	if err != nil {
		return err
	}
	err = s.Database.Rollback(r.Context(), undo)
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		return &apiError{status: http.StatusConflict, err: err,
			message: strings.TrimPrefix(err.Error(), pratique.ErrNotFound.Error()+": "),
			hint:    "`pratique db status` shows what is kept; --undo goes forward again to what was rolled back from, `pratique db import` takes any other"}
	case errors.Is(err, pratique.ErrInvalid):
		return &apiError{status: http.StatusUnprocessableEntity, message: err.Error(), err: err,
			hint: "the database in use stays; `pratique db import` takes another one"}
	case err != nil:
		return err
	}
	return s.databaseStatus(w, r)
}

// DatabaseHeader names the database that an export holds, by its digest.
const DatabaseHeader = "Pratique-Database"

// databaseExport answers GET /api/v1/database/export?which=.
func (s *server) databaseExport(w http.ResponseWriter, r *http.Request) error {
	if s.Database == nil {
		return unavailable("the database")
	}
	begun := false
	err := s.Database.Export(r.Context(), r.URL.Query().Get("which"), func(d digest.Digest) {
		begun = true
		w.Header().Set(DatabaseHeader, d.String())
		w.Header().Set("Content-Type", "application/gzip")
	}, w)
	switch {
	case err != nil && begun:
		s.Log.WarnContext(r.Context(), "database export broke off", "error", err)
		panic(http.ErrAbortHandler) // the header is out: what is cut is not taken for whole
	case errors.Is(err, pratique.ErrNotFound):
		return keptNot(err)
	}
	return err
}

// databaseDiff answers GET /api/v1/database/diff?old=&new=.
func (s *server) databaseDiff(w http.ResponseWriter, r *http.Request) error {
	if s.Database == nil {
		return unavailable("the database")
	}
	q := r.URL.Query()
	diff, err := s.Database.Diff(r.Context(), q.Get("old"), q.Get("new"))
	if errors.Is(err, pratique.ErrNotFound) {
		return keptNot(err)
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, diff)
	return nil
}

// keptNot answers for a database that is not kept.
func keptNot(err error) error {
	return &apiError{status: http.StatusNotFound, err: err,
		message: strings.TrimPrefix(err.Error(), pratique.ErrNotFound.Error()+": "),
		hint:    "name current, previous or one of their digests; `pratique db status` shows them"}
}
