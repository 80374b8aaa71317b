package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/internal/config"
	"pratique/internal/rungroup"
	"pratique/store"
	"pratique/web"
)

// eviction makes room in the cache, and tells about it.
type eviction struct {
	*store.Evictor
	state state
}

var _ web.Cache = (*eviction)(nil)

func newEviction(cfg config.Config, blobs *store.Blobs, state state, log *slog.Logger, metrics prometheus.Registerer) (*eviction, rungroup.Part, error) {
	pins, err := pratique.ParsePatterns(cfg.Cache.Pins)
	if err != nil {
		return nil, rungroup.Part{}, fmt.Errorf("cache.pins: %w", err)
	}
	e := &eviction{state: state, Evictor: store.NewEvictor(blobs, state, store.EvictorConfig{
		MaxSize: int64(cfg.Cache.MaxSize), UnusedFor: cfg.Cache.UnusedFor, Pins: pins, Log: log, Metrics: metrics,
	})}
	return e, rungroup.Part{Name: "eviction", Run: e.Run}, nil
}

// Status implements web.Cache.
func (e *eviction) Status(ctx context.Context) (web.CacheStatus, error) {
	st, err := e.Evictor.Status(ctx)
	if err != nil {
		return web.CacheStatus{}, err
	}
	out := web.CacheStatus{
		Blobs: st.Blobs, Bytes: st.Bytes, MaxBytes: st.MaxSize, UnusedFor: int64(st.UnusedFor / time.Second),
		PinnedBytes: st.Pinned.Bytes, OtherBytes: st.Other.Bytes, OldestUse: instant(st.Oldest.UTC()), RefetchedBytes: st.Refetched,
	}
	if st.Oldest.IsZero() {
		out.OldestUse = nil
	}
	if last := st.Last; !last.At.IsZero() {
		out.Last = &web.CacheEviction{
			At: last.At.UTC(), Took: last.Took.Seconds(), Blobs: last.Blobs, Bytes: last.Bytes, UnusedSince: instant(last.UsedAt.UTC()), OverBytes: last.Over,
		}
		if last.UsedAt.IsZero() {
			out.Last.UnusedSince = nil
		}
		if last.Err != nil {
			out.Last.Error = last.Err.Error()
		}
	}
	return out, nil
}

// MakeRoom implements web.Cache.
func (e *eviction) MakeRoom(ctx context.Context, to int64, dry bool) (web.CacheEvicted, error) {
	var got store.Evicted
	var err error
	switch {
	case dry:
		got, err = e.Plan(ctx, to)
	case to >= 0:
		got, err = e.EvictTo(ctx, to)
	default:
		got, err = e.Evict(ctx)
	}
	if err != nil {
		return web.CacheEvicted{}, err
	}
	out := web.CacheEvicted{DryRun: dry, Blobs: got.Blobs, Bytes: got.Bytes, KeptBytes: got.Kept, OverBytes: got.Over}
	if len(got.Images) > web.MaxEvictedImages {
		out.More = len(got.Images) - web.MaxEvictedImages
		got.Images = got.Images[:web.MaxEvictedImages]
	}
	for _, img := range got.Images {
		known, err := e.state.Known(ctx, img.Digest)
		if errors.Is(err, pratique.ErrNotFound) {
			known.Ref = pratique.Ref{Digest: img.Digest} // linked through no repository any more
		} else if err != nil {
			return web.CacheEvicted{}, err
		}
		out.Images = append(out.Images, web.CacheEvictedImage{
			Ref: known.Ref.String(), Digest: img.Digest, Blobs: img.Blobs, Bytes: img.Bytes, UsedAt: img.UsedAt.UTC(), Reason: string(img.Reason),
		})
	}
	return out, nil
}

// Pins implements web.Cache.
func (e *eviction) Pins(ctx context.Context) ([]web.CachePin, error) {
	pins, err := e.Evictor.Pins(ctx)
	if err != nil {
		return nil, err
	}
	var out []web.CachePin
	for _, p := range pins {
		out = append(out, web.CachePin{Pin: p.Pattern.String(), Blobs: p.Kept.Blobs, Bytes: p.Kept.Bytes})
	}
	return out, nil
}
