//go:build e2e && chaos

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// outcome is how one pull ended, as its client sees it.
type outcome int

const (
	served      outcome = iota
	refused             // 403
	pending             // 429: the scan is not over
	unavailable         // 503
	gone                // no answer: the connection was refused or broken off
	failed              // any other status
	outcomes            // how many there are
)

var outcomeNames = [outcomes]string{"served", "refused", "pending (429)", "unavailable (503)", "no answer", "other"}

// chaosPull is one pull.
type chaosPull struct {
	at      time.Duration // since the beginning
	replica int
	outcome outcome
	took    time.Duration
	known   bool   // this process had decided on the image before, and served what was asked for
	path    string // within the image's repository
	said    string // of failures
}

// chaosLoad pulls from all replicas, so many times a second whatever becomes of it,
// and holds every byte against the truth.
type chaosLoad struct {
	f     *fleet
	began time.Time
	http  http.Client

	mu      sync.Mutex
	pulls   []chaosPull
	wrong   []string        // bytes and verdicts that must never be
	decided map[string]bool // process and what it was asked for and decided on
}

const (
	chaosRate    = 100 // pulls a second
	chaosFlight  = 400 // at most so many at once
	chaosPatient = 20 * time.Second
)

func newChaosLoad(f *fleet) *chaosLoad {
	return &chaosLoad{
		f: f, began: time.Now(), decided: map[string]bool{},
		http: http.Client{Timeout: chaosPatient, Transport: &http.Transport{MaxIdleConnsPerHost: 200, IdleConnTimeout: 10 * time.Second}},
	}
}

// run pulls until ctx ends, and then waits for those that run.
func (l *chaosLoad) run(ctx context.Context) {
	defer l.http.CloseIdleConnections()
	tick := time.NewTicker(time.Second / chaosRate)
	defer tick.Stop()
	flight := make(chan struct{}, chaosFlight)
	var running sync.WaitGroup
	defer running.Wait()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case flight <- struct{}{}:
		default:
			continue // what clients wait for is counted when it ends
		}
		running.Go(func() {
			defer func() { <-flight }()
			random := rand.New(rand.NewPCG(uint64(n), 1)) //nolint:gosec // a load
			l.pull(n%replicas, l.f.up.hot(random), random)
		})
	}
}

// hot prefers the older images: nine of ten pulls are of what was pulled before.
func (u *crashUpstream) hot(random *rand.Rand) *crashImage {
	u.mu.Lock()
	defer u.mu.Unlock()
	if random.IntN(10) == 0 {
		return u.images[len(u.images)-1-random.IntN(perRound)]
	}
	return u.images[random.IntN(min(len(u.images), 5*perRound))]
}

// pull asks one replica for an image's manifest, and for one of its blobs.
func (l *chaosLoad) pull(replica int, i *crashImage, random *rand.Rand) outcome {
	began := time.Now()
	reference := "1"
	if random.IntN(2) == 0 {
		reference = i.digest
	}
	process := l.f.replicas[replica].server
	path := "/manifests/" + reference
	o, said := l.get(replica, i, path, i.digest)
	known := l.knows(process, i.name+path, o)
	if o == served || i.refused { // the content of what is refused is tried whatever the answer was
		b := i.blobs[random.IntN(len(i.blobs))]
		if got, why := l.get(replica, i, "/blobs/"+b, b); o == served {
			o, said = got, why
			known = l.knows(process, i.name+"/blobs/"+b, o)
			path = "/blobs/" + b
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pulls = append(l.pulls, chaosPull{began.Sub(l.began), replica, o, time.Since(began), known, path, said})
	return o
}

// knows reports whether a replica's process had decided on what was asked for, and
// notes that it did now.
func (l *chaosLoad) knows(process *process, what string, o outcome) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	what = fmt.Sprint(process.cmd.Process.Pid, " ", what)
	before := l.decided[what]
	if o == served || o == refused {
		l.decided[what] = true
	}
	return before
}

func (l *chaosLoad) get(replica int, i *crashImage, path, d string) (outcome, string) {
	res, err := l.http.Get("http://" + l.f.at[replica] + "/v2/docker.io/" + i.name + path)
	if err != nil {
		return gone, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		if !i.refused {
			l.never("%s of %s is refused, and may be had: %s", path, i.name, body)
		}
		return refused, ""
	case http.StatusTooManyRequests:
		return pending, ""
	case http.StatusServiceUnavailable:
		if res.Header.Get("Retry-After") == "" {
			return failed, "503 without Retry-After: " + string(body)
		}
		return unavailable, string(body)
	default:
		return failed, fmt.Sprintf("%s: %s", res.Status, body)
	}
	l.f.up.mu.Lock()
	content, forbidden := l.f.up.content[d], l.f.up.forbidden[d] || i.refused
	l.f.up.mu.Unlock()
	switch {
	case forbidden:
		l.never("%s of %s was served, and may not be had", path, i.name)
	case err == nil && !bytes.Equal(body, content):
		l.never("%s of %s: a complete answer with wrong bytes", path, i.name)
	case err != nil && !bytes.HasPrefix(content, body):
		l.never("%s of %s: broken off, and the bytes so far are wrong", path, i.name)
	}
	if err != nil {
		return gone, err.Error()
	}
	return served, ""
}

// never notes what must not happen.
func (l *chaosLoad) never(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf("%v: ", time.Since(l.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

// between are the pulls that began in a span.
func (l *chaosLoad) between(from, to time.Duration) []chaosPull {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []chaosPull
	for _, p := range l.pulls {
		if p.at >= from && p.at < to {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b chaosPull) int { return int(a.at - b.at) })
	return out
}

// known counts the pulls of what the replica had decided on, and those that were 503.
func (l *chaosLoad) known(ph phase) (asked, lost int) {
	for _, p := range l.between(ph.from, ph.to) {
		if p.known {
			asked++
			if p.outcome == unavailable {
				lost++
			}
		}
	}
	return asked, lost
}

// settle asks every replica for every image until each has decided on each: no scan
// was lost.
func (l *chaosLoad) settle(t *testing.T) {
	t.Helper()
	l.f.up.mu.Lock()
	all := slices.Clone(l.f.up.images)
	l.f.up.mu.Unlock()
	deadline := time.Now().Add(2 * time.Minute)
	for replica := range replicas {
		for _, i := range all {
			for {
				o, said := l.get(replica, i, "/manifests/"+i.digest, i.digest)
				if o == served && !i.refused || o == refused && i.refused {
					break
				}
				if time.Now().After(deadline) {
					t.Errorf("replica %d has not decided on %s (refused: %v): %s %s", replica+1, i.name, i.refused, outcomeNames[o], said)
					return
				}
				time.Sleep(200 * time.Millisecond)
			}
		}
	}
}
