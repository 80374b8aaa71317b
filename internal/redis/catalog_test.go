package redis

import (
	"testing"

	"pratique/scheduler"
	"pratique/store/storetest"
)

var _ scheduler.Catalog = (*DB)(nil)

func TestCatalog(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) { storetest.Catalog(t, fresh(url)) })
}

func TestLinks(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) { storetest.Links(t, fresh(url)) })
}

func TestTags(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) { storetest.Tags(t, fresh(url)) })
}

func TestTagged(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) { storetest.Tagged(t, fresh(url)) })
}

func TestTagMoves(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) { storetest.TagMoves(t, fresh(url)) })
}

func TestLineage(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) { storetest.Lineage(t, fresh(url)) })
}

func TestUsage(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) { storetest.Usage(t, fresh(url)) })
}
