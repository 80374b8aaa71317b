// Package sqlite keeps Pratique's state and its queue in one file: the default
// for a single machine, with no service to run.
//
// It owns the schema (migrations/*.sql) and all SQL. A *DB implements every
// contract of package store except blobs, and scheduler.Queue. One process at a
// time has the file open. What a method wrote is on disk when it returns nil:
// the journal is a write-ahead log that is synced at every commit. Nothing here
// judges, scans or interprets what it stores.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // registers the driver

	"pratique"
	"pratique/internal/packed"
	"pratique/scheduler"
	"pratique/store"
)

// DB is an open state file. It is safe for concurrent use.
type DB struct {
	// writes has one connection: SQLite has one writer, and waiting in Go costs
	// less than its busy handler. reads never waits for it (write-ahead log).
	writes, reads *sql.DB
	lock          *os.File
	path          string
	codec

	// commit ends every write: (*sql.Tx).Commit. Tests make it fail, done or not.
	commit func(*sql.Tx) error

	stmts  sync.Map // query → *sql.Stmt on reads
	stamps *store.Stamps

	store.Alone // its leases: nobody shares the file

	begun  memory
	spoken spoken
	joins  *joins
}

// Open opens the state file at path, makes it (mode 0600, parent directories
// too) when it does not exist, and brings an older schema up to date. It fails
// when another process has the file open, when its schema is newer than this
// program knows, and when it is damaged: a damaged file is never replaced,
// because it holds what cannot be had again.
//
// Leases of jobs are released: who held them is dead.
func Open(ctx context.Context, path string) (*DB, error) { return open(ctx, path, false) }

func open(ctx context.Context, path string, moving bool) (_ *DB, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	if err := whole(path, moving); err != nil {
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err := ensure(ctx, path); err != nil {
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	db := &DB{lock: lock, path: path, stamps: store.NewStamps(), joins: packed.NewMemory[int64, int64](joinsSize), commit: (*sql.Tx).Commit}
	if db.codec, err = newCodec(); err != nil {
		return nil, err
	}
	if db.writes, err = openPool(path, 1); err != nil {
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	if db.reads, err = openPool(path, max(4, 2*runtime.GOMAXPROCS(0))); err != nil {
		return nil, errors.Join(fmt.Errorf("state file %s: %w", path, err), db.writes.Close())
	}
	if err := db.prepare(ctx, path); err != nil {
		return nil, errors.Join(fmt.Errorf("state file %s: %w", path, err), db.writes.Close(), db.reads.Close())
	}
	return db, nil
}

// Close waits for running statements and closes the file.
func (db *DB) Close() error {
	return errors.Join(db.reads.Close(), db.writes.Close(), db.lock.Close())
}

func (db *DB) prepare(ctx context.Context, path string) error {
	if err := check(ctx, db.writes, path); err != nil {
		return err
	}
	if err := migrate(ctx, db.writes); err != nil {
		return err
	}
	return db.write(ctx, func(tx *sql.Tx) error { return releaseLeases(ctx, tx) })
}

// lockFile takes the lock that makes this process the file's only user. The
// kernel drops it with the process, however that ends.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state file: %s is locked: another process has it open", path)
		}
		return nil, fmt.Errorf("state file: lock %s: %w", path, err)
	}
	return f, nil
}

// ensure makes the file when there is none: under another name, renamed when
// its schema is in. So a state file that is empty or half made is never ours
// in the making; it is damage, and check says so.
func ensure(ctx context.Context, path string) error {
	switch _, err := os.Stat(path); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := os.Stat(path + "-wal"); err == nil {
		// SQLite would replay this journal into the new file.
		return fmt.Errorf("is missing, but its journal %s-wal exists: put the file back, or remove the journal to start with an empty state", path)
	}
	fresh := path + ".new"
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(fresh + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	pool, err := openPool(fresh, 1)
	if err != nil {
		return err
	}
	if err := errors.Join(migrate(ctx, pool), pool.Close()); err != nil { // the last Close checkpoints and syncs
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func openPool(path string, conns int) (*sql.DB, error) {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(10000)",
		"journal_mode(WAL)",
		"synchronous(FULL)", // a commit is on disk when it returns
		"foreign_keys(1)",
		"cache_size(-8192)", // KiB; no memory map: a read error there is a signal, not an error
	}}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	pool, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	return pool, nil
}

// write runs fn in a transaction that holds the write lock from its start. It
// is durable when write returns nil. For want of disk space it fails with
// syscall.ENOSPC.
func (db *DB) write(ctx context.Context, fn func(tx *sql.Tx) error) error {
	tx, err := db.writes.BeginTx(ctx, nil)
	if err != nil {
		return full(err)
	}
	defer func() { _ = tx.Rollback() }() // no-op after Commit
	if err := fn(tx); err != nil {
		return full(err)
	}
	return full(db.commit(tx))
}

// row runs a prepared query of one row outside of any transaction. No row is
// pratique.ErrNotFound.
func (db *DB) row(ctx context.Context, query string, args []any, dest ...any) error {
	st, err := db.stmt(ctx, query) //nolint:sqlclosecheck // kept until Close, see stmt
	if err != nil {
		return err
	}
	return found(st.QueryRowContext(ctx, args...).Scan(dest...))
}

// rows runs a prepared query and calls each for every row, while the rows are open.
func (db *DB) rows(ctx context.Context, query string, args []any, each func(scan func(...any) error) error) error {
	st, err := db.stmt(ctx, query) //nolint:sqlclosecheck // kept until Close, see stmt
	if err != nil {
		return err
	}
	rs, err := st.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer rs.Close()
	for rs.Next() {
		if err := each(rs.Scan); err != nil {
			return err
		}
	}
	return rs.Err()
}

// stmt keeps one prepared statement per query: parsing costs as much as a small
// read. The queries are constants of this package, so the map is bounded.
func (db *DB) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if st, ok := db.stmts.Load(query); ok {
		return st.(*sql.Stmt), nil
	}
	st, err := db.reads.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if other, loaded := db.stmts.LoadOrStore(query, st); loaded {
		return other.(*sql.Stmt), st.Close() //nolint:sqlclosecheck // somebody was faster
	}
	return st, nil
}

func found(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return pratique.ErrNotFound
	}
	return err
}

// nanos and at map times to the schema's integers and back; the zero time is 0.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func at(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// repository returns the id of a repository, making it on first use.
func repository(ctx context.Context, tx *sql.Tx, ref pratique.Ref) (int64, error) {
	return intern(ctx, tx,
		`SELECT id FROM repositories WHERE registry = ? AND name = ?`,
		`INSERT INTO repositories (registry, name) VALUES (?, ?)`, ref.Registry, ref.Repo)
}

// intern returns the id of the row that sel finds, or of the one that ins makes.
func intern(ctx context.Context, tx *sql.Tx, sel, ins string, args ...any) (int64, error) {
	var id int64
	err := tx.QueryRowContext(ctx, sel, args...).Scan(&id)
	if err == nil || !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	res, err := tx.ExecContext(ctx, ins, args...)
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

func pragma(ctx context.Context, pool *sql.DB, name string) (string, error) {
	var v string
	err := pool.QueryRowContext(ctx, "PRAGMA "+name).Scan(&v)
	return v, err
}

func pragmaInt(ctx context.Context, pool *sql.DB, name string) (int, error) {
	v, err := pragma(ctx, pool, name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(v)
}

// Every contract of state, one value.
var (
	_ store.State       = (*DB)(nil)
	_ scheduler.Queue   = (*DB)(nil)
	_ scheduler.Jobs    = (*DB)(nil)
	_ scheduler.Pauses  = (*DB)(nil)
	_ scheduler.Runs    = (*DB)(nil)
	_ scheduler.Catalog = (*DB)(nil)
)
