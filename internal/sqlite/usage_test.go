package sqlite_test

import (
	"testing"

	"pratique/store/storetest"
)

func TestUsage(t *testing.T) { storetest.Usage(t, fresh) }
