package sqlite_test

import (
	"testing"

	"pratique/store/storetest"
)

func TestDump(t *testing.T) { storetest.Dump(t, fresh, fresh) }
