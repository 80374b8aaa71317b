package sqlite

import (
	"context"
	"database/sql"
)

// prepared are a transaction's statements, each parsed once: for those that run by
// the thousand. They end with the transaction.
type prepared struct {
	*sql.Tx
	stmts map[string]*sql.Stmt
}

func prepare(tx *sql.Tx) *prepared { return &prepared{tx, make(map[string]*sql.Stmt)} }

func (p *prepared) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if st := p.stmts[query]; st != nil {
		return st, nil
	}
	st, err := p.PrepareContext(ctx, query) // the transaction closes it
	if err == nil {
		p.stmts[query] = st
	}
	return st, err
}

func (p *prepared) exec(ctx context.Context, query string, args ...any) error {
	st, err := p.stmt(ctx, query) //nolint:sqlclosecheck // as above
	if err != nil {
		return err
	}
	_, err = st.ExecContext(ctx, args...)
	return err
}

// row reads one row into dest; none is pratique.ErrNotFound.
func (p *prepared) row(ctx context.Context, query string, args []any, dest ...any) error {
	st, err := p.stmt(ctx, query) //nolint:sqlclosecheck // as above
	if err != nil {
		return err
	}
	return found(st.QueryRowContext(ctx, args...).Scan(dest...))
}
