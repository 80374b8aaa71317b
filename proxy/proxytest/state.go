package proxytest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// State is store.Catalog and store.Tags in memory.
type State struct {
	// Fail, if set, is asked before each method, by name; what it returns is the
	// method's error, and nothing is done.
	Fail func(method string) error

	mu     sync.Mutex
	images map[digest.Digest]pratique.Image
	links  map[string]map[digest.Digest]bool // by repository
	tags   map[string]store.TagState
	lists  map[string]list
}

type list struct {
	tags []string
	at   time.Time
}

var (
	_ store.Catalog = (*State)(nil)
	_ store.Tags    = (*State)(nil)
)

// NewState is empty.
func NewState() *State {
	return &State{
		images: make(map[digest.Digest]pratique.Image),
		links:  make(map[string]map[digest.Digest]bool),
		tags:   make(map[string]store.TagState),
		lists:  make(map[string]list),
	}
}

func (s *State) enter(method string) (func(), error) {
	if s.Fail != nil {
		if err := s.Fail(method); err != nil {
			return func() {}, err
		}
	}
	s.mu.Lock()
	return s.mu.Unlock, nil
}

func notFound(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), pratique.ErrNotFound)
}

// Link implements store.Catalog.
func (s *State) Link(_ context.Context, ref pratique.Ref, img pratique.Image, now time.Time) error {
	leave, err := s.enter("Link")
	defer leave()
	if err != nil {
		return err
	}
	if _, ok := s.images[img.Digest]; !ok {
		img.FirstSeen = now
		s.images[img.Digest] = img
	}
	if s.links[ref.Repository()] == nil {
		s.links[ref.Repository()] = make(map[digest.Digest]bool)
	}
	s.links[ref.Repository()][img.Digest] = true
	return nil
}

// Image implements store.Catalog.
func (s *State) Image(_ context.Context, d digest.Digest) (pratique.Image, error) {
	leave, err := s.enter("Image")
	defer leave()
	if err != nil {
		return pratique.Image{}, err
	}
	img, ok := s.images[d]
	if !ok {
		return pratique.Image{}, notFound("image %s", d)
	}
	return img, nil
}

// Holders implements store.Catalog.
func (s *State) Holders(_ context.Context, ref pratique.Ref, d digest.Digest) ([]digest.Digest, error) {
	leave, err := s.enter("Holders")
	defer leave()
	if err != nil {
		return nil, err
	}
	var out []digest.Digest
	if s.links[ref.Repository()][d] {
		out = append(out, d)
	}
	for _, held := range slices.Sorted(maps.Keys(s.links[ref.Repository()])) {
		img := s.images[held]
		for _, desc := range append([]pratique.Descriptor{img.Config}, img.Layers...) {
			if desc.Digest == d && held != d {
				out = append(out, held)
				break
			}
		}
	}
	if len(out) == 0 {
		return nil, notFound("holders of %s", d)
	}
	return out, nil
}

// Images implements store.Catalog; the references carry no tag.
func (s *State) Images(context.Context) iter.Seq2[store.Known, error] {
	return func(yield func(store.Known, error) bool) {
		leave, err := s.enter("Images")
		if err != nil {
			yield(store.Known{}, err)
			return
		}
		var all []store.Known
		for _, d := range slices.Sorted(maps.Keys(s.images)) {
			for _, repo := range slices.Sorted(maps.Keys(s.links)) {
				if ref, err := pratique.ParseRef(repo + "@" + d.String()); err == nil && s.links[repo][d] && s.images[d].Kind != pratique.KindIndex {
					all = append(all, store.Known{Ref: ref, Image: s.images[d]})
					break
				}
			}
		}
		leave()
		for _, k := range all {
			if !yield(k, nil) {
				return
			}
		}
	}
}

// Tag implements store.Tags.
func (s *State) Tag(_ context.Context, ref pratique.Ref) (store.TagState, error) {
	leave, err := s.enter("Tag")
	defer leave()
	if err != nil {
		return store.TagState{}, err
	}
	state, ok := s.tags[ref.Repository()+":"+ref.Tag]
	if !ok {
		return store.TagState{}, notFound("tag %s", ref)
	}
	return state, nil
}

// SetTag implements store.Tags.
func (s *State) SetTag(_ context.Context, ref pratique.Ref, state store.TagState) error {
	leave, err := s.enter("SetTag")
	defer leave()
	if err != nil {
		return err
	}
	key := ref.Repository() + ":" + ref.Tag
	if before, ok := s.tags[key]; ok && before.Digest == state.Digest {
		state.ChangedAt = before.ChangedAt
	}
	s.tags[key] = state
	return nil
}

// TagList implements store.Tags.
func (s *State) TagList(_ context.Context, ref pratique.Ref) ([]string, time.Time, error) {
	leave, err := s.enter("TagList")
	defer leave()
	if err != nil {
		return nil, time.Time{}, err
	}
	l, ok := s.lists[ref.Repository()]
	if !ok {
		return nil, time.Time{}, notFound("tags of %s", ref.Repository())
	}
	return slices.Clone(l.tags), l.at, nil
}

// SetTagList implements store.Tags.
func (s *State) SetTagList(_ context.Context, ref pratique.Ref, tags []string, at time.Time) error {
	leave, err := s.enter("SetTagList")
	defer leave()
	if err != nil {
		return err
	}
	s.lists[ref.Repository()] = list{slices.Clone(tags), at}
	return nil
}
