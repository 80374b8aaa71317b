package store

import (
	"context"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Fleet is everything that is known here as one: with which database it is
// current, and who is concerned when a database changes. A component is matched
// again when something changed that concerns it; all others are current with the
// new database because it says nothing else of them (Advance).
//
// Engines are ordered by when they were begun, not by their dates: after a
// rollback the older database is the later engine. Two engines are the same if
// Version, Database and DatabaseAt are; Analyzer is no part of it.
type Fleet interface { //nolint:interfacebloat // one contract, with one implementation per backend
	// Begin says that e is in use from now on. What an engine begun before it says
	// of components is not stored any more. Idempotent while e is the latest.
	Begin(ctx context.Context, e pratique.Engine) error
	// Current returns the engine that everything is current with, and when that was
	// found. Before the first Advance it is ErrNotFound.
	Current(ctx context.Context) (pratique.Engine, time.Time, error)
	// Advance says that what is stored of every component is what e says of it now:
	// reports are e's from then on, matched at that time. Matching every component
	// that e may say something else of comes before. If e is not the latest begun,
	// the error wraps ErrSuperseded and nothing changes. All stamps move.
	Advance(ctx context.Context, e pratique.Engine, at time.Time) error
	// ComponentsByKey yields the components that have one of these keys
	// (pratique.Component.Keys), each once. It holds no lock while the caller's loop
	// body runs. An error ends the sequence.
	ComponentsByKey(ctx context.Context, keys []string) iter.Seq2[pratique.Component, error]
	// ComponentsByVulnerability yields those of which one of these vulnerabilities is
	// known now, each once, in the same way.
	ComponentsByVulnerability(ctx context.Context, ids []string) iter.Seq2[pratique.Component, error]
	// AllComponents yields all, in the same way.
	AllComponents(ctx context.Context) iter.Seq2[pratique.Component, error]
	// Strays yields, in the same way, the components of which what is stored was said
	// by an engine begun after Current and before e, the latest: everything was to
	// become current with it, and never did. Nothing that compares Current with e
	// tells that they have to be matched again. If e is not the latest begun, the
	// error wraps ErrSuperseded.
	Strays(ctx context.Context, e pratique.Engine) iter.Seq2[pratique.Component, error]
	// ImagesWith returns the images that hold one of these components, in order of
	// digest. None is an empty list.
	ImagesWith(ctx context.Context, ids []pratique.ComponentID) ([]digest.Digest, error)
}
