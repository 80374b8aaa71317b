package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

// Matches implements store.Components.
func (db *DB) Matches(ctx context.Context, e pratique.Engine, ids []pratique.ComponentID) (map[pratique.ComponentID][]pratique.Vulnerability, error) {
	ms := make(map[pratique.ComponentID][]pratique.Vulnerability, len(ids))
	now, err := db.engines(ctx, &e)
	if err != nil || now.of == 0 {
		return ms, annotate(err, "matches")
	}
	hashes := make([]string, 0, len(ids))
	for _, id := range ids {
		h, err := raw(id)
		if err != nil {
			return nil, annotate(err, "matches")
		}
		hashes = append(hashes, h)
	}
	slices.Sort(hashes)
	found, err := db.saidOf(ctx, slices.Compact(hashes))
	if err != nil {
		return nil, annotate(err, "matches")
	}
	for h, s := range found {
		if now.of != now.Current.Seq && s.seq != now.of {
			continue
		}
		ms[packed.ComponentID(h)] = []pratique.Vulnerability{}
		if s.doc == "" {
			continue
		}
		r, err := db.UnpackRecord([]byte(s.doc))
		if err != nil {
			return nil, annotate(err, "matches")
		}
		ms[packed.ComponentID(h)] = r.Vulnerabilities()
	}
	return ms, nil
}

// putAtOnce is how many components are stored in one round trip.
const putAtOnce = 1000

// PutMatches implements store.Components. What each partition is told at once happens
// together; a component is stored once, by the token of what stood before.
//
// Stored and not told, because this process died or Redis was away, is found by the
// word that the script leaves with each component: by this method when it comes to
// the component again, and by Mend.
func (db *DB) PutMatches(ctx context.Context, e pratique.Engine, at time.Time, ms map[pratique.ComponentID][]pratique.Vulnerability) (changed []pratique.ComponentID, err error) {
	if e.Database == "" {
		return nil, fmt.Errorf("matches: %w: the database has no digest", pratique.ErrNoDatabase)
	}
	w := matchWriter{db: db, at: asStored(at), told: make(map[string]string)}
	given := make(map[string][]pratique.Vulnerability, len(ms))
	hashes := make([]string, 0, len(ms))
	for id, vs := range ms {
		h, err := raw(id)
		if err != nil {
			return nil, annotate(err, "matches")
		}
		given[h] = vs
		hashes = append(hashes, h)
	}
	slices.Sort(hashes)
	if err := w.engine(ctx, e); err != nil {
		return nil, annotate(err, "matches")
	}
	for page := range slices.Chunk(hashes, putAtOnce) {
		if err = w.put(ctx, page, given); err != nil {
			break
		}
	}
	err = errors.Join(err, w.tell(ctx))
	for _, h := range w.changed {
		changed = append(changed, packed.ComponentID(h))
	}
	return changed, annotate(err, "matches")
}

// asStored is a time as it comes back from Redis.
func asStored(t time.Time) time.Time { return at(nanos(t)) }

// matchWriter stores what one engine said of components.
type matchWriter struct {
	db      *DB
	at      time.Time
	seq     int64
	current bool // seq is what everything was current with
	// writer is this one's name among those that write histories, once it does.
	writer  string
	changed []string
	told    map[string]string // of which stamps have to move, with the word that says so
	unsure  error             // why something may have been stored besides
}

// engine finds the number of e, which must be the latest engine. One that was never
// begun is begun.
func (w *matchWriter) engine(ctx context.Context, e pratique.Engine) error {
	now, err := w.db.engines(ctx, &e)
	if err != nil {
		return err
	}
	switch {
	case now.of == 0:
		w.seq, err = w.db.begin(ctx, e, true)
		return err
	case now.of != now.Latest.Seq:
		return store.ErrSuperseded
	}
	w.seq, w.current = now.of, now.of == now.Current.Seq
	return nil
}

// saying is one component that something is to be stored of.
type saying struct {
	hash   string
	before string // token, "": never matched
	next   string
	kind   string // see scriptSay
}

const (
	sayMark    = ""  // only which engine it was
	sayFirst   = "f" // the first word on it
	sayChanged = "c" // something else stood before
)

// put stores what is said of some components.
func (w *matchWriter) put(ctx context.Context, hashes []string, given map[string][]pratique.Vulnerability) error {
	if err := w.leftUntold(ctx, hashes); err != nil {
		return err
	}
	for range maxRereads {
		sayings, entries, err := w.prepare(ctx, hashes, given)
		if err != nil || len(sayings) == 0 {
			return err
		}
		if err := w.db.index(ctx, "vulnerabilities", entries); err != nil {
			return err
		}
		if err := w.announce(ctx, sayings); err != nil {
			return err
		}
		if hashes, err = w.say(ctx, sayings); err != nil || len(hashes) == 0 {
			return err
		}
	}
	return fmt.Errorf("%d components are %w", len(hashes), errMoved)
}

// leftUntold takes over what somebody stored of components and did not tell.
func (w *matchWriter) leftUntold(ctx context.Context, hashes []string) error {
	words, found, err := w.db.fields(ctx, "untold", placesOfHashes(hashes))
	for i, h := range hashes {
		if err == nil && found[i] {
			w.told[h] = words[i]
		}
	}
	return err
}

// prepare reads what stands of components, and says what is to be stored.
func (w *matchWriter) prepare(ctx context.Context, hashes []string, given map[string][]pratique.Vulnerability) (out []saying, entries []indexed, err error) {
	stands, err := w.db.saidOf(ctx, hashes)
	if err != nil {
		return nil, nil, err
	}
	var unread []string // components of which nothing was ever said
	for _, h := range hashes {
		if s, matched := stands[h]; !matched || s.doc == "" && len(given[h]) > 0 {
			unread = append(unread, h)
		}
	}
	cs, err := w.db.componentsOf(ctx, unread)
	if err != nil {
		return nil, nil, err
	}
	for _, h := range hashes {
		stood, matched := stands[h]
		c, known := cs[h]
		if !matched && !known {
			return nil, nil, fmt.Errorf("%w: component %s is in no image", pratique.ErrInvalid, packed.ComponentID(h))
		}
		r := &packed.Record{Component: packed.ComponentID(h), Name: c.Name, Ecosystem: c.Context.Type, History: store.History{First: stood.first}}
		if stood.doc != "" {
			if r, err = w.db.UnpackRecord([]byte(stood.doc)); err != nil {
				return nil, nil, err
			}
		}
		s, err := w.saying(h, stood, matched, r, given[h])
		if err != nil {
			return nil, nil, err
		}
		if s == nil {
			continue
		}
		out = append(out, *s)
		entries = append(entries, newTracks(h, stood.doc != "", r, given[h])...)
	}
	return out, entries, nil
}

// newTracks are the entries of vulnerabilities that nothing was ever said of: those
// that are gone stay in the index, and are looked at when they are read.
func newTracks(hash string, there bool, r *packed.Record, vs []pratique.Vulnerability) (out []indexed) {
	known := make(map[string]bool, len(r.Tracks))
	for i := range r.Tracks {
		known[r.Tracks[i].ID] = there
	}
	for _, v := range vs {
		if !known[v.ID] {
			known[v.ID] = true
			out = append(out, indexed{hash64(v.ID), hash})
		}
	}
	return out
}

// saying is what is to be stored of one component, nil if nothing is.
func (w *matchWriter) saying(hash string, stood spoken, matched bool, r *packed.Record, vs []pratique.Vulnerability) (*saying, error) {
	s := &saying{hash: hash, before: stood.token}
	next := *r
	switch {
	case !matched:
		next.History = store.FirstHistory(vs, w.at)
		if len(next.Tracks) > 0 {
			s.kind = sayFirst
		}
	default:
		var moved bool
		if next.History, moved = r.Next(vs, w.at); moved {
			s.kind = sayChanged
		}
	}
	// Law 11: what is current needs no mark.
	if matched && s.kind == sayMark && (w.current || stood.seq == w.seq) {
		return nil, nil
	}
	doc := stood.doc
	if s.kind != sayMark {
		b, err := w.db.PackRecord(&next, packAbove)
		if err != nil {
			return nil, err
		}
		doc = string(b)
	}
	s.next = spoken{strings.Repeat(" ", tokenSize), w.seq, next.First, doc}.pack()[tokenSize:]
	return s, nil
}

// say stores, partition by partition, and returns the components of which something
// else stands than was read.
func (w *matchWriter) say(ctx context.Context, sayings []saying) (again []string, err error) {
	places := make([]place, len(sayings))
	for i, s := range sayings {
		places[i] = placeOfHash(s.hash)
	}
	token, word := newToken(), w.db.word()
	stray := ""
	if !w.current {
		stray = "1"
	}
	var calls []call
	var of [][]int
	grouped(places, func(p part, indexes []int) {
		c := call{[]string{w.db.key(p, "matches"), w.db.key(p, "fence"), w.db.key(p, "untold"), w.db.straysKey(p, w.seq)}, []any{w.seq, token, word, stray}}
		for _, i := range indexes {
			s := &sayings[i]
			c.args = append(c.args, s.hash, s.before, s.next, s.kind)
		}
		calls, of = append(calls, c), append(of, indexes)
	})
	replies, err := w.db.calls(ctx, scriptSay, calls)
	if err != nil {
		w.unsure = err // some may be stored: they have their word, and all stamps move here
		return nil, err
	}
	superseded := false
	for i, cmd := range replies {
		conflicts, err := cmd.Int64Slice()
		if err != nil {
			return nil, err
		}
		if len(conflicts) == 1 && conflicts[0] < 0 {
			superseded = true
			continue
		}
		for n, at := range of[i] {
			s := &sayings[at]
			switch {
			case slices.Contains(conflicts, int64(n+1)):
				again = append(again, s.hash)
				continue
			case s.kind == sayChanged:
				w.changed = append(w.changed, s.hash)
			}
			if s.kind != sayMark {
				w.told[s.hash] = word
			}
		}
	}
	if superseded {
		err = store.ErrSuperseded
	}
	return again, err
}
