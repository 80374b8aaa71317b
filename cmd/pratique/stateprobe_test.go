package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"pratique/scheduler"
	"pratique/store"
)

type probedState struct {
	confirmed time.Time
	err       error
}

func (p probedState) Confirmed() time.Time                                    { return p.confirmed }
func (p probedState) Len(context.Context) (map[scheduler.Priority]int, error) { return nil, p.err }

// TestStateProbe: a replica that can serve something is sent clients.
func TestStateProbe(t *testing.T) {
	now, long := time.Now().Add(time.Second), time.Now().Add(-time.Minute)
	for _, tt := range []struct {
		name       string
		state      probedState
		servesLast bool
		ready      bool
		says       string
	}{
		{"there", probedState{confirmed: now}, true, true, ""},
		{"cannot be read", probedState{confirmed: now, err: errors.New("disk I/O error")}, true, false, "disk I/O error"},
		{"silent since now", probedState{confirmed: now, err: store.ErrUnreachable}, true, true, ""},
		{"silent since now, refuse", probedState{confirmed: now, err: store.ErrUnreachable}, false, false, "does not answer"},
		{"away", probedState{confirmed: long, err: errors.New("was asked")}, true, true, "only what this replica decided on before"},
		{"away, refuse", probedState{confirmed: long, err: errors.New("was asked")}, false, false, "no answer for 1m"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := stateProbe(tt.state, tt.servesLast)
			err := p.Check(t.Context())
			says := p.Note()
			if err != nil {
				says = err.Error()
			}
			if (err == nil) != tt.ready || !strings.Contains(says, tt.says) || tt.says == "" && says != "" {
				t.Errorf("ready %v, %q; want %v, %q", err == nil, says, tt.ready, tt.says)
			}
		})
	}
}
