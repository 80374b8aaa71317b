package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Dumpable is a state that can be moved.
type Dumpable interface {
	store.State
	store.Dumper
}

// Dump checks that a state that was dumped from one backend and loaded into another,
// which may be of the same kind, is the same there: record by record, in what the
// contracts answer, and in how it goes on. The queue is schedulertest's.
func Dump[T, U Dumpable](t *testing.T, from Fresh[T], to Fresh[U]) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("Life", seed), func(t *testing.T) { dumpLife(t, from, to, seed) })
	}
	t.Run("Empty", func(t *testing.T) {
		s := from(t)()
		for _, kind := range store.Kinds() {
			for r, err := range s.Dump(t.Context(), kind, "") {
				mustBe(t, err)
				t.Errorf("an empty state has %s %s", kind, r.Key)
			}
		}
	})
	t.Run("Refused", func(t *testing.T) { dumpRefused(t, to(t)()) })
}

func dumpLife[T, U Dumpable](t *testing.T, from Fresh[T], to Fresh[U], seed uint64) {
	open := from(t)
	l := newLife(t, seed, func() Dumpable { return open() })
	h := &happenings{t: t, random: rand.New(rand.NewPCG(seed, 7)), s: l.s}
	for range 24 {
		l.step()
		h.s = l.s
		h.step()
	}
	there := to(t)
	target := there()
	// First a part of it, as a move that was interrupted: then all, and once more.
	copyState(t, l.s, target, func(n int) bool { return n%2 == 0 })
	target = there()
	copyState(t, l.s, target, nil)
	copyState(t, l.s, target, nil)
	for range 2 {
		for _, kind := range store.Kinds() {
			same(t, "records of "+string(kind), records(t, target, kind), records(t, l.s, kind))
		}
		same(t, "answers", h.answers(target), h.answers(l.s))
		target = there()
	}
	// It goes on as it would have.
	l.open, l.s = func() Dumpable { return there() }, target
	l.check()
	for range 12 {
		l.step()
		h.s = l.s
		h.step()
		if l.check(); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// copyState loads what from has, in small parts; without those records that only
// says no to, but for what others are made of.
func copyState(t *testing.T, from, to store.Dumper, only func(n int) bool) {
	t.Helper()
	ctx := t.Context()
	for _, kind := range store.Kinds() {
		if only != nil && kind == store.KindScanned {
			return
		}
		var part []store.Record
		n, last := 0, ""
		put := func() {
			mustBe(t, to.Load(ctx, kind, part))
			part = nil
		}
		named := kind == store.KindComponents || kind == store.KindFleet // others name them
		for r, err := range from.Dump(ctx, kind, "") {
			mustBe(t, err)
			if n++; only == nil || named || only(n) {
				part = append(part, r)
			}
			last = r.Key
			if len(part) == 3 {
				put()
			}
		}
		put()
		for r, err := range from.Dump(ctx, kind, last) { // from "" too, if there was none
			mustBe(t, err)
			t.Errorf("after the last of %s comes %s", kind, r.Key)
		}
	}
}

// records are those of a kind as they are compared, by key.
func records(t *testing.T, d store.Dumper, kind store.Kind) map[string]string {
	t.Helper()
	out := make(map[string]string)
	var keys []string
	for r, err := range d.Dump(t.Context(), kind, "") {
		mustBe(t, err)
		doc, err := r.Canonical()
		mustBe(t, err)
		if _, twice := out[r.Key]; twice || r.Key == "" || r.Kind != kind {
			t.Errorf("%s %q is dumped twice, or is none", r.Kind, r.Key)
		}
		out[r.Key] = string(doc)
		keys = append(keys, r.Key)
	}
	if len(keys) > 1 { // from the middle on
		after := keys[len(keys)/2-1]
		var rest []string
		for r, err := range d.Dump(t.Context(), kind, after) {
			mustBe(t, err)
			rest = append(rest, r.Key)
		}
		same(t, fmt.Sprintf("%s after %s", kind, after), rest, keys[len(keys)/2:])
	}
	return out
}

func dumpRefused[U Dumpable](t *testing.T, s U) {
	ctx := t.Context()
	c := component("a")
	o := occurrence(c, "p")
	for _, bad := range []struct {
		kind store.Kind
		key  string
		doc  any
	}{
		{store.KindMatches, string(c.ID()), store.DumpedMatch{First: clock}},
		{store.KindChunks, string(c.ID()), store.DumpedChunk{Layer: o.Layer, Occurrences: []pratique.Occurrence{o}}},
		{store.KindScanned, sum("a").String(), store.DumpedScanned{Latest: store.DumpedRoster{Chunks: []store.DumpedListed{{Chunk: string(c.ID())}}}}},
		{"nonsense", "a", 1},
	} {
		r, err := store.NewRecord(bad.kind, bad.key, bad.doc)
		mustBe(t, err)
		if err := s.Load(ctx, bad.kind, []store.Record{r}); !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("%s that name what is not there: %v, want one wrapping ErrInvalid", bad.kind, err)
		}
	}
	for _, err := range s.Dump(ctx, "nonsense", "") {
		if !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("dump of no kind: %v, want one wrapping ErrInvalid", err)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, kind := range store.Kinds() {
		failed := false
		for _, err := range s.Dump(ended, kind, "") {
			failed = failed || err != nil
		}
		if !failed {
			t.Errorf("a dump of %s that was cut off looks like one of nothing", kind)
		}
	}
}

// happenings are what befalls a state besides scans.
type happenings struct {
	t      *testing.T
	random *rand.Rand
	s      Dumpable
	n      int // steps so far
}

func (h *happenings) image() (pratique.Image, pratique.Ref) {
	n := h.random.IntN(5)
	img := image(fmt.Sprint("manifest", n), "base", fmt.Sprint("l", n%3), fmt.Sprint("top", n))
	if n == 0 {
		img = image("manifest0", "base")
	}
	if h.random.IntN(4) == 0 {
		img = index(fmt.Sprint("index", n), fmt.Sprint("manifest", n), fmt.Sprint("manifest", (n+1)%5))
	}
	return img, ref(fmt.Sprint("r", h.random.IntN(3))).At(img.Digest)
}

func (h *happenings) step() {
	h.n++
	ctx, now := h.t.Context(), hour(h.n)
	id := fmt.Sprint("n", h.n)
	img, at := h.image()
	mustBe(h.t, h.s.Link(ctx, at, img, now))
	tag := at
	tag.Tag = fmt.Sprint("t", h.random.IntN(3))
	names := store.TagState{Digest: img.Digest, MediaType: img.MediaType, Size: img.Size, CheckedAt: now, ChangedAt: now}
	if h.random.IntN(6) == 0 {
		names.Digest = ""
	}
	mustBe(h.t, h.s.SetTag(ctx, tag, names))
	if h.random.IntN(3) == 0 {
		mustBe(h.t, h.s.SetTagList(ctx, at, []string{"t2", id, "t0"}, now))
	}
	mustBe(h.t, h.s.PutInventory(ctx, sum(fmt.Sprint("l", h.n%3)), fmt.Sprint("trivy ", h.n%2), pratique.Inventory{Layer: sum("l"), Analyzer: "trivy", Size: int64(h.n % 3)}))
	outcome := []pratique.Outcome{pratique.OutcomeAllow, pratique.OutcomeWarn, pratique.OutcomeDeny}[h.random.IntN(3)]
	mustBe(h.t, h.s.Record(ctx, []store.Pull{
		{Ref: tag, Client: fmt.Sprint("10.0.0.", h.random.IntN(3)), At: now, Outcome: outcome, Verdict: id, Head: h.random.IntN(2) == 0},
		{Ref: at, Client: "10.0.0.9", At: now, Outcome: outcome, Verdict: id},
		{Ref: at, Client: "10.0.0.9", At: now.Add(time.Duration(h.random.IntN(100)) * time.Second), Outcome: outcome, Verdict: id},
	}))
	mustBe(h.t, h.s.RecordVerdicts(ctx, []store.Judged{{Ref: tag, Client: "10.0.0.9", At: now, Verdict: pratique.Verdict{ID: id, Outcome: outcome}}}))
	h.rare(id, img.Digest, tag, now)
}

func (h *happenings) rare(id string, image digest.Digest, tag pratique.Ref, now time.Time) {
	ctx := h.t.Context()
	if h.random.IntN(3) == 0 {
		mustBe(h.t, h.s.CreateException(ctx, exception(id, now)))
	}
	if h.random.IntN(3) == 0 {
		if _, err := h.s.RevokeException(ctx, fmt.Sprint("n", h.random.IntN(h.n)), "bob", "why", now); err != nil {
			wantNotFound(h.t, "exception to revoke", err)
		}
	}
	mustBe(h.t, h.s.PutAttestations(ctx, pratique.Attestations{Image: image, CheckedAt: now.In(time.FixedZone("", 3600)), Trust: id}))
	mustBe(h.t, h.s.PutPushes(ctx, []store.Push{{Ref: tag, At: now, Deleted: h.random.IntN(2) == 0}}))
	mark := store.Mark{Key: image.String(), Doc: []byte(id)}
	if h.random.IntN(2) == 0 {
		mark.Due = now
	}
	mustBe(h.t, h.s.Append(ctx, []store.Addressed{event(id, tag.Tag, "x", "y"), event("twin of "+id, "2")}, []store.Mark{mark}))
	due, err := h.s.Pending(ctx, "x", now, 10)
	mustBe(h.t, err)
	for i := range due {
		if due[i].State = []store.DeliveryState{store.DeliveryDone, store.DeliveryDead, store.DeliveryOpen}[h.random.IntN(3)]; due[i].State == store.DeliveryOpen {
			due[i].Attempts, due[i].NotBefore, due[i].Error = due[i].Attempts+1, now.Add(time.Hour), "no"
		} else {
			due[i].Settled = now
		}
	}
	mustBe(h.t, h.s.Settle(ctx, due))
	if h.n%5 == 0 {
		w, err := h.s.WantedDatabase(ctx, "java")
		if err != nil {
			wantNotFound(h.t, "wanted database", err)
		}
		mustBe(h.t, h.s.PutWantedDatabase(ctx, "java", w.Version, store.WantedDatabase{Database: sum(id), Version: w.Version + 2, Doc: []byte(id)}))
	}
}

// answers are what the contracts say.
func (h *happenings) answers(s Dumpable) map[string]any {
	h.t.Helper()
	ctx, out := h.t.Context(), make(map[string]any)
	say := func(what string, v any, err error) {
		h.t.Helper()
		if err != nil {
			wantNotFound(h.t, what, err)
			v = "not found"
		}
		out[what] = v
	}
	for n := range 5 {
		for _, name := range []string{fmt.Sprint("manifest", n), fmt.Sprint("index", n)} {
			h.ofImage(s, name, say)
		}
		reported, err := s.Report(ctx, sum(fmt.Sprint("image", n)))
		say(fmt.Sprint("report ", n), reported, err)
		os, cs, err := s.Occurrences(ctx, sum(fmt.Sprint("image", n)))
		say(fmt.Sprint("occurrences ", n), os, err)
		say(fmt.Sprint("components ", n), cs, err)
	}
	for n := range 3 {
		r := ref(fmt.Sprint("r", n))
		list, at, err := s.TagList(ctx, r)
		say(r.Repo+" list", []any{list, at}, err)
		seen, err := s.TagsSeen(ctx, r)
		say(r.Repo+" seen", seen, err)
		for m := range 3 {
			r.Tag = fmt.Sprint("t", m)
			tag, err := s.Tag(ctx, r)
			say(r.String(), tag, err)
			spans, err := s.TagHistory(ctx, r)
			say(r.String()+" history", spans, err)
		}
		inv, err := s.Inventory(ctx, sum(fmt.Sprint("l", n)), "trivy 1")
		say(fmt.Sprint("inventory ", n), inv, err)
	}
	moves, err := s.TagMoves(ctx, clock)
	slices.SortFunc(moves, func(a, b store.TagMove) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Ref.String(), b.Ref.String()))
	})
	say("moves", moves, err)
	e, at, err := s.Current(ctx)
	say("current", []any{e, at}, err)
	exceptions, err := s.Exceptions(ctx)
	say("exceptions", exceptions, err)
	pushes, err := s.OpenPushes(ctx, 100)
	say("pushes", pushes, err)
	events, err := s.Events(ctx, store.EventQuery{Limit: 1000})
	say("events", events, err)
	events, err = s.Events(ctx, store.EventQuery{Limit: 1000, Cause: "c", Dead: true})
	say("dead events", events, err)
	backlogs, err := s.Backlogs(ctx)
	say("backlogs", backlogs, err)
	for _, sink := range []string{"x", "y"} {
		due, err := s.Pending(ctx, sink, hour(1000), 1000)
		say("pending "+sink, due, err)
	}
	marks, err := s.DueMarks(ctx, hour(1000), 1000)
	say("marks", marks, err)
	wanted, err := s.WantedDatabase(ctx, "java")
	say("wanted", wanted, err)
	verdict, err := s.Verdict(ctx, "n3")
	say("verdict", verdict, err)
	for what, us := range map[string]map[digest.Digest]store.Use{"uses": uses(h.t, s), "pinned": uses(h.t, s, "docker.io/r1:t1")} {
		for d, u := range us {
			u.Image = "" // of several that are as recent, any
			us[d] = u
		}
		out[what] = us
	}
	return out
}

func (h *happenings) ofImage(s Dumpable, name string, say func(string, any, error)) {
	h.t.Helper()
	ctx, d := h.t.Context(), sum(name)
	img, err := s.Image(ctx, d)
	say(name, img, err)
	if bases, err := s.BasesOf(ctx, img); true {
		var at []string
		for _, b := range bases {
			at = append(at, b.Ref.Repository()+"@"+b.Image.Digest.String())
		}
		slices.Sort(at)
		say(name+" bases", at, err)
	}
	first, last, err := s.Served(ctx, d)
	say(name+" served", []time.Time{first, last}, err)
	by, err := s.PulledBy(ctx, d, clock)
	say(name+" pulled by", by, err)
	a, err := s.Attestations(ctx, d)
	a.CheckedAt = a.CheckedAt.UTC()
	say(name+" attestations", a, err)
	mark, err := s.Mark(ctx, d.String())
	say(name+" mark", mark, err)
	gone, err := s.Unlinked(ctx, []digest.Digest{d, sum("config of " + name), sum("nowhere")})
	say(name+" unlinked", gone, err)
	for n := range 3 {
		r := ref(fmt.Sprint("r", n)).At(d)
		spans, err := s.TagsOf(ctx, r)
		say(name+" tags in "+r.Repo, spans, err)
		parents, err := s.Parents(ctx, r)
		slices.Sort(parents)
		say(name+" parents in "+r.Repo, parents, err)
		for _, held := range []string{name, "base", "config of " + name} {
			holders, err := s.Holders(ctx, r, sum(held))
			slices.Sort(holders)
			say(held+" held in "+r.Repo, holders, err)
		}
	}
}
