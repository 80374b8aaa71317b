package database

import (
	"errors"
	"fmt"
	"time"

	"pratique"
)

// kind is what differs between the databases Pratique keeps.
type kind struct {
	name      string // label of metrics and logs
	file      string // the database's file beside metadata.json
	layerType string // media type of the artifact's layer
	schema    int    // version in metadata.json
	maxBytes  int64
	copies    bool // a copy lies beside it for others: see Artifact
	// inspect reads the file and counts what it holds; a *Refusal when it is not
	// what it should be.
	inspect func(path string) (Counts, error)
}

const (
	metadataFile = "metadata.json"
	javaFile     = "trivy-java.db"
)

// vulnerabilities is Trivy's vulnerability database, schema 2.
func vulnerabilities() kind {
	return kind{
		name:      "vulnerability",
		file:      "trivy.db",
		layerType: "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip",
		schema:    2,
		maxBytes:  4 << 30,
		copies:    true,
		inspect:   inspectBolt,
	}
}

// java is Trivy's index of jar digests, schema 1.
func java() kind {
	return kind{
		name:      "java",
		file:      javaFile,
		layerType: "application/vnd.aquasec.trivy.javadb.layer.v1.tar+gzip",
		schema:    1,
		maxBytes:  8 << 30,
		inspect:   inspectSQLite,
	}
}

// Counts say how much a database holds.
type Counts struct {
	Vulnerabilities int            `json:"vulnerabilities,omitempty"`
	Advisories      int            `json:"advisories,omitempty"`
	Roots           map[string]int `json:"roots,omitempty"` // advisories by top-level bucket
	Bytes           int64          `json:"bytes"`
}

// Reasons of refusals, as in pratique_database_refusals_total{reason}.
const (
	ReasonArchive = "archive" // not the tar it should be
	ReasonDigest  = "digest"  // bytes are not those that were announced
	ReasonSchema  = "schema"  // metadata missing, unreadable or of another version
	ReasonCorrupt = "corrupt" // structure broken, truncated
	ReasonEmpty   = "empty"   // nothing in it
	ReasonOlder   = "older"   // than the standing database
	ReasonSmaller = "smaller" // than 80 % of the standing database
	ReasonFuture  = "future"  // claims to be from the future, so that nothing could follow it
	// ReasonRolledBack is the database that an operator rolled back from.
	ReasonRolledBack = "rolled-back"
)

// Refusal says why a database was not adopted. It wraps pratique.ErrInvalid.
type Refusal struct {
	Reason string
	Err    error
}

func (r *Refusal) Error() string { return "database refused: " + r.Err.Error() }
func (r *Refusal) Unwrap() []error {
	return []error{pratique.ErrInvalid, r.Err}
}

func refusal(reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// futureAllowance is how far a database's clock may be ahead of ours.
const futureAllowance = 48 * time.Hour

// keepShare is the part of the standing database's entries that a new one must
// at least hold.
const keepShare = 0.8

// compare judges a new database beside the standing one (nil: none).
func compare(standing *record, next record, now time.Time) error {
	if next.UpdatedAt.After(now.Add(futureAllowance)) {
		return refusal(ReasonFuture, "it claims to be of %s, which is in the future", next.UpdatedAt.Format(time.RFC3339))
	}
	if standing == nil {
		return nil
	}
	if next.UpdatedAt.Before(standing.UpdatedAt) {
		return refusal(ReasonOlder, "it is of %s, the standing one of %s",
			next.UpdatedAt.Format(time.RFC3339), standing.UpdatedAt.Format(time.RFC3339))
	}
	for _, c := range []struct {
		what          string
		before, after int
	}{
		{"vulnerabilities", standing.Counts.Vulnerabilities, next.Counts.Vulnerabilities},
		{"advisories", standing.Counts.Advisories, next.Counts.Advisories},
	} {
		if float64(c.after) < keepShare*float64(c.before) {
			return refusal(ReasonSmaller, "it holds %d %s, the standing one %d", c.after, c.what, c.before)
		}
	}
	return nil
}

// errTruncated is what a structure that points past the file's end reads as.
var errTruncated = errors.New("the file is truncated")
