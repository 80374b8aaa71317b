package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pratique/internal/config"
	"pratique/internal/redis"
	"pratique/internal/sqlite"
	"pratique/store"
)

func migrateCommand() command {
	return command{
		name:  "migrate",
		short: "move the state of one machine to Redis",
		long: `
Brings all that the SQLite file holds (images, tags, reports, when findings were first
seen, exceptions, pulls, events that were not sent, …) to the Redis of --to, or of the
configuration's state.redis, and inventories to the configuration's storage. Then it
compares both sides, record by record. Prefix, user, password and certificates of Redis
come from the configuration. The file stays as it is.

Stop the server that has the file first, and start the replicas when it is done: it
does not begin while a process uses one of the two, nor when the target holds another
state, and no replica opens a state that is not whole. It may be interrupted anywhere
and run again: then it goes on.

--blobs copies layers and manifests too, from the rootdirectory of the storage that the
server had: what is there with the same size is skipped, the rest verified by digest.

Exit code: 0 the state is whole and the same, 1 an error.`,
		example: []string{
			"pratique migrate --config replicas.yaml --from sqlite:/var/lib/pratique/state.db --blobs /var/lib/pratique/blobs",
			"pratique migrate --config replicas.yaml --from sqlite:/var/lib/pratique/state.db --to redis://redis:6379/0",
		},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			file := fs.String("config", "", "configuration `file` of the replicas")
			sets := setFlag(fs)
			from := fs.String("from", "", "state to move, sqlite:`PATH`")
			to := fs.String("to", "", "Redis to move it to, redis:`URL` (default state.redis.url of the configuration)")
			blobs := fs.String("blobs", "", "copy layers and manifests of this `directory` too, such as dataDir/blobs")
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("migrate", args); err != nil {
					return err
				}
				m, err := newMigration(c, *file, *sets, *from, *to, *blobs)
				if err != nil {
					return err
				}
				return m.run(ctx)
			}
		},
	}
}

// migration is one attempt to move a state.
type migration struct {
	console *console
	cfg     config.Config
	from    string // path of the SQLite file
	blobs   string // rootdirectory to copy from; "" = none
	batch   int    // if zero, store.MoveConfig's
	// told, if not nil, is told what was loaded before it is noted: for tests that end
	// the process there.
	told func(store.MoveProgress)
}

func newMigration(c *console, file string, sets []string, from, to, blobs string) (*migration, error) {
	path, ok := strings.CutPrefix(from, "sqlite:")
	if !ok || path == "" {
		return nil, &usageError{"migrate", "migrate needs --from sqlite:PATH"}
	}
	if to != "" {
		address, err := redisAddress(to)
		if err != nil {
			return nil, err
		}
		sets = append(sets, "state.redis.url="+address)
	}
	cfg, err := config.Load(file, c.environ, sets)
	if err != nil {
		return nil, err
	}
	if cfg.State.Redis.URL == "" {
		return nil, &usageError{"migrate", "migrate needs --to redis:URL, or state.redis.url in the configuration"}
	}
	if info, err := os.Stat(path); err != nil {
		return nil, err // opening would make it
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", path)
	}
	if blobs != "" {
		if info, err := os.Stat(filepath.Join(blobs, "blobs")); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("no blobs in %s: --blobs wants what storage.parameters.rootdirectory was, by default dataDir/blobs", blobs)
		}
	}
	return &migration{console: c, cfg: cfg, from: path, blobs: blobs}, nil
}

// redisAddress reads --to: a URL, or one behind "redis:".
func redisAddress(to string) (string, error) {
	address := to
	if rest, ok := strings.CutPrefix(to, "redis:"); ok && !strings.HasPrefix(rest, "//") {
		address = rest
	}
	scheme, _, ok := strings.Cut(address, "://")
	if base, _, _ := strings.Cut(scheme, "+"); !ok || base != "redis" && base != "rediss" {
		return "", &usageError{"migrate", "--to wants redis:URL, such as redis://HOST:6379/0 or redis:rediss+sentinel://HOST:26379/MASTER"}
	}
	if u, err := url.Parse(address); err == nil && u.User != nil {
		return "", &usageError{"migrate", "--to wants an address without user and password, which ps would show: state.redis.username and passwordFile"}
	}
	return address, nil
}

// migrateTimeout bounds one command: some load thousands of records.
const migrateTimeout = 30 * time.Second

func (m *migration) run(ctx context.Context) (err error) {
	closing := func(what interface{ Close() error }) { err = errors.Join(err, what.Close()) }
	log := slog.New(slog.NewTextHandler(m.console.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	from, err := sqlite.Open(ctx, m.from)
	if err != nil {
		return err
	}
	defer func() { closing(from) }()
	spool, err := os.MkdirTemp("", "pratique-migrate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(spool)) }()
	// A spool of its own: one on the disk of the storage is the driver's own.
	storage := blobsConfig(m.cfg, log, nil)
	if storage.Hot = (store.HotConfig{}); storage.Driver != "filesystem" {
		storage.Spool = filepath.Join(spool, "to")
	}
	objects, err := store.OpenBlobs(ctx, storage)
	if err != nil {
		return err
	}
	defer func() { closing(objects) }()
	// Attempts that were killed were replicas that are gone: nobody need know.
	grave := slog.New(slog.NewTextHandler(m.console.err, &slog.HandlerOptions{Level: slog.LevelError}))
	rc, err := redisConfig(m.cfg, objects, grave, nil)
	if err != nil {
		return err
	}
	rc.Moving, rc.Timeout = true, migrateTimeout
	db, err := redis.Open(ctx, rc)
	if err != nil {
		return err
	}
	defer func() { closing(db) }()
	copyBlobs := func(context.Context) error { return nil }
	if m.blobs != "" {
		held, err := store.OpenBlobs(ctx, store.BlobsConfig{Parameters: map[string]any{"rootdirectory": m.blobs}, Log: log})
		if err != nil {
			return err
		}
		defer func() { closing(held) }()
		copyBlobs = func(ctx context.Context) error { return m.copyBlobs(ctx, held, objects) }
	}
	return m.move(ctx, from, &target{DB: db, before: copyBlobs})
}

func (m *migration) move(ctx context.Context, from *sqlite.DB, to *target) error {
	if err := to.alone(ctx); err != nil {
		return err
	}
	p := &migrateProgress{w: m.console.err, next: time.Now().Add(migrateEvery)}
	err := store.MoveState(ctx, from, to, store.MoveConfig{Batch: m.batch, Progress: func(done store.MoveProgress) {
		if m.told != nil {
			m.told(done)
		}
		p.tell(done)
	}})
	switch _, differs := errors.AsType[*store.DifferenceError](err); {
	case err == nil:
		return p.done(m.console.out)
	case differs:
		return fmt.Errorf("%w\nno replica opens it; run it again to load all of it anew", err)
	case errors.Is(err, store.ErrNotEmpty), errors.Is(err, errShared):
		return err
	}
	return fmt.Errorf("%w\nno replica opens it; run it again: it goes on where it was", err)
}

func (m *migration) copyBlobs(ctx context.Context, from, to *store.Blobs) error {
	next := time.Now().Add(migrateEvery)
	say := func(c store.CopiedBlobs) error {
		_, err := fmt.Fprintf(m.console.err, "blobs          %d copied, %s; %d were there\n", c.Blobs, amount(c.Bytes), c.Present)
		return err
	}
	done, err := store.CopyBlobs(ctx, from, to, func(c store.CopiedBlobs) {
		if now := time.Now(); now.After(next) {
			next = now.Add(migrateEvery)
			_ = say(c)
		}
	})
	if err != nil {
		return err
	}
	for _, d := range done.Damaged {
		if _, err := fmt.Fprintf(m.console.err, "blob %s is damaged and was left out: it is fetched anew\n", d); err != nil {
			return err
		}
	}
	return say(done)
}

// errShared says that somebody uses the target.
var errShared = errors.New("other processes use the target: stop them first")

// target is a state in Redis that nobody else uses, as far as can be known.
type target struct {
	*redis.DB
	before func(context.Context) error // what is to be done before the state may be used
	noted  bool
}

func (t *target) alone(ctx context.Context) error {
	others, err := t.Others(ctx)
	if err == nil && others > 0 {
		err = fmt.Errorf("%w (%d)", errShared, others)
	}
	return err
}

// NoteMove looks once more after the first note: who came before it was seen by
// nobody, who comes after it does not open.
func (t *target) NoteMove(ctx context.Context, m store.Move) error {
	if err := t.DB.NoteMove(ctx, m); err != nil || t.noted {
		return err
	}
	t.noted = true
	return t.alone(ctx)
}

func (t *target) EndMove(ctx context.Context) error {
	if err := t.before(ctx); err != nil {
		return err
	}
	return t.DB.EndMove(ctx)
}
