package sqlite

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"pratique"
	"pratique/store"
)

var (
	_ store.MoveSource = (*DB)(nil)
	_ store.MoveTarget = (*DB)(nil)
)

// OpenTarget opens the file that a state is moved to: Open refuses it until that is
// done.
func OpenTarget(ctx context.Context, path string) (*DB, error) { return open(ctx, path, true) }

// moveFile is beside the file as long as a state is moved to it: a store.Move, as
// JSON.
func moveFile(path string) string { return path + ".move" }

func whole(path string, moving bool) error {
	switch _, err := os.Stat(moveFile(path)); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && !moving:
		return errors.New("another state is being moved here: finish it with pratique migrate, or remove it together with its .move file")
	default:
		return err
	}
}

// Move implements store.MoveTarget.
func (db *DB) Move(context.Context) (m store.Move, err error) {
	doc, err := os.ReadFile(moveFile(db.path))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("note of a move: %w", pratique.ErrNotFound)
	}
	if err == nil {
		err = json.Unmarshal(doc, &m)
	}
	return m, annotate(err, "note of a move")
}

// NoteMove implements store.MoveTarget. The note appears whole or not at all; one that
// is older than what was loaded makes some of it be loaded again.
func (db *DB) NoteMove(_ context.Context, m store.Move) error {
	doc, err := json.Marshal(m)
	if err != nil {
		return annotate(err, "note of a move")
	}
	return annotate(replaceFile(moveFile(db.path), doc), "note of a move")
}

func replaceFile(path string, doc []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(doc)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// EndMove implements store.MoveTarget.
func (db *DB) EndMove(context.Context) error {
	err := os.Remove(moveFile(db.path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(db.path))
	}
	return annotate(err, "note of a move")
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// prints are what a write leaves another value of.
func prints() []string {
	return []string{
		`SELECT count(*), coalesce(max(id), 0) FROM images`,
		`SELECT coalesce(max(checked_at), 0), coalesce(sum(checked_at / 1000000000), 0) FROM tags`,
		`SELECT coalesce(max(fetched_at), 0), count(*) FROM tag_lists`,
		`SELECT count(*), coalesce(max(id), 0) FROM inventories`,
		`SELECT coalesce(max(id), 0), coalesce((SELECT max(at) FROM fleet), 0) FROM engines`,
		`SELECT count(*), coalesce(sum(engine), 0) FROM matched`,
		`SELECT count(*), coalesce(sum(scanned_at / 1000000000), 0) FROM reports`,
		`SELECT count(*), coalesce(max(last_at), 0) FROM served`,
		`SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM pulls`,
		`SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM events`,
		`SELECT count(*), coalesce(sum(attempts + settled_at / 1000000000), 0) FROM deliveries`,
		`SELECT count(*), coalesce(sum(length(doc)), 0) FROM exceptions`,
		`SELECT count(*), coalesce(sum(length(doc)), 0) FROM attestations`,
		`SELECT count(*), coalesce(max(at), 0) FROM pushes`,
		`SELECT count(*), coalesce(sum(seq + attempts + dead), 0) FROM jobs`,
		`SELECT count(*), coalesce(sum(ended_at / 1000000000), 0) FROM schedule_runs`,
		`SELECT count(*), coalesce(sum(version), 0) FROM wanted`,
	}
}

// Fingerprint implements store.MoveSource.
func (db *DB) Fingerprint(ctx context.Context) (string, error) {
	h := sha256.New()
	for _, query := range prints() {
		var a, b int64
		if err := db.row(ctx, query, nil, &a, &b); err != nil {
			return "", annotate(err, "fingerprint")
		}
		_, _ = fmt.Fprintln(h, a, b)
	}
	return "sqlite:" + hex.EncodeToString(h.Sum(nil)[:16]), nil
}
