package redis

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"pratique"
	"pratique/internal/packed"
)

// joinsSize is how many bytes of joint chunks are kept in memory. What is not kept is
// read again.
const joinsSize = 32 << 20

// joins are the joint chunks that this process remembers, of one moment of all
// histories (see writerField). Only those are remembered whose components were all
// matched: what is said of another one for the first time moves no moment. The zero
// value is ready.
type joins struct {
	mu     sync.Mutex
	moment string
	memory *packed.Memory[string, string]
}

// find returns what is remembered of some chunks at a moment, the others, and with
// what keep must be called.
func (j *joins) find(moment string, ids []string, out []*joint) (missing []string, gen uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.memory == nil {
		j.memory = packed.NewMemory[string, string](joinsSize)
	}
	if moment != j.moment {
		j.memory.Reset()
		j.moment = moment
	}
	return j.memory.Find(ids, out)
}

// forget is for a Redis that lost writes: moments are no longer what they were.
func (j *joins) forget() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.memory != nil {
		j.memory.Reset()
	}
	j.moment = ""
}

// parts returns chunks, joint with what was ever said of their components, as of the
// moment or later; "" is a moment that nothing is remembered of.
func (db *DB) parts(ctx context.Context, ids []string, moment string) ([]*joint, error) {
	out := make([]*joint, len(ids))
	missing, gen := ids, uint64(0)
	if moment != "" {
		missing, gen = db.joins.find(moment, ids, out)
	}
	if len(missing) == 0 {
		return out, nil
	}
	chunks, err := db.chunksOf(ctx, missing)
	if err != nil {
		return nil, err
	}
	found, err := db.saidOf(ctx, componentsIn(chunks))
	if err != nil {
		return nil, err
	}
	records, err := db.unpackRecords(found)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		if out[i] != nil {
			continue
		}
		c := chunks[id]
		if c == nil {
			return nil, errChunkGone
		}
		for _, h := range c.Components {
			if _, matched := found[h]; !matched { // never read as "no vulnerabilities"
				return nil, fmt.Errorf("%w: what was said of component %s is lost", pratique.ErrNotFound, packed.ComponentID(h))
			}
		}
		if out[i], err = packed.NewPart(c, records); err != nil {
			return nil, err
		}
		if moment != "" {
			db.joins.memory.Keep(id, out[i], gen)
		}
	}
	return out, nil
}

// componentsIn are the distinct components of chunks, sorted.
func componentsIn(chunks map[string]*chunk) []string {
	var out []string
	for _, c := range chunks {
		out = append(out, c.Components...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
