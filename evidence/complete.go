package evidence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
)

// Lineages tell how an image stands to the tags of its repository and to its
// base. Implemented by evidence/lineage.
type Lineages interface {
	// Lineage is that of img, asked for as ref, as far as needs names its parts
	// (policy.NeedTags, NeedNewer, NeedBase, NeedNames, NeedAdvice). With wait it may ask upstreams until
	// ctx ends; without, it looks at what is here. What is not known yet is an error
	// wrapping pratique.ErrPending.
	Lineage(ctx context.Context, ref pratique.Ref, img pratique.Image, needs policy.Needs, wait bool) (pratique.Lineage, error)
	Stamped
}

// Attestors tell what was verified about an image. Implemented by
// evidence/trust.
type Attestors interface {
	// Attestations are those of img, asked for as ref; wait and errors are as in
	// Lineages.
	Attestations(ctx context.Context, ref pratique.Ref, img pratique.Image, wait bool) (pratique.Attestations, error)
	Stamped
}

// Exceptions are those that exist. Implemented by evidence/exception.
type Exceptions interface {
	Current() *policy.Exceptions
	Stamped
}

// Exploits are the lists in use. Implemented by evidence/exploit.
type Exploits interface {
	// Current is nil when there is no list. Another list is another pointer.
	Current() *pratique.Exploits
}

// History tells what was served before. Part of store.Pulls.
type History interface {
	// Served returns when an image was first and last served; ErrNotFound when never.
	Served(ctx context.Context, image digest.Digest) (first, last time.Time, err error)
}

// Stamped tells, without I/O and at once, whether what it says may have changed.
type Stamped interface {
	// Stamp only ever grows, and has grown when what caused another answer returns
	// to its caller.
	Stamp() uint64
}

// Config are the sources of facts. One that is nil says nothing: exceptions,
// statements and lists are then none, attestations not known and nothing was
// ever served, which helps no image; a rule that needs a lineage cannot be
// judged without Lineages.
type Config struct {
	Lineages   Lineages
	Attestors  Attestors
	Exceptions Exceptions
	Exploits   Exploits
	History    History
	// Statements are those of VEX files. If nil, none. UseStatements replaces them.
	Statements *policy.Statements
	// Welcome are facts that are gathered although no rule reads them, because
	// they can help an image: policy.NeedAttestations where VEX statements are
	// accepted from registries. When they cannot be had, or not before the wait
	// ends, a decision is made without them.
	Welcome policy.Needs
}

// Evidence completes the facts of decisions. Safe for concurrent use.
type Evidence struct {
	cfg        Config
	statements atomic.Pointer[policy.Statements]
	exploits   atomic.Pointer[pratique.Exploits] // those seen last
	moves      atomic.Uint64                     // of statements and exploits
}

// New gathers facts from the sources in cfg.
func New(cfg Config) *Evidence {
	e := &Evidence{cfg: cfg}
	e.statements.Store(cfg.Statements)
	return e
}

// UseStatements replaces the statements of VEX files.
func (e *Evidence) UseStatements(s *policy.Statements) {
	e.statements.Store(s)
	// After the store: an answer from before it is then never filed under the stamp
	// from after it.
	e.moves.Add(1)
}

// Complete fills in what needs names, and the exceptions and statements in
// force. Ref, Image, Report and Now must be there already. See proxy.Evidence.
//
// Sources that take their time are asked at once: when one of them is still
// finding out, so are the others.
func (e *Evidence) Complete(ctx context.Context, needs policy.Needs, f *policy.Facts, wait bool) error {
	if e.cfg.Exceptions != nil {
		f.Exceptions = e.cfg.Exceptions.Current()
	}
	f.Statements = e.statements.Load()
	if needs.Has(policy.NeedExploits) {
		f.Exploits = e.current()
	}
	var tasks []func() error
	if needs.Has(policy.NeedServed) && e.cfg.History != nil {
		tasks = append(tasks, func() (err error) {
			f.FirstServed, f.LastServed, err = e.cfg.History.Served(ctx, f.Image.Digest)
			if errors.Is(err, pratique.ErrNotFound) {
				return nil
			}
			return describe("when it was served", err)
		})
	}
	if lineage := needs & (policy.NeedTags | policy.NeedNewer | policy.NeedBase | policy.NeedNames | policy.NeedAdvice); lineage != 0 {
		tasks = append(tasks, func() (err error) {
			f.Lineage, err = e.lineage(ctx, lineage, f, wait)
			return describe("its tags and base", err)
		})
	}
	if (needs | e.cfg.Welcome).Has(policy.NeedAttestations) && e.cfg.Attestors != nil {
		required := needs.Has(policy.NeedAttestations)
		tasks = append(tasks, func() (err error) {
			f.Attestations, err = e.cfg.Attestors.Attestations(ctx, f.Ref, f.Image, wait)
			if err != nil && !required && (wait || !errors.Is(err, pratique.ErrPending)) {
				f.Attestations = pratique.Attestations{} // what would help and is not there does not
				return nil
			}
			return describe("its signatures and attestations", err)
		})
	}
	return all(tasks)
}

func (e *Evidence) lineage(ctx context.Context, needs policy.Needs, f *policy.Facts, wait bool) (pratique.Lineage, error) {
	if e.cfg.Lineages == nil {
		return pratique.Lineage{}, errors.New("nobody here knows them")
	}
	return e.cfg.Lineages.Lineage(ctx, f.Ref, f.Image, needs, wait)
}

// Stamp moves before Complete says something else about any image. It does not
// allocate and asks nobody.
func (e *Evidence) Stamp() uint64 {
	e.current()
	n := e.moves.Load()
	if e.cfg.Lineages != nil {
		n += e.cfg.Lineages.Stamp()
	}
	if e.cfg.Attestors != nil {
		n += e.cfg.Attestors.Stamp()
	}
	if e.cfg.Exceptions != nil {
		n += e.cfg.Exceptions.Stamp()
	}
	return n
}

// current are the lists in use. Whoever sees other ones than were seen last
// counts that before it notes them, so that nobody who sees them too reads the
// count from before.
func (e *Evidence) current() *pratique.Exploits {
	if e.cfg.Exploits == nil {
		return nil
	}
	now := e.cfg.Exploits.Current()
	if now != e.exploits.Load() {
		e.moves.Add(1)
		e.exploits.Store(now)
	}
	return now
}

// all runs the tasks at once and joins their errors.
func all(tasks []func() error) error {
	if len(tasks) == 1 {
		return tasks[0]()
	}
	errs := make([]error, len(tasks))
	var wg sync.WaitGroup
	for i, task := range tasks {
		wg.Go(func() { errs[i] = task() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func describe(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
