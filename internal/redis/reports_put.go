package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

// PutReport implements store.Reports. What an image keeps is replaced by comparison:
// whoever was slower begins anew, with what stands then. So a report never goes back
// to an engine before that of the one that stands.
//
// Beside it, PutMatches writes histories, in other partitions. What is stored with a
// report depends on them only where its occurrences replace others: the past has to
// tell what the image went through with components that it no longer has. As long as
// those that replace are in force and PutMatches comes after, nothing is missing; but
// a history that moves between being read here and the report being stored may have
// been told to a reader of the report before, as a clock that the past then lacks: if
// the component comes back, its clock would be later. So what is replaced stays with
// the image as retiring until the histories were read once more and had not moved.
// If they moved, the report is made again from what was read first. If this process
// dies before, whoever puts the next report counts what is retiring as in force until
// then: clocks may get earlier by it, never later.
func (db *DB) PutReport(ctx context.Context, r pratique.Report) (out pratique.Report, err error) {
	if err := r.State.Validate(); err != nil {
		return pratique.Report{}, annotate(err, "report on %s", r.Image)
	}
	defer func() { db.changes.wrote(err, []digest.Digest{r.Image}) }()
	for range 4 * maxRereads {
		out, err = db.putReport(ctx, r)
		if !errors.Is(err, errMoved) && !errors.Is(err, errChunkGone) {
			break
		}
	}
	if err != nil {
		return pratique.Report{}, annotate(err, "report on %s", r.Image)
	}
	return out, nil
}

func (db *DB) putReport(ctx context.Context, r pratique.Report) (pratique.Report, error) {
	was, err := db.standingOf(ctx, r.Image, &r.Engine)
	if err != nil {
		return pratique.Report{}, err
	}
	next := packed.Head{Report: r, Seq: was.of}
	if was.head != nil && packed.Later(was.head.By(), next.By()) {
		return db.join(ctx, was)
	}
	s := settling{db: db, was: was, prev: was.head, put: r, token: was.token}
	if s.prev == nil {
		s.prev = &packed.Head{}
	}
	if !packed.Joinable(r.State) || was.occurrences == nil || was.occurrences.latest == nil {
		return s.plain(ctx)
	}
	s.os = was.occurrences
	s.begin()
	for range maxRereads {
		if err := s.settle(ctx); err != nil {
			return pratique.Report{}, err
		}
		if err := s.store(ctx); err != nil {
			return pratique.Report{}, err
		}
		settled, err := s.verify(ctx)
		if err != nil {
			return pratique.Report{}, err
		}
		if settled {
			break
		}
	}
	if !s.overtaken {
		if err := db.unlinkChunks(ctx, r.Image, s.os); err != nil {
			return pratique.Report{}, err
		}
	}
	return packed.Join(&s.next, s.img, was.Engines), nil
}

// settling is one PutReport that replaces what stands.
type settling struct {
	db    *DB
	was   standing // as it was read first
	prev  *packed.Head
	put   pratique.Report
	token string // of the report as it is stored

	os     *occurrences // as they are stored
	before roster       // what was in force, or may have been
	same   bool         // nothing comes into force
	// overtaken: somebody wrote the image's occurrences after this one did.
	overtaken bool

	next    packed.Head
	img     *image
	sources map[string]string // histories by component that the past was made of
}

// head begins what is stored.
func (s *settling) head() (named []pratique.ComponentID) {
	s.next = packed.Head{Report: s.put, Seq: s.was.of}
	s.next.Changes = nil
	s.next.FirstScanned = store.FirstScanned(s.prev.Report, s.put)
	s.next.Findings, named = packed.Own(s.put.Findings)
	return named
}

// plain stores a report to which nothing is joined.
func (s *settling) plain(ctx context.Context) (pratique.Report, error) {
	if named := s.head(); len(named) > 0 {
		return pratique.Report{}, fmt.Errorf("%w: a finding of component %s, and no such component is in the image", pratique.ErrInvalid, named[0])
	}
	s.next.Settle(s.prev, nil, nil, nil)
	return s.next.Report, s.store(ctx)
}

// begin says what was in force.
func (s *settling) begin() {
	s.same = s.os.standing != nil && s.os.retiring == nil && s.os.standing.Same(*s.os.latest)
	if s.os.standing != nil {
		s.before = roster{Chunks: slices.Clone(s.os.standing.Chunks), Runs: s.os.standing.Runs}
	}
	if s.os.retiring == nil {
		return
	}
	for _, c := range s.os.retiring.Chunks {
		i := slices.IndexFunc(s.before.Chunks, func(o packed.Listed[string]) bool { return o.ID == c.ID })
		if i < 0 {
			s.before.Chunks = append(s.before.Chunks, c)
		} else if c.Since.Before(s.before.Chunks[i].Since) {
			s.before.Chunks[i].Since = c.Since
		}
	}
	s.before.Runs = nil // their findings are not read, only their clocks
}

// settle brings the latest occurrences into force, and carries the clocks.
func (s *settling) settle(ctx context.Context) error {
	named := s.head()
	after := roster{Chunks: slices.Clone(s.os.latest.Chunks), Runs: s.os.latest.Runs}
	ids := after.IDs()
	if !s.same {
		ids = append(ids, s.before.IDs()...)
	}
	slices.Sort(ids)
	chunks, err := s.db.chunksOf(ctx, slices.Compact(ids))
	if err != nil {
		return err
	}
	for _, c := range after.Chunks {
		if chunks[c.ID] == nil {
			return errChunkGone
		}
	}
	found, err := s.db.saidOf(ctx, componentsIn(chunks))
	if err != nil {
		return err
	}
	records, err := s.db.unpackRecords(found)
	if err != nil {
		return err
	}
	if s.img, err = joinChunks(after, chunks, records); err != nil {
		return err
	}
	if err := s.matched(found, named); err != nil {
		return err
	}
	s.next.SortFindings()
	if s.same {
		s.img.Since = s.os.standing.Since()
		s.next.Settle(s.prev, nil, nil, nil)
		return nil
	}
	// A chunk that is not there any more was replaced, then storing fails, or lost.
	before := roster{Chunks: slices.DeleteFunc(slices.Clone(s.before.Chunks), func(c packed.Listed[string]) bool { return chunks[c.ID] == nil })}
	old, err := joinChunks(before, chunks, records)
	if err != nil {
		return err
	}
	joined, fresh, later := packed.Enforce(before, after, old, s.img, s.next.ScannedAt)
	s.next.Settle(s.prev, joined, fresh, later)
	s.os.standing, s.os.retiring = &after, nil
	if len(before.Chunks) > 0 {
		s.os.retiring = &before
	}
	s.sources = make(map[string]string, len(found))
	for h, f := range found {
		s.sources[h] = f.doc
	}
	return nil
}

func joinChunks(l roster, chunks map[string]*chunk, records map[string]*packed.Record) (*image, error) {
	parts := make([]*joint, len(l.Chunks))
	for i, c := range l.Chunks {
		var err error
		if parts[i], err = packed.NewPart(chunks[c.ID], records); err != nil {
			return nil, err
		}
	}
	return packed.NewImage(parts, l.Since(), l.Runs), nil
}

// matched makes sure that every component of the image was matched, and that it has
// those that findings name. Where not all were matched with the report's engine since
// it was begun, the report is that of Current: of it, it is known.
func (s *settling) matched(found map[string]spoken, named []pratique.ComponentID) error {
	in := make(map[string]bool)
	unmatched, others := 0, 0
	for _, p := range s.img.Parts {
		for _, h := range p.Components {
			if in[h] {
				continue
			}
			in[h] = true
			if f, ok := found[h]; !ok {
				unmatched++
			} else if f.seq != s.next.Seq {
				others++
			}
		}
	}
	if unmatched > 0 {
		return fmt.Errorf("%w: %d components of the image were not matched", pratique.ErrInvalid, unmatched)
	}
	if cur := s.was.Current; cur.Seq != 0 && s.next.Seq > cur.Seq && others > 0 {
		s.next.Seq = cur.Seq
		cur.Analyzer = s.next.Engine.Analyzer
		s.next.Engine = cur.Engine
	}
	for _, id := range named {
		if h, err := raw(id); err != nil || !in[h] {
			return fmt.Errorf("%w: a finding of component %s, and no such component is in the image", pratique.ErrInvalid, id)
		}
	}
	return nil
}

// store replaces what stands, and tells.
func (s *settling) store(ctx context.Context) error {
	p, image := partOfDigest(s.put.Image), s.put.Image
	token := newToken()
	head, err := s.db.packHead(token, &s.next)
	if err != nil {
		return err
	}
	var before, rosters string
	if s.os != nil && !s.same {
		before = s.os.token
		s.os.token = newToken()
		rosters = s.db.packOccurrences(s.os)
	}
	keys := []string{s.db.key(p, "version"), s.db.key(p, "scanned"), s.db.key(p, "reports")}
	stored, err := scriptPutReport.Run(ctx, s.db.rdb, keys, s.db.channel(changesChannel), string(p), image.String(), short(image),
		s.token, head, before, rosters).Int()
	if err == nil && stored == 0 {
		err = errMoved
	}
	s.token = token
	return err
}

// verify reports whether the histories that the past was made of are those that
// stand. Then nothing is retiring any more.
func (s *settling) verify(ctx context.Context) (bool, error) {
	if s.same || s.os.retiring == nil {
		return true, nil
	}
	hashes := make([]string, 0, len(s.sources))
	for h := range s.sources {
		hashes = append(hashes, h)
	}
	now, err := s.db.saidOf(ctx, hashes)
	if err != nil {
		return false, err
	}
	for h, doc := range s.sources {
		if now[h].doc != doc {
			return false, nil
		}
	}
	s.os.retiring = nil
	err = s.db.swapOccurrences(ctx, s.put.Image, s.os)
	if errors.Is(err, errMoved) { // by somebody who counts what is retiring as in force
		s.overtaken, err = true, nil
	}
	return true, err
}
