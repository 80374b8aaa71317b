package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"pratique"
)

// Move is a state on its way from one backend to another, as the target notes it.
type Move struct {
	Source string    `json:"source"` // MoveSource.Fingerprint
	Began  time.Time `json:"began"`
	// Kind is being loaded, After is the key that was loaded last; those before in
	// Kinds are there. Empty: everything was loaded, and is to be verified.
	Kind  Kind   `json:"kind,omitempty"`
	After string `json:"after,omitempty"`
}

// MoveSource is where a state is moved from. Nobody writes to it meanwhile.
type MoveSource interface {
	Dumper
	Report(ctx context.Context, image digest.Digest) (pratique.Report, error)
	// Fingerprint is the same as long as nothing was written, and that of no other
	// state.
	Fingerprint(ctx context.Context) (string, error)
}

// MoveTarget is where it is moved to. As long as a Move is noted, nobody else opens
// it.
type MoveTarget interface {
	Dumper
	Report(ctx context.Context, image digest.Digest) (pratique.Report, error)
	Inventory(ctx context.Context, d digest.Digest, analyzer string) (pratique.Inventory, error)
	// Move returns what was noted; none is ErrNotFound.
	Move(ctx context.Context) (Move, error)
	NoteMove(ctx context.Context, m Move) error
	// EndMove removes the note: the state may be used.
	EndMove(ctx context.Context) error
}

// ErrNotEmpty says that a state holds what was not brought by this move.
var ErrNotEmpty = errors.New("the target is not empty")

// MoveConfig says how a state is moved.
type MoveConfig struct {
	// Reports is how many reports, chosen at random, are read on both sides and
	// compared. If zero, 200; negative is none.
	Reports int
	// Batch is how many records are loaded at once, at most. If zero, 500.
	Batch int
	// Progress is told what was done: records loaded of a kind so far, or compared. If
	// nil, nobody is.
	Progress func(p MoveProgress)
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
}

// MoveProgress is how far a move is.
type MoveProgress struct {
	Kind     Kind
	Records  int64
	Verified bool // they were compared, not loaded
	Resumed  bool // the first word of a move that was interrupted
}

// batchBytes is how much is loaded at once, about.
const batchBytes = 4 << 20

func (c MoveConfig) withDefaults() MoveConfig {
	if c.Reports == 0 {
		c.Reports = 200
	}
	if c.Batch <= 0 {
		c.Batch = 500
	}
	if c.Progress == nil {
		c.Progress = func(MoveProgress) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// MoveState brings all that from has to to, which must be empty or hold a part of the
// same move, and compares both. It may be interrupted anywhere and called again. When
// it returns nil the target may be used; after any other end it may not.
func MoveState(ctx context.Context, from MoveSource, to MoveTarget, cfg MoveConfig) error {
	cfg = cfg.withDefaults()
	m, err := beginMove(ctx, from, to, cfg)
	if err != nil {
		return err
	}
	if m.Kind != "" {
		kinds := Kinds()
		first := slices.Index(kinds, m.Kind)
		if first < 0 {
			return fmt.Errorf("%w: the target was begun with by another release: it is at %q", ErrNotEmpty, m.Kind)
		}
		for _, kind := range kinds[first:] {
			if kind != m.Kind {
				m.Kind, m.After = kind, ""
			}
			if err := moveKind(ctx, from, to, &m, cfg); err != nil {
				return err
			}
		}
		m.Kind, m.After = "", ""
		if err := to.NoteMove(ctx, m); err != nil {
			return err
		}
	}
	if err := compareMoved(ctx, from, to, cfg); err != nil {
		if _, differs := errors.AsType[*DifferenceError](err); differs {
			m.Kind = Kinds()[0] // loaded anew by the next attempt
			err = errors.Join(err, to.NoteMove(ctx, m))
		}
		return err
	}
	return to.EndMove(ctx)
}

func beginMove(ctx context.Context, from MoveSource, to MoveTarget, cfg MoveConfig) (Move, error) {
	source, err := from.Fingerprint(ctx)
	if err != nil {
		return Move{}, err
	}
	m, err := to.Move(ctx)
	switch {
	case err == nil && m.Source != source:
		return Move{}, fmt.Errorf("%w: it holds a part of another state, or of this one as it was on %s; empty it to begin anew", ErrNotEmpty, m.Began.Format(time.RFC3339))
	case err == nil:
		cfg.Progress(MoveProgress{Kind: m.Kind, Resumed: true})
		return m, nil
	case !errors.Is(err, pratique.ErrNotFound):
		return Move{}, err
	}
	for _, kind := range Kinds() {
		if kind == KindInventories {
			continue // facts about bytes: any state may have them
		}
		for r, err := range to.Dump(ctx, kind, "") {
			if err != nil {
				return Move{}, err
			}
			return Move{}, fmt.Errorf("%w: it has %s, such as %s", ErrNotEmpty, kind, r.Key)
		}
	}
	m = Move{Source: source, Began: cfg.Now(), Kind: Kinds()[0]}
	return m, to.NoteMove(ctx, m) // before anything is loaded
}

// moveKind loads what is missing of a kind. Each batch is noted after it is loaded: a
// crash between the two loads it again, which changes nothing.
func moveKind(ctx context.Context, from Dumper, to MoveTarget, m *Move, cfg MoveConfig) error {
	var batch []Record
	size, n := 0, int64(0)
	load := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := to.Load(ctx, m.Kind, batch); err != nil {
			return err
		}
		m.After = batch[len(batch)-1].Key
		n += int64(len(batch))
		batch, size = nil, 0
		cfg.Progress(MoveProgress{Kind: m.Kind, Records: n})
		return to.NoteMove(ctx, *m)
	}
	for r, err := range from.Dump(ctx, m.Kind, m.After) {
		if err != nil {
			return err
		}
		batch, size = append(batch, r), size+len(r.Doc)
		if len(batch) >= cfg.Batch || size >= batchBytes {
			if err := load(); err != nil {
				return err
			}
		}
	}
	return load()
}

// DifferenceError says in what two states differ that should be equal.
type DifferenceError struct{ Differences []string }

func (e *DifferenceError) Error() string {
	return "the states differ: " + strings.Join(e.Differences, "; ")
}

// compareMoved compares what both have, and reports.
func compareMoved(ctx context.Context, from MoveSource, to MoveTarget, cfg MoveConfig) error {
	var differences []string
	sample := reservoir{limit: cfg.Reports}
	for _, kind := range Kinds() {
		var ds []string
		var n int64
		var err error
		if kind == KindInventories {
			n, ds, err = compareInventories(ctx, from, to)
		} else {
			n, ds, err = compareKind(ctx, from, to, kind, &sample)
		}
		if err != nil {
			return err
		}
		differences = append(differences, ds...)
		cfg.Progress(MoveProgress{Kind: kind, Records: n, Verified: true})
	}
	ds, err := compareReports(ctx, from, to, sample.keys)
	if err != nil {
		return err
	}
	if differences = append(differences, ds...); len(differences) > 0 {
		return &DifferenceError{differences}
	}
	return nil
}

// compareKind compares sums, and if they differ record by record.
func compareKind(ctx context.Context, from, to Dumper, kind Kind, sample *reservoir) (int64, []string, error) {
	var there Sum
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		there, failed = SumOf(ctx, to, kind, nil)
	}()
	here, err := SumOf(ctx, from, kind, func(r Record) {
		if kind == KindReports {
			sample.add(r.Key)
		}
	})
	<-done
	if err := errors.Join(err, failed); err != nil || here == there {
		return here.Records, nil, err
	}
	ds, err := differing(ctx, from, to, kind)
	if len(ds) == 0 {
		ds = []string{fmt.Sprintf("%s: %d records, want %d", kind, there.Records, here.Records)}
	}
	return here.Records, ds, err
}

// named is how many records of a kind a difference names.
const named = 5

func differing(ctx context.Context, from, to Dumper, kind Kind) ([]string, error) {
	want := make(map[string][32]byte)
	for r, err := range from.Dump(ctx, kind, "") {
		if err != nil {
			return nil, err
		}
		h, err := r.hash()
		if err != nil {
			return nil, err
		}
		want[r.Key] = h
	}
	var missing, other, surplus []string
	for r, err := range to.Dump(ctx, kind, "") {
		if err != nil {
			return nil, err
		}
		h, err := r.hash()
		if err != nil {
			return nil, err
		}
		switch w, known := want[r.Key]; {
		case !known:
			surplus = append(surplus, r.Key)
		case w != h:
			other = append(other, r.Key)
		}
		delete(want, r.Key)
	}
	for key := range want {
		missing = append(missing, key)
	}
	slices.Sort(missing)
	return slices.Concat(tell(kind, "missing", missing), tell(kind, "otherwise", other), tell(kind, "not in the source", surplus)), nil
}

func tell(kind Kind, what string, keys []string) []string {
	if len(keys) == 0 {
		return nil
	}
	text := strings.Join(keys[:min(len(keys), named)], ", ")
	if len(keys) > named {
		text += ", …"
	}
	return []string{fmt.Sprintf("%d %s %s: %s", len(keys), kind, what, text)}
}

// comparedAtOnce is how many inventories are read at the same time.
const comparedAtOnce = 16

// compareInventories looks each of the source up in the target, which may have more.
func compareInventories(ctx context.Context, from Dumper, to MoveTarget) (n int64, _ []string, err error) {
	var mu sync.Mutex
	var missing, other []string
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(comparedAtOnce)
	for r, err := range from.Dump(ctx, KindInventories, "") {
		if err != nil {
			return n, nil, errors.Join(err, group.Wait())
		}
		n++
		group.Go(func() error {
			docs, err := Dumped[DumpedInventory]([]Record{r})
			if err != nil {
				return err
			}
			there, err := to.Inventory(ctx, docs[0].Digest, docs[0].Analyzer)
			gone := errors.Is(err, pratique.ErrNotFound)
			if err != nil && !gone {
				return err
			}
			same, err := equalFacts(docs[0].Inventory, there)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case gone:
				missing = append(missing, r.Key)
			case !same:
				other = append(other, r.Key)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return n, nil, err
	}
	slices.Sort(missing)
	slices.Sort(other)
	return n, slices.Concat(tell(KindInventories, "missing", missing), tell(KindInventories, "otherwise", other)), nil
}

func equalFacts(a, b any) (bool, error) {
	x, err := Normal(a)
	if err != nil {
		return false, err
	}
	y, err := Normal(b)
	return bytes.Equal(x, y), err
}

// compareReports reads reports as clients would.
func compareReports(ctx context.Context, from MoveSource, to MoveTarget, images []string) ([]string, error) {
	var other []string
	for _, image := range images {
		here, err := from.Report(ctx, digest.Digest(image))
		if err != nil {
			return nil, err
		}
		there, err := to.Report(ctx, digest.Digest(image))
		if err != nil && !errors.Is(err, pratique.ErrNotFound) {
			return nil, err
		}
		if same, err := equalFacts(here, there); err != nil {
			return nil, err
		} else if !same {
			other = append(other, image)
		}
	}
	return tell(KindReports, "read otherwise", other), nil
}

// reservoir is some of many keys, each as likely.
type reservoir struct {
	limit int
	seen  int
	keys  []string
}

func (r *reservoir) add(key string) {
	r.seen++
	if len(r.keys) < r.limit {
		r.keys = append(r.keys, key)
	} else if i := rand.IntN(r.seen); i < r.limit { //nolint:gosec // a sample, no secret
		r.keys[i] = key
	}
}
