package scheduler

import (
	"context"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Delta is what a database says otherwise than another, as what concerns
// components.
type Delta struct {
	// All says that it is not known, or too much: everything is matched again. The
	// others are empty then.
	All bool
	// Keys are those of pratique.Component.Keys: of packages whose advisories differ,
	// and of types that differ as a whole.
	Keys []string
	// Vulnerabilities are the ids whose records differ (severity, title, scores).
	Vulnerabilities []string
}

// Differ compares vulnerability databases. Implemented by scanner/database.
type Differ interface {
	// Diff returns what to says otherwise than from. Databases that it does not know
	// any more are Delta.All, never an empty Delta.
	Diff(ctx context.Context, from, to digest.Digest) (Delta, error)
}

// Matching matches components again. Implemented by scanner.Scanner.
type Matching interface {
	// Engine is what Match would use now; pratique.ErrNoDatabase when there is none.
	Engine() (pratique.Engine, error)
	// Match asks the database in use about components, keeps what it said, and
	// returns those of which it said something else than what stood, with the engine
	// that said so. An error wrapping store.ErrSuperseded means that the database
	// was swapped meanwhile: nothing is lost, ask again.
	Match(ctx context.Context, cs []pratique.Component) (changed []pratique.ComponentID, e pratique.Engine, err error)
	// Clock returns the keys of what time alone has moved since a time: types of
	// which a release passed a date at which other advisories apply.
	Clock(since, now time.Time) []string
}

// Fleet is the part of store.Fleet that a rescan needs.
type Fleet interface { //nolint:interfacebloat // one contract, with one implementation per backend
	Begin(ctx context.Context, e pratique.Engine) error
	Current(ctx context.Context) (pratique.Engine, time.Time, error)
	Advance(ctx context.Context, e pratique.Engine, at time.Time) error
	ComponentsByKey(ctx context.Context, keys []string) iter.Seq2[pratique.Component, error]
	ComponentsByVulnerability(ctx context.Context, ids []string) iter.Seq2[pratique.Component, error]
	AllComponents(ctx context.Context) iter.Seq2[pratique.Component, error]
	Strays(ctx context.Context, e pratique.Engine) iter.Seq2[pratique.Component, error]
	ImagesWith(ctx context.Context, ids []pratique.ComponentID) ([]digest.Digest, error)
}
