package packed

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Begun is an engine in the order of store.Fleet's Begin.
type Begun struct {
	Seq int64 // 0: never begun
	pratique.Engine
}

// Engines is what Begin and Advance said.
type Engines struct {
	Latest  Begun
	Current Begun
	At      time.Time // of Current
}

// SameEngine reports whether two engines are the same.
func SameEngine(a, b pratique.Engine) bool {
	return a.Version == b.Version && a.Database == b.Database && a.DatabaseAt.Equal(b.DatabaseAt)
}

// Later reports whether a is later than b in order of Begin or, where one of them was
// never begun, by the time of their databases.
func Later(a, b Begun) bool {
	if a.Seq != 0 && b.Seq != 0 {
		return a.Seq > b.Seq
	}
	return a.DatabaseAt.After(b.DatabaseAt)
}

// Joinable reports whether vulnerabilities are joined to a report in this state.
func Joinable(s pratique.State) bool {
	return s == pratique.StateScanned || s == pratique.StateIncomplete
}

// Head is what is stored of a report; the rest is joined when it is read.
type Head struct {
	pratique.Report
	Past []store.Past
	Seq  int64 // of its engine in order of Begin, 0: never begun
}

// By is the engine with which the report was put.
func (h *Head) By() Begun { return Begun{h.Seq, h.Engine} }

// Join makes the report of a head whose vulnerabilities are joined. now must have been
// read before img's parts were: facts may be newer than the database that a report
// names, never older.
func Join[R comparable](h *Head, img *Image[R], now Engines) pratique.Report {
	r := h.Report
	var past map[store.Key]*store.Past
	if len(h.Past) > 0 {
		past = make(map[store.Key]*store.Past, len(h.Past))
		for i := range h.Past {
			past[h.Past[i].Key()] = &h.Past[i]
		}
	}
	r.Findings = img.Findings(r.Findings, past)
	r.Changes = img.Changes()
	if now.Current.Seq != 0 && !Later(h.By(), now.Current) {
		analyzer := r.Engine.Analyzer
		r.Engine = now.Current.Engine
		r.Engine.Analyzer = analyzer
		if now.At.After(r.ScannedAt) {
			r.ScannedAt = now.At
		}
	}
	r.EOL = r.EOL || !r.EOLAt.IsZero() && !r.ScannedAt.Before(r.EOLAt)
	return r
}

// Own splits the findings of a report that is put: those that are stored with it, and
// the components that the others name.
func Own(fs []pratique.Finding) (own []pratique.Finding, named []pratique.ComponentID) {
	own = make([]pratique.Finding, 0, len(fs))
	for _, f := range fs {
		if f.Kind == pratique.KindVulnerability && f.Component != "" {
			named = append(named, f.Component)
		} else {
			own = append(own, f)
		}
	}
	return own, named
}

// Enforce brings the occurrences of after into force in an image that stood on those
// of before: it sets since when each chunk of after is, and says what histories say
// of the clocks, as store.Settle asks. old and img are the two, joined.
func Enforce[C, R comparable](before, after Roster[C], old, img *Image[R], scannedAt time.Time) (joined, fresh, later store.Clocks) {
	stays := make(map[C]time.Time)
	byLayer := make(map[digest.Digest]time.Time)
	for i, c := range before.Chunks {
		stays[c.ID] = c.Since
		byLayer[old.Parts[i].Layer] = c.Since
	}
	isNew := func(part int) bool { _, stayed := stays[after.Chunks[part].ID]; return !stayed }
	for i, c := range after.Chunks {
		after.Chunks[i].Since = scannedAt
		if !isNew(i) {
			after.Chunks[i].Since = stays[c.ID]
		}
	}
	every := func(int) bool { return true }
	img.Since = after.Since()
	joined, fresh = old.Clocks(every), img.Clocks(isNew)
	// What is left of a layer goes on where it was: then little has to be remembered.
	for i := range after.Chunks {
		if since, ok := byLayer[img.Parts[i].Layer]; ok && isNew(i) {
			after.Chunks[i].Since = since
		}
	}
	img.Since = after.Since()
	return joined, fresh, img.Clocks(every)
}

// SortFindings puts those that are stored in the order in which joined ones are read.
func (h *Head) SortFindings() {
	slices.SortStableFunc(h.Findings, func(a, b pratique.Finding) int { return store.WorseFirst(&a, &b) })
}

// Settle makes of a head that replaces another one what is stored, see store.Settle.
func (h *Head) Settle(prev *Head, joined, fresh, later store.Clocks) {
	h.Findings, h.Past = store.Settle(prev.Report, prev.Past, h.Report, joined, fresh, later)
}
