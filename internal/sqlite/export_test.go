package sqlite

import "database/sql"

// FailCommits makes every commit from now on call fail instead, which may commit
// by calling do. A nil fail ends it.
func FailCommits(db *DB, fail func(do func() error) error) {
	if fail == nil {
		db.commit = (*sql.Tx).Commit
		return
	}
	db.commit = func(tx *sql.Tx) error { return fail(tx.Commit) }
}

// ForgetJoins makes the next reports be joined from the file.
func ForgetJoins(db *DB) { db.joins.Reset() }
