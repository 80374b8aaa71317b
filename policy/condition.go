package policy

import (
	"reflect"
	"time"

	"pratique"
	"pratique/internal/strictyaml"
)

// truth is what is known of a question about an image. The zero value helps
// nobody: a rule that refuses or warns applies where the answer is unknown, one
// that lets through does not.
type truth int8

const (
	unknown truth = iota
	no
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// and is no when one of both is, and yes when both are.
func (t truth) and(o truth) truth {
	switch {
	case t == no || o == no:
		return no
	case t == yes && o == yes:
		return yes
	}
	return unknown
}

func (t truth) not() truth {
	switch t {
	case yes:
		return no
	case no:
		return yes
	default:
		return unknown
	}
}

func (t truth) String() string {
	switch t {
	case yes:
		return "yes"
	case no:
		return "no"
	default:
		return "unknown"
	}
}

// condition is what a rule asks of an image. It is compiled once and safe for
// concurrent use; it never changes.
type condition interface {
	// meets tells whether the image meets the condition. It is pure and changes
	// nothing that it is given.
	meets(e *evaluation) match
	// text words a match for a rule that has no message: one line, in which
	// whatever an image or an upstream wrote went through oneLine. It is asked only
	// of a match that is not no.
	text(e *evaluation, m *match) string
	// facts says in words what the condition reads of this image and what it found
	// there, for an explanation: "first seen 2026-10-01, created unknown". One line,
	// met or not.
	facts(e *evaluation) string
	// needs are the facts that it reads and that are gathered only when asked for.
	needs() Needs
}

// match is a condition's answer.
type match struct {
	met truth
	// findings that meet the condition, worst first. Those of which it is not known
	// whether they do are among them. They may share memory and are not to be changed.
	findings []pratique.Finding
	// missing names the facts that are not known, where met or some of findings
	// depend on them: "whether it is signed".
	missing string
	// changes is the next moment, after now, at which time alone changes anything
	// of this answer; zero = never. It is set as well when the condition is not met.
	changes time.Time
	// since is when the condition began to hold, for the grace of conditions that
	// are not about findings; zero = not known, which grants none.
	since time.Time
	// mark tells apart findings that are as many (see markOf); 0 when their number
	// and the report say which they are.
	mark uint64
}

// conditionDocument is a condition as it is written in a file: the type of a
// field of ruleDocument.
type conditionDocument interface {
	// compile makes the condition; mistakes go to c.fail, at the places of their keys.
	compile(c *compiler, at place) condition
}

// kind is the YAML key of a condition.
type kind string

// written is a condition that a rule has.
type written struct {
	kind     kind
	document conditionDocument
}

// conditions lists the conditions that are there, and the keys of all.
func (d *ruleDocument) conditions() (there []written, keys []string) {
	v := reflect.ValueOf(d).Elem()
	for _, f := range strictyaml.Fields(v.Type()) {
		field := v.Field(f.Index)
		if !field.Type().Implements(reflect.TypeFor[conditionDocument]()) {
			continue
		}
		keys = append(keys, f.Name)
		if !field.IsNil() {
			there = append(there, written{kind(f.Name), field.Interface().(conditionDocument)})
		}
	}
	return there, keys
}

// place is where something is written: its path of keys and its position.
type place struct {
	path string
	pos  strictyaml.Pos
}

// evaluation is one decision: the facts and what was made of them once, for all
// rules.
type evaluation struct {
	facts *Facts
	now   time.Time
	state pratique.State
	// tally has the findings of a report about this image; what was lifted from
	// every rule does not count there.
	tally    tally
	counting []pratique.Finding // see counted
	lifted   []liftedFinding
	unlifted *evaluation // see before
	exempted []exemption
	lifts    []pratique.Lift
	asked    match // of the rule that is judged; here, so that it is not allocated for each
	until    time.Time
	mark     uint64 // of the findings in the reasons
}

// newEvaluation gathers what all rules share. What exceptions and statements
// lift is not among the findings that count.
func newEvaluation(f *Facts) *evaluation {
	e := &evaluation{facts: f, now: f.Now, state: f.state()}
	var skip []bool
	skip, e.lifted = e.liftFindings(f.findings())
	e.tally = newTally(f.findings(), skip)
	return e
}

// before is the same evaluation without anything lifted; nil when nothing is.
func (e *evaluation) before() *evaluation {
	if e.unlifted == nil && len(e.lifted) > 0 {
		e.unlifted = &evaluation{facts: e.facts, now: e.now, state: e.state}
		e.unlifted.tally = newTally(e.facts.findings(), nil)
	}
	return e.unlifted
}

// next notes a moment at which time alone may change the verdict; what is past,
// or zero, is ignored.
func (e *evaluation) next(at time.Time) {
	if at.After(e.now) && (e.until.IsZero() || at.Before(e.until)) {
		e.until = at
	}
}

// earliest is the earlier of two moments, of which zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
