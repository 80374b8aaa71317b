package pratique

import (
	"cmp"
	"slices"
	"time"
)

// ChangeKind tells apart how a database moved a finding.
type ChangeKind string

// Kinds of changes of a finding. One finding may change in several ways at once:
// then there is one FindingChange for each.
const (
	ChangeAppeared ChangeKind = "appeared"
	ChangeGone     ChangeKind = "gone"
	ChangeStatus   ChangeKind = "status"   // affected → fixed, affected → will_not_fix, …
	ChangeFixed    ChangeKind = "fixed"    // another version fixes it
	ChangeSeverity ChangeKind = "severity" // rose or fell
)

// MaxChanges is how many changes a report tells.
const MaxChanges = 100

// FindingChange is how one vulnerability of an image moved when its components were
// matched again.
type FindingChange struct {
	Kind      ChangeKind `json:"kind"`
	ID        string     `json:"id"` // of the vulnerability
	Package   string     `json:"package"`
	Installed string     `json:"installed,omitempty"`
	// Severity is what it is now; of one that is gone, what it was.
	Severity Severity `json:"severity"`
	// Before and After are the two values of a status, fixed version or severity;
	// empty for the other kinds.
	Before string    `json:"before,omitempty"`
	After  string    `json:"after,omitempty"`
	At     time.Time `json:"at"` // when it was matched so
}

// VulnerabilityChanges tells how what a database says of one component moved
// between two answers, by id, then kind. Package, Installed and At are the
// caller's to fill in.
func VulnerabilityChanges(before, after []Vulnerability) []FindingChange {
	old := make(map[string]Vulnerability, len(before))
	for _, v := range before {
		old[v.ID] = v
	}
	var out []FindingChange
	for _, v := range after {
		b, there := old[v.ID]
		if !there {
			out = append(out, FindingChange{Kind: ChangeAppeared, ID: v.ID, Severity: v.Severity})
			continue
		}
		delete(old, v.ID)
		if b.Fixed != v.Fixed {
			out = append(out, FindingChange{Kind: ChangeFixed, ID: v.ID, Severity: v.Severity, Before: b.Fixed, After: v.Fixed})
		}
		if b.Severity != v.Severity {
			out = append(out, FindingChange{Kind: ChangeSeverity, ID: v.ID, Severity: v.Severity, Before: string(b.Severity), After: string(v.Severity)})
		}
		if b.Status != v.Status {
			out = append(out, FindingChange{Kind: ChangeStatus, ID: v.ID, Severity: v.Severity, Before: b.Status, After: v.Status})
		}
	}
	for _, v := range before {
		if _, gone := old[v.ID]; gone {
			out = append(out, FindingChange{Kind: ChangeGone, ID: v.ID, Severity: v.Severity})
		}
	}
	SortChanges(out)
	return out
}

// SortChanges orders changes: the newest first, then by package, id and kind.
func SortChanges(cs []FindingChange) {
	slices.SortFunc(cs, func(a, b FindingChange) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Package, b.Package), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Installed, b.Installed))
	})
}
