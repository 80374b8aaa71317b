package sqlite

import (
	"database/sql"
	"strings"
	"testing"
	"time"

	"pratique"
	"pratique/scheduler"
)

// Batched opens n jobs in one transaction.
func Batched(tb testing.TB, db *DB, n int, each func(push func(pratique.Ref, scheduler.Priority) error, i int) error) {
	tb.Helper()
	ctx := tb.Context()
	err := db.write(ctx, func(tx *sql.Tx) error {
		for i := range n {
			if err := each(func(ref pratique.Ref, p scheduler.Priority) error { return push(ctx, tx, ref, p, time.Unix(0, 0)) }, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// Exec runs a statement on the connection that writes.
func Exec(tb testing.TB, db *DB, query string, args ...any) {
	tb.Helper()
	if _, err := db.writes.ExecContext(tb.Context(), query, args...); err != nil {
		tb.Fatal(err)
	}
}

// Plan is how SQLite answers a query.
type Plan struct {
	Query, Text string
	Indexed     bool // no table is read whole, and nothing is sorted
}

// TakePlans are those of what Take asks.
func TakePlans(t *testing.T, db *DB) []Plan {
	t.Helper()
	var out []Plan
	for query, args := range map[string]int{takeableQuery: 2, promoteQuery: 3, nextQuery: 1} {
		all := strings.Join(explain(t, db, query, []any{1, 2, 3}[:args]...), "\n")
		out = append(out, Plan{Query: query, Text: all, Indexed: strings.Contains(all, "jobs_") && !strings.Contains(all, "SCAN jobs") && !strings.Contains(all, "TEMP B-TREE")})
	}
	return out
}

// explain returns the steps of SQLite's plan for a query.
func explain(t *testing.T, db *DB, query string, args ...any) []string {
	t.Helper()
	rows, err := db.writes.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var lines []string
	for rows.Next() {
		var id, parent, unused int
		var text string
		if err := rows.Scan(&id, &parent, &unused, &text); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, text)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}
