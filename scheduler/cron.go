package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
)

// Times says when a schedule is due next; the zero time is never. Implemented by
// cron.Schedule.
type Times interface {
	Next(after time.Time) time.Time
}

// Task is something that is done at set times.
type Task struct {
	Name  string
	Spec  string   // the text of Times
	What  string   // is done, in a word
	Match []string // to what, as it was written; for people alone
	Times Times
	// Do does it, and says in a line what it did, also when it fails. It must end
	// with its context, and may be begun again from the start after that.
	Do func(ctx context.Context) (note string, err error)
}

// ErrRunning says that a schedule is not begun because it runs.
var ErrRunning = errors.New("it runs already")

// ErrElsewhere says that a schedule is not begun because Run does not run here:
// another process does what is due, or this one is stopping.
var ErrElsewhere = errors.New("schedules do not run here: another replica runs them, or this one is stopping")

// CronConfig adjusts a Cron.
type CronConfig struct {
	// Timeout ends a run that takes longer, as failed. If zero, 12 hours.
	Timeout time.Duration
	// Settle is how long after the start of Run those begin that were missed while no
	// process ran. If zero, 1 minute.
	Settle time.Duration
	// Pauses tells whether PrioritySchedule is paused: then nothing begins, and what
	// was due is done once when it is resumed. If nil, never.
	Pauses Pauses
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Log receives what was done. If nil, slog.Default().
	Log *slog.Logger
	// Metrics receives pratique_schedule_*. If nil, none are registered.
	Metrics prometheus.Registerer
}

// Cron does tasks at their times, each at most once at a time. What was due while no
// process ran, or while schedules were paused, is done once, however often it was
// due. A run that is cut short is done again; one that a dying process left
// unfinished three times in a row waits for its next time.
//
// Of processes that share their state one is to run Run (store.Lead); it goes on from
// what the one before it noted. Run may be called again when it has returned.
type Cron struct {
	runs    Runs
	cfg     CronConfig
	metrics cronMetrics
	changed chan struct{} // holds one value when something may be due

	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // of Run, while it runs: what is begun by hand ends with it
	wg      *sync.WaitGroup // of Run
	tasks   map[string]*cronTask
	settled time.Time // nothing that was missed begins before
}

// cronTask is a task with its state; fields are under Cron.mu.
type cronTask struct {
	Task
	run     Run
	running bool
	gone    bool // not configured any more
}

// maxUnfinished is after how many runs that the process did not survive a task waits
// for its next time.
const maxUnfinished = 3

// look is how often the clock is looked at, in case that it was set.
const look = time.Minute

// NewCron returns one without tasks that does nothing before Run.
func NewCron(runs Runs, cfg CronConfig) *Cron {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 12 * time.Hour
	}
	if cfg.Settle <= 0 {
		cfg.Settle = time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Cron{
		runs: runs, cfg: cfg, metrics: newCronMetrics(cfg.Metrics), changed: make(chan struct{}, 1),
		tasks: make(map[string]*cronTask), settled: cfg.Now().Add(cfg.Settle),
	}
}

// Use replaces the tasks. What runs goes on to its end. A task that is new, or whose
// times are written otherwise, is due at its next time from now; one that is known
// goes on from its last run, also that of an earlier process.
func (c *Cron) Use(ctx context.Context, tasks []Task) error {
	known, err := c.runs.LastRuns(ctx)
	if err != nil {
		return fmt.Errorf("schedules: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := make(map[string]*cronTask, len(tasks))
	for _, t := range tasks {
		ct := &cronTask{Task: t}
		if old := c.tasks[t.Name]; old != nil {
			ct = old
			ct.Task, ct.gone = t, false
		} else {
			ct.run = known[t.Name]
		}
		if ct.run.Name == "" || ct.run.Spec != t.Spec {
			ct.run.Name, ct.run.Spec, ct.run.Base, ct.run.Unfinished = t.Name, t.Spec, c.cfg.Now().UTC(), 0
			if err := c.runs.PutRun(ctx, ct.run); err != nil {
				return fmt.Errorf("schedule %s: %w", t.Name, err)
			}
		}
		next[t.Name] = ct
	}
	for name, t := range c.tasks {
		if next[name] == nil && t.running {
			t.gone = true // still here, so that it is not begun again beside itself
			next[name] = t
		}
	}
	c.tasks = next
	for _, t := range tasks {
		c.metrics.use(t.Name)
	}
	notify(c.changed)
	return nil
}

// Run does what is due until ctx ends, then ends what runs and waits for it. It begins
// with what is noted now: another process may have run since the last time.
func (c *Cron) Run(ctx context.Context) error {
	if !c.reread(ctx) {
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	c.mu.Lock()
	c.ctx, c.wg = ctx, &wg
	c.settled = c.cfg.Now().Add(c.cfg.Settle)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.ctx = nil
		c.mu.Unlock()
	}()
	for {
		t := time.NewTimer(c.begin(ctx))
		select {
		case <-t.C:
		case <-c.changed:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		t.Stop()
	}
}

// reread takes over what is noted of runs, as soon as it can be read; false when ctx
// ended before.
func (c *Cron) reread(ctx context.Context) bool {
	for failures := 0; ; failures++ {
		err := c.Refresh(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err() == nil
		}
		if failures == 0 {
			c.cfg.Log.ErrorContext(ctx, "runs of schedules cannot be read, none is begun", "error", err)
		}
		if !sleep(ctx, backoff(time.Second, maxAway, failures)) {
			return false
		}
	}
}

// Refresh takes over what other processes noted of their runs, for Status. Where Run
// runs it does nothing: nobody else notes any.
func (c *Cron) Refresh(ctx context.Context) error {
	known, err := c.runs.LastRuns(ctx)
	if err != nil {
		return fmt.Errorf("schedules: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx != nil {
		return nil
	}
	for name, t := range c.tasks {
		// With other times it is that of a process with another configuration.
		if r, ok := known[name]; ok && !t.running && r.Spec == t.Spec {
			t.run = r
		}
	}
	return nil
}

// begin begins what is due and returns how long until something may be.
func (c *Cron) begin(ctx context.Context) time.Duration {
	held := c.held(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := look
	now := c.cfg.Now()
	for _, name := range slices.Sorted(maps.Keys(c.tasks)) {
		t := c.tasks[name]
		due := c.due(t)
		if due.IsZero() || t.running || t.gone {
			continue
		}
		if d := due.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		if !held {
			c.launch(t) //nolint:contextcheck // c.ctx is ctx: Run calls begin with what it keeps
		}
	}
	return wait
}

// held reports whether schedules are paused; when that is not known, they are.
func (c *Cron) held(ctx context.Context) bool {
	if c.cfg.Pauses == nil {
		return false
	}
	paused, err := c.cfg.Pauses.Paused(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.cfg.Log.ErrorContext(ctx, "whether schedules are paused is not known, none is begun", "error", err)
		}
		return true
	}
	_, held := paused[PrioritySchedule]
	return held
}

// due is when the task begins next; needs c.mu.
func (c *Cron) due(t *cronTask) time.Time {
	due := t.Times.Next(t.run.Base)
	if !due.IsZero() && due.Before(c.settled) {
		return c.settled
	}
	return due
}

// launch begins a run; needs c.mu.
func (c *Cron) launch(t *cronTask) {
	if c.ctx == nil || c.ctx.Err() != nil {
		return
	}
	t.running = true
	ctx := c.ctx
	task, run := t.Task, t.run
	c.wg.Go(func() {
		run = c.do(ctx, task, run)
		c.mu.Lock()
		t.running, t.run = false, run
		if t.Spec != run.Spec { // other times meanwhile: from now
			t.run.Spec, t.run.Base = t.Spec, c.cfg.Now().UTC()
		}
		c.mu.Unlock()
		notify(c.changed)
	})
}

// Wake has the clock looked at: schedules may have been resumed.
func (c *Cron) Wake() { notify(c.changed) }

// do does one run and returns what is noted of it. It is noted before it begins, so
// that one that kills the process does not do so at every start.
func (c *Cron) do(ctx context.Context, t Task, run Run) Run {
	run.StartedAt = c.cfg.Now().UTC()
	run.Unfinished++
	if run.Unfinished > maxUnfinished {
		run.Base, run.Unfinished = run.StartedAt, 0
		run.EndedAt, run.Outcome, run.Note = run.StartedAt, OutcomeFailed, fmt.Sprintf("not begun: the process ended %d times in the middle of it", maxUnfinished)
		c.cfg.Log.ErrorContext(ctx, "schedule waits for its next time", "schedule", t.Name, "do", t.What, "why", run.Note)
		c.put(ctx, run)
		return run
	}
	c.put(ctx, run)
	c.metrics.running.WithLabelValues(t.Name).Set(1)
	defer c.metrics.running.WithLabelValues(t.Name).Set(0)
	c.cfg.Log.InfoContext(ctx, "schedule begins", "schedule", t.Name, "do", t.What)
	note, err := c.guarded(ctx, t)
	run.EndedAt, run.Note, run.Outcome = c.cfg.Now().UTC(), note, OutcomeDone
	switch {
	case err != nil && ctx.Err() != nil:
		run.Unfinished-- // no fault of its own
		run.Outcome = OutcomeStopped
	case err != nil:
		run.Outcome, run.Note = OutcomeFailed, join(err.Error(), note)
		fallthrough
	default:
		run.Base, run.Unfinished = run.EndedAt, 0
	}
	c.tell(ctx, t, run)
	c.metrics.ended(t.Name, run)
	c.put(ctx, run)
	return run
}

// tell logs how a run ended.
func (c *Cron) tell(ctx context.Context, t Task, run Run) {
	log := c.cfg.Log.With("schedule", t.Name, "do", t.What, "took", run.EndedAt.Sub(run.StartedAt).String(), "note", run.Note)
	switch run.Outcome {
	case OutcomeStopped:
		log.InfoContext(ctx, "schedule stopped, will be done again")
	case OutcomeFailed:
		log.ErrorContext(ctx, "schedule failed")
	default:
		log.InfoContext(ctx, "schedule done")
	}
}

func join(a, b string) string {
	if b == "" {
		return a
	}
	return a + "; " + b
}

// guarded does the work in its bounds; a panic is a failure.
func (c *Cron) guarded(ctx context.Context, t Task) (note string, err error) {
	ctx, cancel := context.WithTimeoutCause(pratique.Unhurried(ctx), c.cfg.Timeout, fmt.Errorf("not finished after %v", c.cfg.Timeout))
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			c.cfg.Log.ErrorContext(ctx, "schedule panicked", "schedule", t.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	note, err = t.Do(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	return note, err
}

// put notes a run, also while the process is being stopped or another took its place.
// What is not noted is done again.
func (c *Cron) put(ctx context.Context, r Run) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := c.runs.PutRun(ctx, r); err != nil {
		c.cfg.Log.ErrorContext(ctx, "run of a schedule not noted", "schedule", r.Name, "error", err)
	}
}

// Begin begins a schedule now, whether it is due or paused or not, and returns at
// once. An unknown name is pratique.ErrNotFound, one that runs ErrRunning; where Run
// does not run it is ErrElsewhere.
func (c *Cron) Begin(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tasks[name]
	switch {
	case t == nil || t.gone:
		return fmt.Errorf("schedule %q: %w", name, pratique.ErrNotFound)
	case t.running:
		return fmt.Errorf("schedule %q: %w", name, ErrRunning)
	case c.ctx == nil || c.ctx.Err() != nil:
		return fmt.Errorf("schedule %q: %w", name, ErrElsewhere)
	}
	t.run.Unfinished = 0 // asked for
	c.launch(t)
	return nil
}

// TaskStatus is a task as people see it.
type TaskStatus struct {
	Task
	Last    Run
	Running bool
	Next    time.Time // zero: never
}

// Status tells of all tasks, by name.
func (c *Cron) Status() []TaskStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []TaskStatus{}
	for _, name := range slices.Sorted(maps.Keys(c.tasks)) {
		t := c.tasks[name]
		if t.gone {
			continue
		}
		st := TaskStatus{Task: t.Task, Last: t.run, Running: t.running, Next: c.due(t)}
		if t.running {
			st.Next = t.Times.Next(c.cfg.Now())
		}
		out = append(out, st)
	}
	return out
}
