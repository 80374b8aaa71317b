package sqlite_test

import (
	"testing"

	"pratique/store/storetest"
)

func TestPushes(t *testing.T) { storetest.Pushes(t, fresh) }
