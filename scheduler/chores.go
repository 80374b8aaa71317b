package scheduler

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Chores are what schedules do to images and tags. They go slowly on purpose:
// nobody waits for them.
type Chores struct {
	Queue   Queue
	Catalog ChoreCatalog
	Tags    store.Tagged
	// Configured reports whether there is such an upstream still. If nil, always.
	Configured func(key string) bool
	// Revalidate asks the upstream what a tag names now.
	Revalidate func(ctx context.Context, ref pratique.Ref) (moved bool, err error)
	// List returns all tags of a repository of an upstream.
	List func(ctx context.Context, ref pratique.Ref) ([]string, error)
	// Newest returns at most n of tags, the newest versions first.
	Newest func(tags []string, n int) []string
	// Decide has an image fetched, scanned and decided, and waits for it.
	Decide func(ctx context.Context, ref pratique.Ref) (pratique.Decision, error)
	// Most is how many tags one prefetch takes of one pattern. If zero, 50.
	Most int
	// Pause is between two questions to upstreams. If zero, 200 ms.
	Pause time.Duration
	// Ahead is how many jobs a rescan keeps open at once. If zero, 500.
	Ahead int
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
}

// ChoreCatalog knows the images. Part of store.Catalog.
type ChoreCatalog interface {
	Images(ctx context.Context) iter.Seq2[store.Known, error]
	Image(ctx context.Context, d digest.Digest) (pratique.Image, error)
}

// Rescan opens a scan of every image that the patterns choose, or of all. An image is
// chosen by the repository that it is known by, and by every tag that names it or an
// index that holds it. It does not wait for the scans, but opens them no faster than
// they are done.
func (c *Chores) Rescan(ctx context.Context, match pratique.Patterns) (note string, err error) {
	tagged, err := c.tagged(ctx, match)
	if err != nil {
		return "", err
	}
	opened := 0
	defer func() { note = fmt.Sprintf("%d scans opened", opened) }()
	for known, err := range c.Catalog.Images(ctx) {
		if err != nil {
			return "", err
		}
		ref, chosen := known.Ref.At(known.Image.Digest), len(match) == 0 || match.Match(known.Ref)
		if t, ok := tagged[known.Image.Digest]; ok {
			ref, chosen = t.At(known.Image.Digest), true
		}
		if !chosen || !known.Image.Runnable() {
			continue
		}
		if err := c.spaced(ctx, opened); err != nil {
			return "", err
		}
		if err := c.Queue.Push(ctx, ref, PrioritySchedule, c.now()); err != nil {
			return "", err
		}
		opened++
	}
	return "", nil
}

func (c *Chores) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// tagged are the images that tags chosen by the patterns name.
func (c *Chores) tagged(ctx context.Context, match pratique.Patterns) (map[digest.Digest]pratique.Ref, error) {
	out := make(map[digest.Digest]pratique.Ref)
	if len(match) == 0 {
		return out, nil
	}
	for ref, err := range c.Tags.Tagged(ctx) {
		if err != nil {
			return nil, err
		}
		if !match.Match(ref) {
			continue
		}
		out[ref.Digest] = ref
		img, err := c.Catalog.Image(ctx, ref.Digest)
		if errors.Is(err, pratique.ErrNotFound) {
			continue // never pulled whole
		}
		if err != nil {
			return nil, err
		}
		for _, child := range img.Children {
			out[child.Digest] = ref
		}
	}
	return out, nil
}

// spaced waits while as many scheduled jobs are open as there should be.
func (c *Chores) spaced(ctx context.Context, opened int) error {
	ahead := c.Ahead
	if ahead <= 0 {
		ahead = 500
	}
	if opened%(ahead/5+1) != 0 {
		return nil
	}
	for {
		n, err := c.Queue.Len(ctx)
		if err != nil {
			return err
		}
		if n[PrioritySchedule] < ahead {
			return nil
		}
		if !sleep(ctx, 2*time.Second) {
			return ctx.Err()
		}
	}
}

// RevalidateTags asks upstreams about every tag known here that the patterns choose,
// or about all.
func (c *Chores) RevalidateTags(ctx context.Context, match pratique.Patterns) (string, error) {
	a := c.asking()
	asked, moved := 0, 0
	for ref, err := range c.Tags.Tagged(ctx) {
		if err != nil {
			return "", err
		}
		if len(match) > 0 && !match.Match(ref) || c.Configured != nil && !c.Configured(ref.Registry) {
			continue
		}
		ref.Digest = ""
		err := a.ask(ctx, ref, func() error {
			m, err := c.Revalidate(ctx, ref)
			if m {
				moved++
			}
			return err
		})
		if ctx.Err() != nil {
			return fmt.Sprintf("%d tags asked for, %d moved", asked, moved), ctx.Err()
		}
		if err == nil {
			asked++
		}
	}
	return a.end(fmt.Sprintf("%d tags asked for, %d moved", asked, moved))
}

// Prefetch has the newest tags that each pattern chooses fetched, scanned and
// decided, as many of each as Most says.
func (c *Chores) Prefetch(ctx context.Context, match pratique.Patterns) (string, error) {
	a := c.asking()
	most := c.Most
	if most <= 0 {
		most = 50
	}
	served, refused, pending := 0, 0, 0
	note := func() string {
		return fmt.Sprintf("%d decided, %d of them refused; %d not finished", served+refused, refused, pending)
	}
	for _, p := range match {
		repo, ok := p.Literal()
		if !ok {
			return note(), fmt.Errorf("%w prefetch of %s: it names no single repository", pratique.ErrInvalid, p)
		}
		var tags []string
		err := a.ask(ctx, repo, func() (err error) {
			tags, err = c.List(ctx, repo)
			return err
		})
		if ctx.Err() != nil {
			return note(), ctx.Err()
		}
		if err != nil {
			continue // counted
		}
		for _, tag := range c.Newest(chosen(p, repo, tags), most) {
			ref := repo
			ref.Tag = tag
			var d pratique.Decision
			err := a.ask(ctx, ref, func() (err error) {
				d, err = c.Decide(ctx, ref)
				if errors.Is(err, pratique.ErrPending) {
					pending++
					return errPending
				}
				return err
			})
			switch {
			case ctx.Err() != nil:
				return note(), ctx.Err()
			case err != nil:
			case d.Verdict.Outcome == pratique.OutcomeDeny:
				refused++
			default:
				served++
			}
		}
	}
	return a.end(note())
}

// errPending is no failure: the scan goes on, and is told apart.
var errPending = errors.New("not finished")

func chosen(p pratique.Pattern, repo pratique.Ref, tags []string) []string {
	var out []string
	for _, tag := range tags {
		ref := repo
		ref.Tag = tag
		if p.Match(ref) {
			out = append(out, tag)
		}
	}
	return out
}

// asking asks upstreams one question after the other, and leaves alone for the rest
// of a run those that fail or say that it is too much.
type asking struct {
	pause  time.Duration
	failed int
	first  error // failure
	row    map[string]int
	left   map[string]error // upstreams that are left alone
}

func (c *Chores) asking() *asking {
	pause := c.Pause
	if pause <= 0 {
		pause = 200 * time.Millisecond
	}
	return &asking{pause: pause, row: map[string]int{}, left: map[string]error{}}
}

const (
	// inRow is after how many failures in a row an upstream is left alone.
	inRow = 5
	// longest is how long a run waits when an upstream asks for it, and tries how
	// often.
	longest = 10 * time.Minute
	tries   = 3
)

// errLeft says that a question was not asked.
var errLeft = errors.New("the upstream is left alone")

// ask asks one question about ref. What fails is counted, not returned in words.
func (a *asking) ask(ctx context.Context, ref pratique.Ref, question func() error) error {
	if a.left[ref.Registry] != nil {
		return errLeft
	}
	var err error
	for try := 1; ; try++ {
		if !sleep(ctx, a.pause) {
			return ctx.Err()
		}
		if err = question(); ctx.Err() != nil {
			return ctx.Err()
		}
		if !limited(err) {
			break
		}
		wait := time.Minute
		var d delayed
		if errors.As(err, &d) && d.Delay() > 0 {
			wait = d.Delay()
		}
		if wait > longest || try == tries {
			a.left[ref.Registry] = err
			break
		}
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
	if err == nil || errors.Is(err, errPending) {
		a.row[ref.Registry] = 0
		return err
	}
	a.failed++
	if a.first == nil {
		a.first = fmt.Errorf("%s: %w", ref, err)
	}
	if a.row[ref.Registry]++; a.row[ref.Registry] >= inRow {
		a.left[ref.Registry] = err
	}
	return err
}

// limited reports whether an upstream says that it is asked too much.
func limited(err error) bool {
	var s answered
	return errors.As(err, &s) && s.Status() == http.StatusTooManyRequests
}

// end returns what was done, and an error when an upstream was left alone.
func (a *asking) end(note string) (string, error) {
	if a.failed > 0 {
		note += fmt.Sprintf("; %d failed, first: %v", a.failed, a.first)
	}
	if len(a.left) == 0 {
		return note, nil
	}
	var names []string
	for key := range a.left {
		names = append(names, key)
	}
	return note, fmt.Errorf("left alone after failures: %s", strings.Join(names, ", "))
}
