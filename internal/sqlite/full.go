package sqlite

import (
	"errors"
	"fmt"
	"syscall"

	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"
)

// full makes the failure of a write for want of space what it is everywhere
// else, syscall.ENOSPC: whoever answers a client need not know SQLite. The
// transaction was rolled back, and reads go on.
func full(err error) error {
	var e *driver.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() {
	// The second is the journal's index, which cannot grow.
	case codes.SQLITE_FULL, codes.SQLITE_IOERR_SHMSIZE:
		return fmt.Errorf("%w: %w", syscall.ENOSPC, err)
	}
	return err
}
