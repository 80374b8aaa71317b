package store_test

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique/store"
)

func TestStamps(t *testing.T) {
	s, d := store.NewStamps(), digest.FromString("x")
	before := s.Stamp(d)
	if s.Stamp(d) != before {
		t.Error("a stamp moved by itself")
	}
	s.Changed(digest.FromString("y"), d)
	if s.Stamp(d) == before {
		t.Error("a stamp did not move with its digest")
	}
	// One write moves few others: a busy scanner must not empty the memories.
	stamps := make(map[digest.Digest]uint64)
	for i := range 1000 {
		o := digest.FromString(fmt.Sprint(i))
		stamps[o] = s.Stamp(o)
	}
	s.Changed(d)
	moved := 0
	for o, was := range stamps {
		if s.Stamp(o) != was {
			moved++
		}
	}
	if moved > 10 {
		t.Errorf("one write moved %d of 1000 stamps", moved)
	}
}
