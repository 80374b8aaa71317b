package redis

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// TestExceptionsAreTold: every process learns of an exception that another made or
// revoked, also when it has lost the message.
func TestExceptionsAreTold(t *testing.T) {
	if got := partOfDigest(store.ExceptionsKey); got != exceptionsPart {
		t.Fatalf("exceptions are in partition %s, and their version in %s", exceptionsPart, got)
	}
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		var told atomic.Int32
		a, b := w.replica(), w.replica(func(c *Config) {
			c.OnChanged = func(ds []digest.Digest) {
				if ds == nil || slices.Contains(ds, store.ExceptionsKey) {
					told.Add(1)
				}
			}
		})
		write := func(what string, write func() error) {
			t.Helper()
			own, others, n := a.Stamp(store.ExceptionsKey), b.Stamp(store.ExceptionsKey), told.Load()
			must(t, write())
			if a.Stamp(store.ExceptionsKey) == own && what != "without a message" {
				t.Errorf("%s: who wrote it is not told", what)
			}
			eventually(t, what+": the other is told", func() bool { return b.Stamp(store.ExceptionsKey) != others && told.Load() > n })
		}
		e := pratique.Exception{ID: "ex-1", Finding: "CVE-1", Repository: "lab/*", Reason: "r", Author: "a", Created: noon, Expires: noon.Add(time.Hour)}
		write("created", func() error { return a.CreateException(t.Context(), e) })
		write("revoked", func() error {
			_, err := a.RevokeException(t.Context(), e.ID, "b", "over", noon)
			return err
		})
		// The message is lost: the version tells.
		write("without a message", func() error {
			e.ID = "ex-2"
			doc, err := a.Encode(e)
			must(t, err)
			return scriptCreateException.Run(t.Context(), a.rdb, []string{a.exceptionsKey(), a.key(exceptionsPart, "version")},
				a.channel("nobody listens here"), string(exceptionsPart), string(store.ExceptionsKey), e.ID, doc).Err()
		})
	})
}
