// Package storetest is the conformance suite of the contracts in package store:
// one function per contract, run by the tests of every implementation. What a
// suite does not check is not promised.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// Fresh makes an empty store for one test. What it returns opens that store;
// when called again, it closes it first, so that everything in memory is lost.
// The store is cleaned up by t.
type Fresh[T any] func(t *testing.T) (open func() T)

// clock is where the suites' time begins. Implementations keep nanoseconds.
var clock = time.Date(2026, 11, 23, 10, 0, 0, 123456789, time.UTC)

func sum(s string) digest.Digest { return digest.FromString(s) }

func mustBe(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantNotFound(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("%s: error %v, want one wrapping pratique.ErrNotFound", what, err)
	}
}

func same[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// concurrently runs f n times at once and fails the test on the first error.
func concurrently(t *testing.T, n int, f func(ctx context.Context, i int) error) {
	t.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() {
			defer func() {
				if p := recover(); p != nil {
					errs <- fmt.Errorf("panic: %v", p)
				}
			}()
			errs <- f(t.Context(), i)
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
