package redis

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

var _ store.Reports = (*DB)(nil)

// standing is all that is stored of an image, and the engines of the same moment.
type standing struct {
	fleetNow
	occurrences *occurrences // nil: not known
	head        *packed.Head // nil: no report
	token       string       // of head
}

// standingOf reads what is stored of an image, in one round trip.
func (db *DB) standingOf(ctx context.Context, image digest.Digest, e *pratique.Engine) (s standing, err error) {
	var scanned, report, number *redis.StringCmd
	var engines *redis.MapStringStringCmd
	p, field := partOfDigest(image), short(image)
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		engines, number = db.begunAs(ctx, pipe, e)
		scanned, report = pipe.HGet(ctx, db.key(p, "scanned"), field), pipe.HGet(ctx, db.key(p, "reports"), field)
		return nil
	})
	if err != nil && !isMissing(missing(err)) {
		return s, err
	}
	if s.fleetNow, err = readFleet(engines, number); err != nil {
		return s, err
	}
	if doc, err := scanned.Result(); err == nil {
		if s.occurrences, err = db.unpackOccurrences(doc); err != nil {
			return s, err
		}
	} else if !isMissing(missing(err)) {
		return s, err
	}
	doc, err := report.Result()
	if err != nil {
		if isMissing(missing(err)) {
			err = nil
		}
		return s, err
	}
	s.token, s.head, err = db.unpackHead(doc)
	return s, err
}

// Report implements store.Reports: in one round trip when what the image is made of
// is remembered, else in three. A report of which something was lost is not there:
// then the image is scanned again.
func (db *DB) Report(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	err := errChunkGone
	for range maxRereads {
		var r pratique.Report
		if r, err = db.report(ctx, image); !errors.Is(err, errChunkGone) {
			return r, annotate(err, "report on %s", image)
		}
	}
	return pratique.Report{}, fmt.Errorf("report on %s: %w: %w", image, pratique.ErrNotFound, err)
}

func (db *DB) report(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	s, err := db.standingOf(ctx, image, nil)
	if err == nil && s.head == nil {
		err = pratique.ErrNotFound
	}
	if err != nil {
		return pratique.Report{}, err
	}
	return db.join(ctx, s)
}

// join joins the report that stands.
func (db *DB) join(ctx context.Context, s standing) (pratique.Report, error) {
	if s.occurrences == nil || s.occurrences.standing == nil || !packed.Joinable(s.head.State) {
		return s.head.Report, nil
	}
	l := s.occurrences.standing
	parts, err := db.parts(ctx, l.IDs(), s.memory)
	if err != nil {
		return pratique.Report{}, err
	}
	return packed.Join(s.head, packed.NewImage(parts, l.Since(), l.Runs), s.Engines), nil
}

// ReportedImages implements store.Reports, in order of digest.
func (db *DB) ReportedImages(ctx context.Context) iter.Seq2[digest.Digest, error] {
	return func(yield func(digest.Digest, error) bool) {
		for n := range partitions {
			fields, err := db.hashFields(ctx, db.key(partNumber(n), "reports"))
			if err != nil {
				yield("", annotate(err, "reports"))
				return
			}
			for _, f := range fields {
				if !yield(long(f), nil) {
					return
				}
			}
		}
	}
}
