package scheduler_test

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/scheduler"
	"pratique/scheduler/schedulertest"
	"pratique/store"
	"pratique/store/storetest"
)

// The fakes keep the contracts: else what is proven with them is worth nothing.
func TestFakes(t *testing.T) {
	t.Run("Queue", func(t *testing.T) {
		schedulertest.Queue(t, func(*testing.T) func() scheduler.Queue {
			q := &fakeQueue{}
			return func() scheduler.Queue { return q }
		})
	})
	t.Run("Reports", func(t *testing.T) {
		storetest.Reports(t, func(*testing.T) func() *fakeReports {
			r := newFakeReports()
			return func() *fakeReports { return r }
		})
	})
}

// fakeQueue is a queue in memory. Each hook, if not nil, is called before the
// method does its work and may fail it.
type fakeQueue struct {
	mu     sync.Mutex
	jobs   []*fakeJob
	turns  [4]int
	leases int64

	pushes int
	takes  int

	onPush, onTake, onRenew, onFinish func() error
}

type fakeJob struct {
	scheduler.Job
	until time.Time
	turn  int
}

// nextTurn is the turn of a job opened now.
func (q *fakeQueue) nextTurn(ref pratique.Ref, p scheduler.Priority) int {
	turn := q.turns[p]
	for _, j := range q.jobs {
		if j.Priority == p && j.Ref.Repository() == ref.Repository() {
			turn = max(turn, j.turn+1)
		}
	}
	return turn
}

func hook(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

func (q *fakeQueue) find(d digest.Digest) *fakeJob {
	for _, j := range q.jobs {
		if j.Ref.Digest == d {
			return j
		}
	}
	return nil
}

func (q *fakeQueue) Push(_ context.Context, ref pratique.Ref, p scheduler.Priority, now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pushes++
	if err := hook(q.onPush); err != nil {
		return err
	}
	j := q.find(ref.Digest)
	if j == nil {
		q.jobs = append(q.jobs, &fakeJob{Job: scheduler.Job{Ref: ref, Priority: p, NotBefore: now}, turn: q.nextTurn(ref, p)})
		return nil
	}
	if p < j.Priority {
		j.turn, j.Priority = q.nextTurn(j.Ref, p), p
	}
	if p == scheduler.PriorityPull && now.Before(j.NotBefore) {
		j.NotBefore = now
	}
	return nil
}

func (q *fakeQueue) Take(_ context.Context, now time.Time, lease time.Duration, only ...scheduler.Priority) (scheduler.Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.takes++
	if err := hook(q.onTake); err != nil {
		return scheduler.Job{}, err
	}
	ready := slices.Clone(q.jobs)
	slices.SortStableFunc(ready, func(a, b *fakeJob) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.turn, b.turn))
	})
	for _, j := range ready {
		if !j.NotBefore.After(now) && !j.until.After(now) && (len(only) == 0 || slices.Contains(only, j.Priority)) {
			q.leases++
			q.turns[j.Priority] = max(q.turns[j.Priority], j.turn)
			j.Lease, j.until = q.leases, now.Add(lease)
			return j.Job, nil
		}
	}
	return scheduler.Job{}, pratique.ErrNotFound
}

func (q *fakeQueue) held(j scheduler.Job) (*fakeJob, error) {
	if f := q.find(j.Ref.Digest); f != nil && f.Lease == j.Lease {
		return f, nil
	}
	return nil, pratique.ErrNotFound
}

func (q *fakeQueue) Renew(_ context.Context, j scheduler.Job, until time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := hook(q.onRenew); err != nil {
		return err
	}
	f, err := q.held(j)
	if err == nil {
		f.until = until
	}
	return err
}

func (q *fakeQueue) Finish(_ context.Context, j scheduler.Job, failure error, retryAt time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := hook(q.onFinish); err != nil {
		return err
	}
	f, err := q.held(j)
	if err != nil {
		return err
	}
	if failure != nil && !retryAt.IsZero() {
		f.Attempts++
		f.turn = q.nextTurn(f.Ref, f.Priority)
		f.Error, f.NotBefore, f.until = failure.Error(), retryAt, time.Time{}
		return nil
	}
	q.jobs = slices.DeleteFunc(q.jobs, func(o *fakeJob) bool { return o == f })
	return nil
}

func (q *fakeQueue) Len(context.Context) (map[scheduler.Priority]int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := make(map[scheduler.Priority]int)
	for _, j := range q.jobs {
		n[j.Priority]++
	}
	return n, nil
}

// open returns the job of an image as it is in the queue.
func (q *fakeQueue) open(image digest.Digest) (scheduler.Job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j := q.find(image); j != nil {
		return j.Job, true
	}
	return scheduler.Job{}, false
}

// counts returns how often Push and Take were called.
func (q *fakeQueue) counts() (pushes, takes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pushes, q.takes
}

// fakeReports keeps reports in memory.
type fakeReports struct {
	mu    sync.Mutex
	m     map[digest.Digest]pratique.Report
	past  map[digest.Digest][]store.Past
	onPut func() error
	onGet func()
}

func newFakeReports() *fakeReports {
	return &fakeReports{m: map[digest.Digest]pratique.Report{}, past: map[digest.Digest][]store.Past{}}
}

func (r *fakeReports) Report(_ context.Context, image digest.Digest) (pratique.Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.onGet; f != nil {
		r.onGet = nil
		defer f()
	}
	if rep, ok := r.m[image]; ok {
		return rep, nil
	}
	return pratique.Report{}, fmt.Errorf("report on %s: %w", image, pratique.ErrNotFound)
}

func (r *fakeReports) PutReport(_ context.Context, rep pratique.Report) (pratique.Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := hook(r.onPut); err != nil {
		return pratique.Report{}, err
	}
	if err := rep.State.Validate(); err != nil {
		return pratique.Report{}, err
	}
	prev := r.m[rep.Image]
	if prev.Engine.DatabaseAt.After(rep.Engine.DatabaseAt) {
		return prev, nil
	}
	rep.FirstScanned = store.FirstScanned(prev, rep)
	rep.Findings, r.past[rep.Image] = store.Carry(prev, r.past[rep.Image], rep)
	r.m[rep.Image] = rep
	return rep, nil
}

func (r *fakeReports) ReportedImages(ctx context.Context) iter.Seq2[digest.Digest, error] {
	r.mu.Lock()
	all := slices.Sorted(maps.Keys(r.m))
	r.mu.Unlock()
	return func(yield func(digest.Digest, error) bool) {
		for _, d := range all {
			if err := ctx.Err(); err != nil {
				yield("", err)
				return
			}
			if !yield(d, nil) {
				return
			}
		}
	}
}

// fakeScanner answers by its hooks; without them every scan succeeds at once.
type fakeScanner struct {
	reports *fakeReports
	scan    func(ctx context.Context, ref pratique.Ref, n int) error // n counts scans of the image from 1

	mu    sync.Mutex
	scans map[digest.Digest]int
}

func (f *fakeScanner) Scan(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	f.mu.Lock()
	f.scans[ref.Digest]++
	n := f.scans[ref.Digest]
	f.mu.Unlock()
	if f.scan != nil {
		if err := f.scan(ctx, ref, n); err != nil {
			return pratique.Report{}, err
		}
	}
	return f.reports.PutReport(ctx, pratique.Report{Image: ref.Digest, State: pratique.StateScanned, ScannedAt: time.Now(), Engine: pratique.Engine{DatabaseAt: time.Now()}})
}

func (f *fakeScanner) Rematch(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	return f.reports.Report(ctx, image)
}

func (f *fakeScanner) count(image digest.Digest) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.scans[image]
}

// answer is an upstream's error as the proxy words it.
type answer struct {
	status int
	after  time.Duration
}

func (a answer) Error() string        { return fmt.Sprint("upstream says ", a.status) }
func (a answer) Status() int          { return a.status }
func (a answer) Delay() time.Duration { return a.after }

type fakeCatalog struct{}

func (fakeCatalog) Known(_ context.Context, image digest.Digest) (store.Known, error) {
	return store.Known{Ref: pratique.Ref{Registry: "docker.io", Repo: "known", Digest: image}}, nil
}

// lab is a scheduler over fakes, running in a synctest bubble.
type lab struct {
	*scheduler.Scheduler
	t       *testing.T
	queue   *fakeQueue
	reports *fakeReports
	scanner *fakeScanner
	stop    func() // ends Run and waits for it
}

func newLab(t *testing.T, cfg scheduler.Config, prepare func(*lab)) *lab {
	l := &lab{t: t, queue: &fakeQueue{}, reports: newFakeReports()}
	l.scanner = &fakeScanner{reports: l.reports, scans: map[digest.Digest]int{}}
	if prepare != nil {
		prepare(l)
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.Catalog = fakeCatalog{}
	cfg.Metrics = prometheus.NewPedanticRegistry()
	l.Scheduler = scheduler.New(l.queue, l.scanner, l.reports, cfg)
	l.run()
	t.Cleanup(func() { l.stop() })
	return l
}

func (l *lab) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Errorf("Run: %v", err)
		}
	})
}

// await waits at most d.
func (l *lab) await(ref pratique.Ref, d time.Duration) (pratique.Report, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return l.Await(ctx, ref)
}

func (l *lab) put(r pratique.Report) {
	l.t.Helper()
	if _, err := l.reports.PutReport(context.Background(), r); err != nil {
		l.t.Error(err)
	}
}

func (l *lab) request(ref pratique.Ref) {
	l.t.Helper()
	if err := l.Request(context.Background(), ref); err != nil {
		l.t.Error(err)
	}
}

func ref(name string) pratique.Ref {
	return pratique.Ref{Registry: "docker.io", Repo: "library/" + name, Tag: "v1", Digest: digest.FromString(name)}
}
