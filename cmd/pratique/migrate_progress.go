package main

import (
	"fmt"
	"io"
	"time"

	"pratique/store"
)

// migrateEvery is how often something is told of a kind that takes long.
const migrateEvery = 10 * time.Second

// migrateProgress tells of each kind that has records, in a line of its own.
type migrateProgress struct {
	w        io.Writer
	next     time.Time // when a kind that goes on is told of
	last     store.MoveProgress
	verified []store.MoveProgress
}

func (p *migrateProgress) tell(done store.MoveProgress) {
	if done.Resumed {
		where := "before the comparison"
		if done.Kind != "" {
			where = "at " + string(done.Kind)
		}
		_, _ = fmt.Fprintln(p.w, "going on with a move that was interrupted,", where)
		return
	}
	if p.last.Kind != done.Kind || p.last.Verified != done.Verified {
		p.flush()
	}
	p.last = done
	if done.Verified {
		p.verified = append(p.verified, done)
		return
	}
	if now := time.Now(); now.After(p.next) {
		p.next = now.Add(migrateEvery)
		_, _ = fmt.Fprintf(p.w, "%-14s %d so far\n", done.Kind, done.Records)
	}
}

// flush tells of the kind that was loaded last.
func (p *migrateProgress) flush() {
	if p.last.Kind != "" && !p.last.Verified {
		_, _ = fmt.Fprintf(p.w, "%-14s %d loaded\n", p.last.Kind, p.last.Records)
	}
}

func (p *migrateProgress) done(w io.Writer) error {
	var all int64
	for _, v := range p.verified {
		if v.Records == 0 {
			continue
		}
		all += v.Records
		if _, err := fmt.Fprintf(w, "%-14s %d\n", v.Kind, v.Records); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%-14s %d records, the same on both sides; the replicas may start\n", "in all", all)
	return err
}
