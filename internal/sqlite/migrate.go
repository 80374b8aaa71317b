package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// applicationID marks the file as ours ("PRTQ"), so that another program's
// SQLite file is refused instead of migrated.
const applicationID = 0x50525451

// fullCheckBelow is the size up to which Open reads the whole file to look for
// damage. Above, only header and size are looked at: reading gigabytes would
// hold up every restart, and damage met later is an error, never a wrong answer.
const fullCheckBelow = 64 << 20

//go:embed migrations/*.sql
var migrations embed.FS

// check looks for damage and for files that are not ours, before anything is
// written to the file.
func check(ctx context.Context, pool *sql.DB, path string) error {
	size, err := headerCheck(path)
	if err != nil {
		return err
	}
	if size > fullCheckBelow {
		return nil
	}
	res, err := pragma(ctx, pool, "quick_check(1)")
	if err != nil {
		return damaged(err)
	}
	if res != "ok" {
		return damaged(errors.New(res))
	}
	return nil
}

func damaged(err error) error {
	return fmt.Errorf("is damaged: %w; restore it from a backup, or move it away to start with an empty state", err)
}

// headerCheck reads the header without SQLite, which would begin to change the
// file: is it a database, ours, and as long as it says? Source: SQLite file
// format, "The Database Header".
func headerCheck(path string) (size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, errors.New("is not a file")
	}
	var h [100]byte
	if _, err := io.ReadFull(f, h[:]); err != nil {
		return 0, damaged(fmt.Errorf("%d bytes are no database", st.Size()))
	}
	if string(h[:16]) != "SQLite format 3\x00" {
		return 0, damaged(errors.New("it does not begin as a database does"))
	}
	if binary.BigEndian.Uint32(h[68:72]) != applicationID { // there since the file was made, see ensure
		return 0, errors.New("is an SQLite file, but not Pratique's: choose another path")
	}
	page := int64(binary.BigEndian.Uint16(h[16:18]))
	if page == 1 {
		page = 65536
	}
	// The journal may hold later pages, but never fewer than the header counts:
	// header and pages are written in one checkpoint, the header's page first or
	// last; a checkpoint cut short leaves the journal in place.
	if want := page * int64(binary.BigEndian.Uint32(h[28:32])); st.Size() < want && !journal(path) {
		return 0, damaged(fmt.Errorf("cut short: %d of %d bytes", st.Size(), want))
	}
	return st.Size(), nil
}

func journal(path string) bool {
	st, err := os.Stat(path + "-wal")
	return err == nil && st.Size() > 0
}

// migrate applies every numbered file that the schema has not seen, each in its
// own transaction together with its number: a crash in between leaves an older
// schema that the next start goes on from.
func migrate(ctx context.Context, pool *sql.DB) error {
	have, err := pragmaInt(ctx, pool, "user_version")
	if err != nil {
		return damaged(err)
	}
	files, err := fs.Glob(migrations, "migrations/*.sql") // sorted
	if err != nil {
		return err
	}
	if have > len(files) {
		return fmt.Errorf("has schema %d, this version of Pratique knows up to %d: run the newer version, or restore a backup", have, len(files))
	}
	for i, name := range files {
		version := i + 1
		if n, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_"); n != fmt.Sprintf("%04d", version) {
			return fmt.Errorf("migration %s is not numbered %04d", name, version)
		}
		if version <= have {
			continue
		}
		if err := apply(ctx, pool, name, version); err != nil {
			return fmt.Errorf("migration %s: %w", name, err)
		}
	}
	return nil
}

func apply(ctx context.Context, pool *sql.DB, name string, version int) error {
	script, err := migrations.ReadFile(name)
	if err != nil {
		return err
	}
	tx, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // no-op after Commit
	if _, err := tx.ExecContext(ctx, string(script)); err != nil {
		return err
	}
	if backfill := backfills[version]; backfill != nil {
		if err := backfill(ctx, tx); err != nil {
			return err
		}
	}
	for _, q := range []string{
		"PRAGMA user_version = " + strconv.Itoa(version),
		"PRAGMA application_id = " + strconv.Itoa(applicationID),
	} {
		if _, err := tx.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return tx.Commit()
}
