package match

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/aquasecurity/trivy-db/pkg/db"
	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	bolt "go.etcd.io/bbolt"
)

// maxRecords bounds a worker's memory of decoded records.
const maxRecords = 4096

// errNoRecord: the id has no record of its own, which is normal for ids that
// were rejected or never described; its severity is UNKNOWN.
var errNoRecord = errors.New("no record of this vulnerability")

// records reads vulnerability records for FillInfo, which logs an error and
// goes on with an unknown severity. records remembers every error that is not
// plain absence, so that the batch can fail instead. Records are decoded once
// for all findings of a worker. It belongs to one goroutine.
type records struct {
	db.Config
	known  map[string]dbtypes.Vulnerability
	failed error
}

func newRecords() *records { return &records{known: make(map[string]dbtypes.Vulnerability)} }

// err returns the first failure.
func (r *records) err() error { return r.failed }

// record is the part of a vulnerability record that findings keep or that
// decides their severity and URL; descriptions are the bulk and are not kept.
type record struct {
	Title          string
	Severity       string
	VendorSeverity dbtypes.VendorSeverity
	CVSS           dbtypes.VendorCVSS
	References     []string
}

// GetVulnerability overrides that of db.Config.
func (r *records) GetVulnerability(id string) (dbtypes.Vulnerability, error) {
	v, ok := r.known[id]
	if !ok {
		raw, err := r.read(id)
		if errors.Is(err, errNoRecord) {
			return dbtypes.Vulnerability{}, err
		}
		var rec record
		if err == nil {
			err = json.Unmarshal(raw, &rec)
		}
		if err != nil {
			err = fmt.Errorf("record of %s: %w", id, err)
			if r.failed == nil {
				r.failed = err
			}
			return dbtypes.Vulnerability{}, err
		}
		v = dbtypes.Vulnerability{
			Title: rec.Title, Severity: rec.Severity, VendorSeverity: rec.VendorSeverity, //nolint:staticcheck // FillInfo falls back to it
			CVSS: rec.CVSS, References: rec.References,
		}
		if len(r.known) >= maxRecords {
			clear(r.known)
		}
		r.known[id] = v
	}
	// FillInfo writes a package's own severity into the map.
	v.VendorSeverity = maps.Clone(v.VendorSeverity)
	return v, nil
}

func (r *records) read(id string) (raw []byte, err error) {
	err = r.Connection().View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(vulnerabilityBucket))
		if b == nil {
			return errors.New("no vulnerability bucket")
		}
		v := b.Get([]byte(id))
		if v == nil {
			return errNoRecord
		}
		raw = append([]byte(nil), v...) // not valid after the transaction
		return nil
	})
	return raw, err
}
