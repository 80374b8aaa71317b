package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// candidate is a blob that may go.
type candidate struct {
	Use
	size    int64
	arrived time.Time // as the storage tells it
	reason  EvictReason
}

// smallBlob is the size up to which a blob goes last for the sake of room: it makes
// none to speak of, and costs a request to have it again. Configs are that small.
const smallBlob = 32 << 10

// plan returns what is to go so that size bytes are left, in that order.
func (e *Evictor) plan(ctx context.Context, size int64) ([]candidate, error) {
	if size == noTarget && e.cfg.UnusedFor <= 0 {
		return nil, nil
	}
	var going, rest []candidate
	now := e.cfg.Now()
	err := e.each(ctx, func(c candidate) {
		switch {
		case c.Pinned:
		case e.cfg.UnusedFor > 0 && now.Sub(c.At) >= e.cfg.UnusedFor:
			c.reason = EvictUnused
			going = append(going, c)
		case size != noTarget:
			c.reason = EvictSize
			rest = append(rest, c)
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(going, older)
	if size == noTarget {
		return going, nil
	}
	_, left, _ := e.blobs.ledger.totals()
	for _, c := range going {
		left -= c.size
	}
	slices.SortFunc(rest, func(a, b candidate) int {
		if small := a.size <= smallBlob; small != (b.size <= smallBlob) {
			if small {
				return 1
			}
			return -1
		}
		return older(a, b)
	})
	for _, c := range rest {
		if left <= size {
			break
		}
		going = append(going, c)
		left -= c.size
	}
	return going, nil
}

// older orders by use, and keeps the blobs of one image together.
func older(a, b candidate) int {
	return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Image, b.Image), cmp.Compare(a.Blob, b.Blob))
}

// each calls f for every blob that is here and that a manifest names. A blob that
// arrived after its images were used is as recent as its arrival: somebody wanted
// it then, whose pull may not be written down yet.
func (e *Evictor) each(ctx context.Context, f func(candidate)) error {
	for use, err := range e.usage.Usage(ctx, e.pinned()) {
		if err != nil {
			return err
		}
		kept, ok := e.blobs.ledger.find(use.Blob)
		if !ok {
			continue
		}
		arrived := time.Unix(0, kept.arrived)
		if arrived.After(use.At) {
			use.At = arrived
		}
		f(candidate{Use: use, size: kept.size, arrived: arrived})
	}
	return nil
}

func (e *Evictor) pinned() func(pratique.Ref) bool {
	if len(e.cfg.Pins) == 0 {
		return nil
	}
	return e.cfg.Pins.Match
}

// tally adds up what goes, by image.
type tally struct {
	Evicted
	latest time.Time
	index  map[digest.Digest]int
}

func (t *tally) add(c candidate) {
	t.Blobs++
	t.Bytes += c.size
	if c.At.After(t.latest) {
		t.latest = c.At
	}
	if t.index == nil {
		t.index = make(map[digest.Digest]int)
	}
	i, ok := t.index[c.Image]
	if !ok {
		i = len(t.Images)
		t.index[c.Image] = i
		t.Images = append(t.Images, EvictedImage{Digest: c.Image, UsedAt: c.At, Reason: c.reason})
	}
	img := &t.Images[i]
	img.Blobs++
	img.Bytes += c.size
	if c.At.After(img.UsedAt) {
		img.UsedAt = c.At
	}
}
