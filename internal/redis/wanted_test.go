package redis

import (
	"testing"

	"pratique/store/storetest"
)

func TestShelf(t *testing.T) {
	modes(t, func(t *testing.T, url string) { storetest.Shelf(t, fresh(url)) })
}
