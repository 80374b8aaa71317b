package redis

import (
	"context"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// splitLines yields the words of a field that scriptNote writes.
func splitLines(s string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for word := range strings.SplitSeq(s, "\n") {
			if word != "" && !yield(word) {
				return
			}
		}
	}
}

// wordsByLine are, for every word of some fields, the indexes of the fields that have
// it, in order.
func wordsByLine(fields []string) map[string][]int {
	out := make(map[string][]int)
	for i, field := range fields {
		for word := range splitLines(field) {
			out[word] = append(out[word], i)
		}
	}
	return out
}

// parentsOf are, for each digest, the indexes that list it, whether they are linked or
// not: that is a fact of their content.
func (db *DB) parentsOf(ctx context.Context, ds []digest.Digest) ([][]digest.Digest, error) {
	lists, err := db.lists(ctx, "parents", placesOf(ds))
	if err != nil {
		return nil, err
	}
	out := make([][]digest.Digest, len(ds))
	for i, list := range lists {
		if out[i], err = unpackItems(list); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (db *DB) parentsIn(ctx context.Context, ref pratique.Ref) ([]digest.Digest, error) {
	parents, err := db.parentsOf(ctx, []digest.Digest{ref.Digest})
	if err != nil || len(parents[0]) == 0 {
		return nil, err
	}
	places := make([]place, len(parents[0]))
	for i, d := range parents[0] {
		places[i] = place{partOfRepo(ref), short(d)}
	}
	linked, found, err := db.fields(ctx, "links:"+ref.Repository(), places)
	if err != nil {
		return nil, err
	}
	var out []digest.Digest
	order := make(map[digest.Digest]int)
	for i, d := range parents[0] {
		if !found[i] {
			continue
		}
		if order[d] == 0 {
			out = append(out, d)
		}
		if order[d], err = strconv.Atoi(linked[i]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b digest.Digest) int { return order[b] - order[a] })
	return out, nil
}
