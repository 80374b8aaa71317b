package store

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// WantedDatabase is the database of one kind that all replicas are to use.
type WantedDatabase struct {
	// Database is the digest of its content.
	Database digest.Digest
	// Version counts up. It is never 0.
	Version int64
	// Doc is what else there is to know of it; the state does not read it.
	Doc []byte
}

// VulnerabilityDatabase is the kind whose databases engines are of.
const VulnerabilityDatabase = "vulnerability"

// Shelf is where replicas agree on which databases they use.
//
// What is wanted of VulnerabilityDatabase is a fence for Fleet and Components too:
// from then on no engine with another database is begun, neither by Begin nor by
// PutMatches, and the error wraps ErrSuperseded; only Begin of the engine that is
// the latest begun goes on to be nothing. So a replica that did not hear of it, or
// was stopped and wakes up, never makes the database that it has the one in use
// again. While none is wanted there is no such fence.
type Shelf interface {
	// WantedDatabase returns what is wanted of a kind; nothing yet is ErrNotFound.
	WantedDatabase(ctx context.Context, kind string) (WantedDatabase, error)
	// PutWantedDatabase replaces what is wanted if its Version is before (0: nothing
	// is wanted yet), else the error wraps ErrSuperseded and nothing changes. next's
	// Version is to be greater than before. It is durable when it returns nil; after
	// another error it may or may not have happened.
	PutWantedDatabase(ctx context.Context, kind string, before int64, next WantedDatabase) error
}
