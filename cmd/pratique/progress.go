package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress shows a person at a terminal that something is waited for. On
// anything else it is silent: logs and scripts get the result alone.
type progress struct {
	w      io.Writer
	what   string
	states chan string
	done   chan struct{}
	ended  sync.WaitGroup
}

// newProgress starts showing; nothing appears in the first second, which most
// answers take less than.
func newProgress(w io.Writer, what string) *progress {
	p := &progress{w: w, what: what}
	if !isTerminal(w) {
		return p
	}
	p.states = make(chan string)
	p.done = make(chan struct{})
	p.ended.Go(p.show)
	return p
}

// state tells what the server said last.
func (p *progress) state(s string) {
	if p.states == nil {
		return
	}
	select {
	case p.states <- s:
	case <-p.done:
	}
}

// stop clears the line.
func (p *progress) stop() {
	if p.done == nil {
		return
	}
	close(p.done)
	p.ended.Wait()
}

func (p *progress) show() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	started, state, shown := time.Now(), "waiting for a verdict", false
	for {
		select {
		case <-p.done:
			if shown {
				_, _ = fmt.Fprint(p.w, "\r\x1b[K")
			}
			return
		case state = <-p.states:
		case <-tick.C:
		}
		shown = true
		_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s: %s, %s", clip(p.what, 60), state, time.Since(started).Round(time.Second))
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Widths between which tables are laid out.
const (
	minWidth     = 80
	maxWidth     = 120
	defaultWidth = 100
)

// width is how wide a table may be: the terminal's, COLUMNS, or a size that
// fits most logs.
func width(c *console) int {
	n := defaultWidth
	if f, ok := c.out.(*os.File); ok {
		if cols, _, err := term.GetSize(int(f.Fd())); err == nil {
			n = cols
		}
	}
	if cols, err := strconv.Atoi(c.env("COLUMNS")); err == nil {
		n = cols
	}
	return min(max(n, minWidth), maxWidth)
}
