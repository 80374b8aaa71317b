package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

const (
	// How often a working child is looked at. Between two looks memory can grow by
	// some 100 MB; RLIMIT_DATA stands behind.
	memoryEvery = 50 * time.Millisecond
	// Looking at the disk is a walk: seldom, and never more than a tenth of the time.
	diskEvery = 500 * time.Millisecond
	// settleTime is how long a child's end waits for the last Read of the layer.
	settleTime = time.Second
)

// Why children end before their time: the values of the metric's label.
const (
	deathMemory = "memory"
	deathTime   = "time"
	deathDisk   = "disk"
	deathReply  = "reply"
	deathPanic  = "panic"
	deathKilled = "killed"
	deathExit   = "exit"
	deathIdle   = "idle"
)

// death is why a child could not answer, for a person and for the metric.
type death struct{ reason, message string }

// feed writes a request and a layer to a child.
type feed struct {
	// waited is for how long the layer's reader has kept it waiting; since when it
	// does now, 0 when it does not. Nanoseconds.
	waited, since atomic.Int64
	done          chan struct{}
	// Set before done is closed:
	readErr  error // the reader failed: not the child's doing
	complete bool  // everything was read and written
}

// run feeds ch. For a layer it closes the child's input at the layer's end and
// only there: a child never takes a failed transfer for the end.
func (f *feed) run(ch *child, q Request, r io.Reader) {
	defer close(f.done)
	if err := writeFrame(ch.in, q); err != nil {
		return // the child is dying: its status tells more
	}
	if r == nil {
		f.complete = true
		return
	}
	buf := make([]byte, 256<<10)
	for {
		began := time.Now()
		f.since.Store(began.UnixNano())
		n, err := r.Read(buf)
		f.waited.Add(int64(time.Since(began)))
		f.since.Store(0)
		if n > 0 {
			if _, err := ch.in.Write(buf[:n]); err != nil {
				return
			}
		}
		switch {
		case err == io.EOF: // and nothing that wraps it: that is a transfer cut off
			f.complete = ch.in.Close() == nil
			return
		case err != nil:
			f.readErr = err
			return
		}
	}
}

// settle waits a moment for the feed to end; the child is gone or has answered.
// It reports whether the feed has ended.
func (f *feed) settle() bool {
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-f.done:
		return true
	case <-timer.C:
		return false
	}
}

// busy is how long the child has had something to do since began.
func (f *feed) busy(began time.Time) time.Duration {
	busy := time.Since(began) - time.Duration(f.waited.Load())
	if since := f.since.Load(); since != 0 {
		busy -= time.Since(time.Unix(0, since))
	}
	return busy
}

// ask sends one request and waits for the answer. What the content did to the
// child becomes a failed inventory; an error is ctx's, the reader's or the pool's.
func (p *Pool) ask(ctx context.Context, ch *child, q Request, r io.Reader) (pratique.Inventory, error) {
	f := &feed{done: make(chan struct{})}
	began := time.Now()
	go f.run(ch, q, r)
	var reply Reply
	answered := make(chan error, 1)
	go func() { answered <- readFrame(ch.out, p.cfg.Reply, &reply) }()

	ticker := time.NewTicker(memoryEvery)
	defer ticker.Stop()
	disk := diskWatch{next: began.Add(diskEvery)}
	fed := f.done
	for {
		select {
		case err := <-answered:
			return p.judge(ch, f, q, reply, err)
		case <-fed:
			if f.readErr != nil {
				ch.end()
				return pratique.Inventory{}, fmt.Errorf("reading the layer: %w", f.readErr)
			}
			fed = nil
		case <-ctx.Done():
			ch.end()
			f.settle()
			return pratique.Inventory{}, context.Cause(ctx)
		case <-p.closed:
			ch.end()
			f.settle()
			return pratique.Inventory{}, errClosed
		case <-ticker.C:
			if time.Since(began) > p.cfg.Patience {
				ch.end()
				f.settle()
				return pratique.Inventory{}, fmt.Errorf("the layer had not arrived after %v", p.cfg.Patience)
			}
			if d := p.excess(ch, f, &disk, began); d != nil {
				// The limit may be broken a moment before the answer: it counts all the same.
				return p.bury(ch, f, q, *d), nil
			}
		}
	}
}

// judge weighs what came from the child's output: an answer or its end.
func (p *Pool) judge(ch *child, f *feed, q Request, reply Reply, err error) (pratique.Inventory, error) {
	var size errFrameSize
	switch {
	case errors.As(err, &size):
		return p.bury(ch, f, q, death{deathReply, fmt.Sprintf("inventory of %d bytes, at most %d are read", size.size, size.limit)}), nil
	case err != nil:
		ch.end()
		return p.bury(ch, f, q, ch.diagnose(p.cfg)), nil //nolint:nilerr // the end of the output is the death, not a failure of ours
	case reply.Error != "":
		return p.failed(q.digest(), "the worker failed: "+reply.Error), nil
	}
	if ended := f.settle(); ended && f.readErr != nil {
		return pratique.Inventory{}, fmt.Errorf("reading the layer: %w", f.readErr)
	} else if inv := reply.Inventory; (!ended || !f.complete) && inv.State() != pratique.StateFailed {
		return p.failed(q.digest(), "the worker answered before it had read the layer"), nil
	}
	return reply.Inventory, nil
}

// diskWatch spaces out the walks over a child's files.
type diskWatch struct{ next time.Time }

// excess tells which limit the child has broken, if any.
func (p *Pool) excess(ch *child, f *feed, disk *diskWatch, began time.Time) *death {
	if f.busy(began) > p.cfg.Timeout {
		return &death{deathTime, fmt.Sprintf("not finished within %v", p.cfg.Timeout)}
	}
	if m := ch.memory(); m > p.cfg.Memory {
		return &death{deathMemory, "memory limit of " + bytesText(p.cfg.Memory) + " exceeded"}
	}
	if now := time.Now(); now.After(disk.next) {
		used := ch.disk(p.cfg.TempDisk)
		disk.next = time.Now().Add(max(diskEvery, 10*time.Since(now)))
		if used > p.cfg.TempDisk {
			return &death{deathDisk, "temporary disk limit of " + bytesText(p.cfg.TempDisk) + " exceeded"}
		}
	}
	return nil
}

// bury ends a child and makes the inventory of what it died of.
func (p *Pool) bury(ch *child, f *feed, q Request, d death) pratique.Inventory {
	ch.end()
	f.settle()
	p.metrics.deaths.WithLabelValues(d.reason).Inc()
	p.cfg.Log.Warn("analyzer process died", "reason", d.reason, "message", d.message, "digest", q.digest(), "stderr", ch.stderr.String())
	return p.failed(q.digest(), d.message)
}

// diagnose tells from status and standard error why a child that is gone went.
func (ch *child) diagnose(c Config) death {
	stderr := ch.stderr.head()
	for _, words := range []string{"out of memory", "cannot allocate memory", "failed to allocate"} { // the last with -race
		if !strings.Contains(stderr, words) {
			continue
		}
		return death{deathMemory, "memory limit of " + bytesText(c.Memory) + " exceeded"}
	}
	for line := range strings.Lines(stderr) {
		for _, prefix := range []string{"panic: ", "fatal error: ", "runtime: "} {
			if strings.HasPrefix(line, prefix) {
				line = strings.TrimSpace(line)
				return death{deathPanic, "an analyzer crashed: " + line[:min(len(line), 200)]}
			}
		}
	}
	var exit *exec.ExitError
	if errors.As(ch.status, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return death{deathKilled, fmt.Sprintf("the worker was ended by signal %q", ws.Signal())}
		}
	}
	if ch.status == nil {
		return death{deathExit, "the worker ended without an answer"}
	}
	return death{deathExit, "the worker ended without an answer: " + ch.status.Error()}
}

// digest is what the request is about.
func (q Request) digest() digest.Digest {
	return cmp.Or(q.Descriptor.Digest, digest.FromBytes(q.Config))
}

// bytesText writes a limit as its configuration would: 1 GiB, 64 MiB.
func bytesText(n int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.size && n%u.size == 0 {
			return fmt.Sprintf("%d %s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
