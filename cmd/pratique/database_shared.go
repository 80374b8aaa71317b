package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"pratique"
	"pratique/internal/rungroup"
	"pratique/scanner/database"
	"pratique/store"
)

// javaKind is the kind of the Java database, as store.Shelf knows it.
const javaKind = "java"

// shelf is what agreeing on a database needs of the state.
type shelf interface {
	store.Shelf
	store.Leases
	Current(ctx context.Context) (pratique.Engine, time.Time, error) // of store.Fleet
}

// sharing makes a database one that all replicas of the state use. blobs are those
// that all of them see, and replica names this one.
func sharing(cfg database.Config, kind string, state shelf, blobs *store.Blobs, replica string) database.Config {
	cfg.Shared = agreement{state: state, kind: kind}
	cfg.Archives = store.NewArchives(blobs, kind)
	cfg.Replica = replica
	return cfg
}

// agreement is database.Shared over the state.
type agreement struct {
	state shelf
	kind  string
}

var _ database.Shared = agreement{}

// Wanted implements database.Shared.
func (a agreement) Wanted(ctx context.Context) (database.Wanted, error) {
	var w database.Wanted
	found, err := a.state.WantedDatabase(ctx, a.kind)
	if err != nil {
		return w, err
	}
	if err := json.Unmarshal(found.Doc, &w); err != nil {
		return w, fmt.Errorf("wanted %s database: %w", a.kind, err)
	}
	if w.Sequence != found.Version || w.Current.Digest != found.Database {
		return w, fmt.Errorf("wanted %s database: %w: it says version %d of %s, and is version %d of %s",
			a.kind, pratique.ErrInvalid, w.Sequence, w.Current.Digest, found.Version, found.Database)
	}
	return w, nil
}

// Want implements database.Shared. What a replica happens to have is not the first
// that all use if reports were made with a newer one: they would go back.
func (a agreement) Want(ctx context.Context, before int64, next database.Wanted) error {
	if before == 0 && a.kind == store.VulnerabilityDatabase && !next.ByOperator() {
		e, _, err := a.state.Current(ctx)
		switch {
		case errors.Is(err, pratique.ErrNotFound):
		case err != nil:
			return err
		case e.DatabaseAt.After(next.Current.UpdatedAt):
			return fmt.Errorf("%w database: reports were made with one of %s", pratique.ErrInvalid, e.DatabaseAt.Format(time.RFC3339))
		}
	}
	doc, err := json.Marshal(next)
	if err != nil {
		return err
	}
	err = a.state.PutWantedDatabase(ctx, a.kind, before, store.WantedDatabase{Database: next.Current.Digest, Version: next.Sequence, Doc: doc})
	switch {
	case errors.Is(err, store.ErrSuperseded):
		return fmt.Errorf("%w: %w", database.ErrOvertaken, err)
	case err != nil:
		return err
	}
	a.tell(ctx)
	return nil
}

// tell gives everybody a word who waits in Told: that of a lease which is given back.
// Who misses it looks every few seconds.
func (a agreement) tell(ctx context.Context) {
	if l, err := a.state.Lease(ctx, a.word(), time.Second); err == nil {
		l.Release()
	}
}

func (a agreement) word() string { return "wanted " + a.kind + " database" }

// Told implements database.Shared.
func (a agreement) Told() (told <-chan struct{}, end func()) { return a.state.Freed(a.word()) }

// databases are what one of all replicas does: asking the sources of both databases,
// and rescanning with what is in use. A replica that is alone leads itself.
func (d duties) databases(vulnerabilities, java *database.Database, rescan func(context.Context) error) []rungroup.Part {
	return []rungroup.Part{
		d.group("database leader",
			rungroup.Part{Name: "database sources", Run: untilStopped(vulnerabilities.Lead)},
			rungroup.Part{Name: "rescans", Run: func(ctx context.Context) error {
				// Before it uses what all others do, everything that it would say is refused.
				if err := vulnerabilities.Await(ctx); err != nil {
					return nil //nolint:nilerr // stopped
				}
				return rescan(ctx)
			}},
		),
		d.part(rungroup.Part{Name: "java database leader", Run: untilStopped(java.Lead)}),
	}
}
