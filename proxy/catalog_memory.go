package proxy

import (
	"context"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// catalogMemoryLimit bounds, roughly and in bytes, what RememberCatalog keeps.
const catalogMemoryLimit = 16 << 20

// RememberCatalog puts a bounded memory before a catalog, for the questions
// that every pull asks again: which manifest is this, who names this blob. An
// answer, "not found" included, is given again while the stamp of its digest,
// taken before asking, is the same; failures are never kept. What it returns is
// shared and must not be changed.
//
// If stamps is a store.Reach as well, the catalog is not asked while that is away:
// what is not in memory is store.ErrUnreachable.
func RememberCatalog(catalog store.Catalog, stamps store.Stamper) store.Catalog {
	return &catalogMemory{
		Catalog: catalog,
		stamps:  stamps,
		reach:   reachOf(stamps),
		images: newLRU[digest.Digest](catalogMemoryLimit/2, func(e stamped[pratique.Image]) int64 {
			return weigh(e.value) + entryWeight
		}),
		holders: newLRU[pratique.Ref](catalogMemoryLimit/2, func(e stamped[[]digest.Digest]) int64 {
			return int64(len(e.value))*digestWeight + entryWeight
		}),
	}
}

// Weights of what is kept in memory, in bytes, on the large side.
const (
	entryWeight  = 512
	digestWeight = 96
)

// weigh is about the memory of an Image.
func weigh(img pratique.Image) int64 {
	n := int64(512)
	for _, ds := range [][]pratique.Descriptor{{img.Config}, img.Layers, img.Children} {
		for _, d := range ds {
			n += 400
			for k, v := range d.Annotations {
				n += int64(len(k)+len(v)) + 48
			}
		}
	}
	for k, v := range img.Annotations {
		n += int64(len(k)+len(v)) + 48
	}
	return n
}

// contentKey is a digest in ref's repository, whatever tag led there.
func contentKey(ref pratique.Ref, d digest.Digest) pratique.Ref {
	return pratique.Ref{Registry: ref.Registry, Repo: ref.Repo, Digest: d}
}

// tagKey is ref's tag, whatever it names.
func tagKey(ref pratique.Ref) pratique.Ref {
	return pratique.Ref{Registry: ref.Registry, Repo: ref.Repo, Tag: ref.Tag}
}

// stamped is an answer and the stamp from before it was asked for.
type stamped[V any] struct {
	value V
	found bool
	stamp uint64
}

type catalogMemory struct {
	store.Catalog // Link and Images

	stamps  store.Stamper
	reach   *reach
	images  *lru[digest.Digest, stamped[pratique.Image]]
	holders *lru[pratique.Ref, stamped[[]digest.Digest]]
}

// Image implements store.Catalog.
func (m *catalogMemory) Image(ctx context.Context, d digest.Digest) (pratique.Image, error) {
	return remember(m.images, d, m.stamps.Stamp(d), m.reach, func() (pratique.Image, error) {
		return m.Catalog.Image(ctx, d)
	})
}

// Holders implements store.Catalog.
func (m *catalogMemory) Holders(ctx context.Context, ref pratique.Ref, d digest.Digest) ([]digest.Digest, error) {
	return remember(m.holders, contentKey(ref, d), m.stamps.Stamp(d), m.reach, func() ([]digest.Digest, error) {
		hs, err := m.Catalog.Holders(ctx, ref, d)
		return slices.Clip(hs), err // so that an append does not write into it
	})
}

// reachOf is nil unless the stamps are those of a state that others share.
func reachOf(stamps store.Stamper) *reach {
	if r, ok := stamps.(store.Reach); ok {
		return &reach{state: r}
	}
	return nil
}

// remember answers from memory if that was filled under the same stamp, else
// asks. The stamp was taken before: a write that comes in between makes what is
// kept here old at once.
func remember[K comparable, V any](memory *lru[K, stamped[V]], key K, stamp uint64, state *reach, ask func() (V, error)) (V, error) {
	if e, ok := memory.get(key); ok && e.stamp == stamp {
		if !e.found {
			return e.value, pratique.ErrNotFound
		}
		return e.value, nil
	}
	if state.away() {
		var zero V
		return zero, store.ErrUnreachable
	}
	v, err := ask()
	if err == nil || errors.Is(err, pratique.ErrNotFound) {
		memory.put(key, stamped[V]{v, err == nil, stamp})
	}
	return v, err
}
