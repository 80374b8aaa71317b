package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"pratique"
	"pratique/internal/config"
	"pratique/internal/redis"
	"pratique/scheduler"
	"pratique/store"
)

func rebuildCommand() command {
	return command{
		name:  "rebuild",
		short: "make a lost state in Redis anew from the object store",
		long: `
For replicas whose Redis was lost or emptied while the object store was kept. Reads
every link of a manifest to a repository from there, holds the manifest's bytes
against its digest, links it anew, and opens a scan of every image that has no
report and whose bytes are all kept: the replicas decide again without asking an
upstream for them. Takes the configuration of ` + "`pratique serve`" + `.

Stop the replicas first: it does not begin while one uses the state, and not with a
state that holds something already. With --merge it does both, and adds what is
missing. It may be interrupted and run again: then it goes on. A link whose manifest
is missing or damaged is listed and left out; the next pull fetches it.

What cannot be made anew is named at the end; docs/operate.md tells more. The state
in SQLite is one file and has its own backup: it cannot be made anew from blobs.

Exit code: 0 all links are there, 1 some were left out, or an error.`,
		example: []string{"pratique rebuild --config /etc/pratique/pratique.yaml", "pratique rebuild --config /etc/pratique/pratique.yaml --merge"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			file := fs.String("config", "", "configuration `file`; without it, the built-in one")
			sets := setFlag(fs)
			merge := fs.Bool("merge", false, "add to a state that is in use, or holds something")
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("rebuild", args); err != nil {
					return err
				}
				cfg, err := config.Load(*file, c.environ, *sets)
				if err != nil {
					return err
				}
				return rebuild(ctx, c, cfg, *merge)
			}
		},
	}
}

func rebuild(ctx context.Context, c *console, cfg config.Config, merge bool) (err error) {
	if cfg.State.Redis.URL == "" {
		return errors.New("the state is in SQLite, which keeps in one file what cannot be made anew from blobs: restore its backup, or start without it")
	}
	// Beside a replica of this machine: its spool and its hot cache are its own.
	spool, err := os.MkdirTemp("", "pratique-rebuild-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(spool)) }()
	log := slog.New(slog.DiscardHandler) // what fails is returned
	storage := blobsConfig(cfg, log, nil)
	storage.Spool, storage.Hot = filepath.Join(spool, "spool"), store.HotConfig{}
	blobs, err := store.OpenBlobs(ctx, storage)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blobs.Close()) }()
	redisCfg, err := redisConfig(cfg, blobs, log, nil)
	if err != nil {
		return err
	}
	db, err := redis.Open(ctx, redisCfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }() //nolint:contextcheck // it says good-bye in a time of its own
	if others, err := db.Others(ctx); err != nil {
		return err
	} else if others > 0 && !merge {
		return fmt.Errorf("%d processes use the state: stop them first, or add to what they have (--merge)", others)
	}
	said := &rebuildProgress{w: c.err, next: time.Now().Add(rebuildEvery)}
	done, err := store.Rebuild(ctx, db, blobs, store.RebuildConfig{
		Push: func(ctx context.Context, ref pratique.Ref) error {
			return db.Push(ctx, ref, scheduler.PrioritySchedule, time.Now())
		},
		Merge: merge, Progress: said.tell,
	})
	if errors.Is(err, store.ErrNotEmpty) {
		return fmt.Errorf("%w: add what is missing (--merge), or empty it first", err)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s; run it again: it goes on where it was", err, rebuiltSoFar(done))
	}
	return printRebuilt(c, done)
}

// rebuildEvery is how often something is told of how far it is.
const rebuildEvery = 10 * time.Second

type rebuildProgress struct {
	w    io.Writer
	next time.Time
}

func (p *rebuildProgress) tell(done store.Rebuilt) {
	if now := time.Now(); now.After(p.next) {
		p.next = now.Add(rebuildEvery)
		_, _ = fmt.Fprintln(p.w, rebuiltSoFar(done))
	}
}

func rebuiltSoFar(done store.Rebuilt) string {
	return fmt.Sprintf("%d links made, %d were there, %d left out, %d scans opened", done.Linked, done.Present, len(done.Left), done.Scans)
}

// notRebuilt is what is gone with Redis. docs/operate.md has the whole list.
const notRebuilt = `Not made anew, because it was in Redis alone: exceptions that were made by command
(those of files are read again), pulls and refusals that people may ask about, when
an image was first served and a finding first seen (no image has a grace), what tags
named before, events that were not sent, paused jobs. See docs/operate.md.`

func printRebuilt(c *console, done store.Rebuilt) error {
	for _, f := range done.Left {
		what := f.Name
		if f.Known.Ref.Digest != "" {
			what = f.Known.Ref.String()
		}
		if _, err := fmt.Fprintf(c.out, "left out  %s: %v\n", what, f.Err); err != nil {
			return err
		}
	}
	facts := [][2]string{
		{"links", fmt.Sprintf("%d made, %d were there, %d left out", done.Linked, done.Present, len(done.Left))},
		{"scans", fmt.Sprintf("%d opened; %d images wait for a pull, which fetches what is not kept", done.Scans, done.Cold)},
	}
	if err := printFacts(c.out, width(c), facts); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c.err, notRebuilt); err != nil {
		return err
	}
	if n := len(done.Left); n > 0 {
		return &exitCode{exitError, fmt.Errorf("%d links were left out", n)}
	}
	return nil
}
