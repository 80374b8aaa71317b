package sqlite_test

import (
	"testing"

	"pratique/store/storetest"
)

func TestShelf(t *testing.T) { storetest.Shelf(t, fresh) }
func TestFence(t *testing.T) { storetest.Fence(t, fresh) }
