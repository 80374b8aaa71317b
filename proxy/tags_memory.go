package proxy

import (
	"context"
	"time"

	"pratique"
	"pratique/store"
)

// tagMemoryLimit bounds, roughly and in bytes, what RememberTags keeps.
const tagMemoryLimit = 16 << 20

// RememberTags puts a bounded memory before tags, as RememberCatalog does before a
// catalog: what a tag names and the list of a repository's tags are asked for once,
// and again when their stamps (store.TagKey) have moved. What it returns is shared
// and must not be changed.
func RememberTags(tags store.Tags, stamps store.Stamper) store.Tags {
	return &tagMemory{
		Tags: tags, stamps: stamps, reach: reachOf(stamps),
		states: newLRU[pratique.Ref](tagMemoryLimit/2, func(stamped[store.TagState]) int64 { return entryWeight }),
		lists: newLRU[pratique.Ref](tagMemoryLimit/2, func(e stamped[tagList]) int64 {
			n := int64(entryWeight)
			for _, tag := range e.value.tags {
				n += int64(len(tag)) + 16
			}
			return n
		}),
	}
}

type tagList struct {
	tags []string
	at   time.Time
}

type tagMemory struct {
	store.Tags // SetTagList, which moves the stamp

	stamps store.Stamper
	reach  *reach
	states *lru[pratique.Ref, stamped[store.TagState]]
	lists  *lru[pratique.Ref, stamped[tagList]]
}

// Tag implements store.Tags.
func (m *tagMemory) Tag(ctx context.Context, ref pratique.Ref) (store.TagState, error) {
	key := tagKey(ref)
	return remember(m.states, key, m.stamp(key), m.reach, func() (store.TagState, error) {
		return m.Tags.Tag(ctx, ref)
	})
}

// SetTag implements store.Tags. What a tag names is read again at once: whoever asks
// next finds it in memory.
func (m *tagMemory) SetTag(ctx context.Context, ref pratique.Ref, s store.TagState) error {
	if err := m.Tags.SetTag(ctx, ref, s); err != nil {
		return err
	}
	_, _ = m.Tag(ctx, ref) // it is written; whoever needs it may fail
	return nil
}

// TagList implements store.Tags.
func (m *tagMemory) TagList(ctx context.Context, ref pratique.Ref) ([]string, time.Time, error) {
	key := pratique.Ref{Registry: ref.Registry, Repo: ref.Repo}
	l, err := remember(m.lists, key, m.stamp(key), m.reach, func() (tagList, error) {
		tags, at, err := m.Tags.TagList(ctx, ref)
		return tagList{tags[:len(tags):len(tags)], at}, err
	})
	return l.tags, l.at, err
}

func (m *tagMemory) stamp(key pratique.Ref) uint64 {
	return m.stamps.Stamp(store.TagKey(key))
}
