package scanner

import (
	"context"
	"io"
	"time"

	"pratique"
)

// Layers opens content of an image's repository, pulling it through when it is
// not cached. Implemented by proxy.Cache.
type Layers interface {
	// OpenBlob returns a reader over d's bytes, perhaps still arriving; an early
	// end is an error. priority: the caller waits for it like a pulling client.
	OpenBlob(ctx context.Context, ref pratique.Ref, d pratique.Descriptor) (io.ReadCloser, error)
}

// Analyzer turns content into inventories. Implemented by scanner/worker, whose
// child processes link scanner/analyze.
type Analyzer interface {
	// Key names analyzer versions and options: part of every inventory's key.
	Key() string
	// Layer reads one layer to its end. What the layer causes (nonsense, limits,
	// a dead worker) is in the inventory's Problems with the digest verified or a
	// Fatal problem; an error is ours or r's (a failed read) and nothing is kept.
	//
	// An inventory with a Fatal problem must not be stored by the layer's digest:
	// what d claims besides (size, media type) is the manifest's word, and limits
	// and deaths are the moment's, so it would spoil the layer for other images.
	// An inventory with a Fatal problem is not kept either: it can be the fault of
	// d's claims (size, media type), which are one manifest's. A Fatal problem with
	// Source "worker" says that the same bytes may fare better next time.
	Layer(ctx context.Context, d pratique.Descriptor, r io.Reader) (pratique.Inventory, error)
	// Config checks an image config (raw JSON): misconfigurations and secrets in
	// environment and history.
	Config(ctx context.Context, raw []byte, os pratique.OS) (pratique.Inventory, error)
}

// Matcher asks the vulnerability database. Implemented by scanner/match.
type Matcher interface {
	// Match returns, for each component in order, what the database says of it,
	// and the engine that said so, all from one and the same database. No
	// database is an error wrapping ErrNoDatabase; no result is ever partial.
	Match(ctx context.Context, cs []pratique.Component) ([][]pratique.Vulnerability, pratique.Engine, error)
	// Engine is what Match would use now.
	Engine() (pratique.Engine, error)
	// EOL reports whether the OS release is past its end of life now, and when that
	// end is; the zero time when nobody knows.
	EOL(ctx context.Context, os pratique.OS) (past bool, at time.Time)
	// License classifies a license as a package names it: the name to show, the
	// category (see pratique.Finding), and the severity of that.
	License(license string) (name, category string, s pratique.Severity)
}

// ErrNoDatabase is pratique.ErrNoDatabase, which Match's error wraps.
var ErrNoDatabase = pratique.ErrNoDatabase
