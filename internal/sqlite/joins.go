package sqlite

import (
	"cmp"
	"container/list"
	"context"
	"database/sql"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// joinsSize is how many bytes of joint chunks are kept in memory. What is not kept
// is read again.
const joinsSize = 32 << 20

// part is a chunk with all that was ever said of its components: what the reports
// of many images share. It is not written to after it was made.
type part struct {
	layer      digest.Digest
	components []int64
	held       []holding // what was ever said of them
	places     []*place  // occurrences of those, in the chunk's order
	joint
	pairs []uint64 // hashes of the packages and paths of places, sorted: keys of clocks meet there
	size  int
}

// holding is a record that a part was made of.
type holding struct {
	row int64
	*record
}

// place is an occurrence of a component of which anything was ever said.
type place struct {
	pratique.Occurrence
	*record
	seq  int // in its chunk
	part int // of an image, where several are joint as one
}

// joint is the findings at places.
type joint struct {
	items  []item // worst first
	groups []group
	moves  []move // newest first, at most pratique.MaxChanges
}

// item is a finding in the making.
type item struct {
	*place
	*store.Track
	rank  int
	group int
}

// group is all that decides the clock of findings with one key.
type group struct {
	store.Key
	tracks []grouped
}

type grouped struct {
	phases []store.Phase
	part   int
}

// move is a change with the part it is from.
type move struct {
	pratique.FindingChange
	part int
}

var pairSeed = maphash.MakeSeed() //nolint:gochecknoglobals // a constant that the language has no word for

// newPart joins a chunk with the records of its components.
func newPart(c *chunk, records map[int64]*record) (*part, error) {
	p := &part{layer: c.layer, components: c.components}
	for _, row := range c.components {
		if r := records[row]; r != nil {
			p.held = append(p.held, holding{row, r})
		}
	}
	err := c.each(func(i int) bool { return records[c.components[i]] != nil }, func(i, seq int, o pratique.Occurrence) {
		r := records[c.components[i]]
		o.Component = r.component
		p.places = append(p.places, &place{Occurrence: o, record: r, seq: seq})
	})
	if err != nil {
		return nil, err
	}
	p.joint = join(p.places)
	for _, at := range p.places {
		var h maphash.Hash
		h.SetSeed(pairSeed)
		_, _ = h.WriteString(at.name)
		_ = h.WriteByte(0)
		_, _ = h.WriteString(at.Path)
		p.pairs = append(p.pairs, h.Sum64())
		p.size += 300 + len(at.Installed) + len(at.Path) + len(at.Target) + len(at.PURL)
	}
	slices.Sort(p.pairs)
	p.pairs = slices.Compact(p.pairs)
	p.size += 500 + 8*len(p.components) + 48*len(p.items) + 200*len(p.groups) + 200*len(p.moves)
	return p, nil
}

// join makes findings of places, in their order, as store.Join does.
func join(places []*place) joint {
	var j joint
	seen := make(map[store.Place]bool)
	groups := make(map[store.Key]int)
	for _, at := range places {
		for i := range at.Tracks {
			t := &at.Tracks[i]
			key := store.Key{Kind: pratique.KindVulnerability, ID: t.ID, Package: at.name, Path: at.Path}
			g, known := groups[key]
			if !known {
				g = len(j.groups)
				groups[key] = g
				j.groups = append(j.groups, group{Key: key})
			}
			j.groups[g].tracks = append(j.groups[g].tracks, grouped{t.Phases, at.part})
			for _, c := range t.Changes(at.First, time.Time{}) {
				c.Package, c.Installed = at.name, at.Installed
				j.moves = append(j.moves, move{c, at.part})
			}
			if t.Gone() {
				continue
			}
			k := store.PlaceOf(&at.Occurrence, at.name, t.ID)
			if !seen[k] {
				seen[k] = true
				j.items = append(j.items, item{place: at, Track: t, rank: t.Severity.Rank(), group: g})
			}
		}
	}
	slices.SortStableFunc(j.items, func(a, b item) int { return compareItems(&a, &b) })
	slices.SortStableFunc(j.moves, func(a, b move) int { return b.At.Compare(a.At) })
	if len(j.moves) > 2*pratique.MaxChanges {
		// Ties in time are ordered by the reader: keep them together.
		last := pratique.MaxChanges
		for last < len(j.moves) && j.moves[last].At.Equal(j.moves[pratique.MaxChanges-1].At) {
			last++
		}
		j.moves = slices.Clone(j.moves[:last])
	}
	return j
}

// compareItems is store.WorseFirst.
func compareItems(a, b *item) int {
	if c := cmp.Compare(b.rank, a.rank); c != 0 {
		return c
	}
	if c := cmp.Compare(a.ID, b.ID); c != 0 {
		return c
	}
	return cmp.Or(
		cmp.Compare(a.name, b.name), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Installed, b.Installed),
		cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.component, b.component),
	)
}

// joins keeps parts in memory, those used last, with the records that they share.
type joins struct {
	mu      sync.Mutex
	gen     uint64 // counts forget
	limit   int
	size    int
	parts   map[int64]*list.Element // of kept
	recent  *list.List              // the one used last in front
	records map[int64]*shared
}

type kept struct {
	id int64
	*part
}

type shared struct {
	*record
	size, users int
}

func newJoins(limit int) *joins {
	return &joins{limit: limit, parts: make(map[int64]*list.Element), recent: list.New(), records: make(map[int64]*shared)}
}

// find returns what is kept of some chunks, and with what keep must be called.
func (j *joins) find(ids []listed, out []*part) (missing []int64, gen uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, c := range ids {
		if e := j.parts[c.id]; e != nil {
			j.recent.MoveToFront(e)
			out[i] = e.Value.(kept).part
			continue
		}
		missing = append(missing, c.id)
	}
	return missing, j.gen
}

// known returns the records that are kept of some components, and the others.
func (j *joins) known(rows []int64, out map[int64]*record) (missing []int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range rows {
		if s := j.records[r]; s != nil {
			out[r] = s.record
		} else {
			missing = append(missing, r)
		}
	}
	return missing
}

// keep keeps a part that was made of what find of the generation did not find,
// unless anything was forgotten since.
func (j *joins) keep(id int64, p *part, gen uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.parts[id] != nil || gen != j.gen || p.size > j.limit/8 {
		return
	}
	j.parts[id] = j.recent.PushFront(kept{id, p})
	j.size += p.size
	for _, h := range p.held {
		s := j.records[h.row]
		if s == nil {
			s = &shared{record: h.record, size: h.cost()}
			j.records[h.row] = s
			j.size += s.size
		}
		s.users++
	}
	for j.size > j.limit {
		j.drop(j.recent.Back())
	}
}

func (j *joins) drop(e *list.Element) {
	k := j.recent.Remove(e).(kept)
	delete(j.parts, k.id)
	j.size -= k.size
	for _, h := range k.held {
		s := j.records[h.row]
		if s.users--; s.users == 0 {
			delete(j.records, h.row)
			j.size -= s.size
		}
	}
}

// forget drops what was made of records of these components, or may be made now of
// what was read before.
func (j *joins) forget(rows []int64) {
	if len(rows) == 0 {
		return
	}
	var changed spoken
	for _, r := range rows {
		changed.set(r)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.gen++
	for e := j.recent.Front(); e != nil; {
		next := e.Next()
		if changed.any(e.Value.(kept).components) {
			j.drop(e)
		}
		e = next
	}
}

// reset forgets everything.
func (j *joins) reset() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.gen++
	for e := j.recent.Back(); e != nil; e = j.recent.Back() {
		j.drop(e)
	}
}

// cost is about how many bytes a record takes.
func (r *record) cost() int {
	n := 200 + len(r.name) + len(r.ecosystem)
	for i := range r.Tracks {
		t := &r.Tracks[i]
		n += 200 + len(t.ID) + len(t.Fixed) + len(t.Title) + len(t.URL) + len(t.Source) + 80*len(t.Phases) + 32*len(t.VendorIDs)
	}
	return n
}

// parts returns the chunks of a list, joint. One that was replaced meanwhile is
// errChunkGone.
func (db *DB) parts(ctx context.Context, chunks []listed) ([]*part, error) {
	out := make([]*part, len(chunks))
	missing, gen := db.joins.find(chunks, out)
	if len(missing) == 0 {
		return out, nil
	}
	if err := db.spoken.load(ctx, db); err != nil {
		return nil, err
	}
	docs, err := readChunks(ctx, db.query, db.codec, missing)
	if err != nil {
		return nil, err
	}
	var rows []int64
	for _, c := range docs {
		rows = append(rows, db.spoken.of(c.components)...)
	}
	slices.Sort(rows)
	records := make(map[int64]*record, len(rows))
	unread := db.joins.known(slices.Compact(rows), records)
	if err := readRecords(ctx, db.query, db.codec, unread, records); err != nil {
		return nil, err
	}
	for i, c := range chunks {
		if out[i] != nil {
			continue
		}
		p, err := newPart(docs[c.id], records)
		if err != nil {
			return nil, err
		}
		out[i] = p
		db.joins.keep(c.id, p, gen)
	}
	return out, nil
}

// readRecords reads what was ever said of components.
func readRecords(ctx context.Context, query querier, docs codec, rows []int64, out map[int64]*record) error {
	for part := range slices.Chunk(rows, askAtOnce) {
		err := eachOf(ctx, query, `SELECT component, doc FROM matches WHERE component IN (SELECT value FROM json_each(?))`, part, func(scan func(...any) error) error {
			var row int64
			var doc sql.RawBytes
			if err := scan(&row, &doc); err != nil {
				return err
			}
			r, err := docs.unpackRecord(doc)
			out[row] = r
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
