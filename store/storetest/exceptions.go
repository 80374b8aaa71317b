package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"pratique"
	"pratique/store"
)

func exception(id string, created time.Time) pratique.Exception {
	return pratique.Exception{
		ID: id, Finding: "CVE-2026-0001", Package: "pkg:deb/debian/openssl", Repository: "docker.io/library/**",
		Platform: &pratique.Platform{OS: "linux", Architecture: "amd64"},
		Reason:   "not reachable", Author: "ada", Ticket: "SEC-1", Created: created, Expires: created.Add(24 * time.Hour), Source: "api",
	}
}

// Exceptions checks an implementation of store.Exceptions.
func Exceptions[T store.Exceptions](t *testing.T, fresh Fresh[T]) {
	t.Run("Create", func(t *testing.T) {
		open := fresh(t)
		s, ctx := open(), t.Context()
		got, err := s.Exceptions(ctx)
		mustBe(t, err)
		same(t, "Exceptions before any", got, nil)

		old, b, a := exception("z", clock.Add(-time.Hour)), exception("b", clock), exception("a", clock)
		b.Finding, b.Package, b.Rule, b.Platform = "", "", "default/latest", nil
		for _, e := range []pratique.Exception{b, old, a} {
			mustBe(t, s.CreateException(ctx, e))
		}
		other := exception("a", clock.Add(time.Hour))
		other.Reason = "another one"
		if err := s.CreateException(ctx, other); !errors.Is(err, store.ErrExists) {
			t.Errorf("a taken id: %v, want one wrapping ErrExists", err)
		}
		s = open()
		got, err = s.Exceptions(ctx)
		mustBe(t, err)
		same(t, "Exceptions, by Created, then ID, the taken one as it was", got, []pratique.Exception{old, a, b})
	})
	t.Run("Revoke", func(t *testing.T) {
		open := fresh(t)
		s, ctx := open(), t.Context()
		_, err := s.RevokeException(ctx, "a", "bob", "why", clock)
		wantNotFound(t, "RevokeException before CreateException", err)
		e := exception("a", clock)
		mustBe(t, s.CreateException(ctx, e))
		mustBe(t, s.CreateException(ctx, exception("b", clock)))
		e.Revoked, e.RevokedBy, e.RevokedWhy = clock.Add(time.Hour), "bob", "fixed"
		got, err := s.RevokeException(ctx, "a", "bob", "fixed", clock.Add(time.Hour))
		mustBe(t, err)
		same(t, "RevokeException", got, e)
		s = open()
		got, err = s.RevokeException(ctx, "a", "eve", "again", clock.Add(2*time.Hour))
		mustBe(t, err)
		same(t, "revoked twice: the first stays", got, e)
		if err := s.CreateException(ctx, exception("a", clock)); !errors.Is(err, store.ErrExists) {
			t.Errorf("the id of a revoked one: %v, want one wrapping ErrExists", err)
		}
		all, err := s.Exceptions(ctx)
		mustBe(t, err)
		same(t, "Exceptions", all, []pratique.Exception{e, exception("b", clock)})
	})
	t.Run("Concurrent", func(t *testing.T) {
		s, ctx := fresh(t)(), t.Context()
		const n = 16
		created := make([]bool, n)
		concurrently(t, n, func(ctx context.Context, i int) error { // pairs want one id
			e := exception(fmt.Sprint("ex", i/2), clock)
			e.Author = fmt.Sprint(i)
			err := s.CreateException(ctx, e)
			created[i] = err == nil
			if errors.Is(err, store.ErrExists) {
				err = nil
			}
			return err
		})
		all, err := s.Exceptions(ctx)
		mustBe(t, err)
		if len(all) != n/2 {
			t.Errorf("%d exceptions, want %d", len(all), n/2)
		}
		for i := 0; i < n; i += 2 {
			if created[i] == created[i+1] {
				t.Errorf("both or none of two with one id were created: %v", created[i])
			}
		}
		revoked := make([]pratique.Exception, n)
		concurrently(t, n, func(ctx context.Context, i int) error {
			var err error
			revoked[i], err = s.RevokeException(ctx, "ex0", fmt.Sprint(i), "why", clock.Add(time.Duration(i+1)*time.Hour))
			return err
		})
		for _, r := range revoked {
			same(t, "one revocation, whoever was first", r, revoked[0])
		}
	})
	t.Run("Ended", func(t *testing.T) {
		s := fresh(t)()
		mustBe(t, s.CreateException(t.Context(), exception("a", clock)))
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if got, err := s.Exceptions(ended); err == nil {
			t.Errorf("Exceptions with an ended context = %v: an error must not look like none", got)
		}
	})
}

// Attestations checks an implementation of store.Attestations.
func Attestations[T store.Attestations](t *testing.T, fresh Fresh[T]) {
	open := fresh(t)
	s, ctx := open(), t.Context()
	_, err := s.Attestations(ctx, sum("a"))
	wantNotFound(t, "Attestations before PutAttestations", err)
	a := pratique.Attestations{
		Image: sum("a"), CheckedAt: clock, Trust: "t1",
		Signatures: []pratique.Signature{{By: "release", Kind: "cosign", Digest: sum("sig"), At: clock}},
		Provenance: []pratique.Provenance{{By: "ci", Type: "https://slsa.dev/provenance/v1", Builder: "b", Digest: sum("prov")}},
		Statements: []pratique.Statement{{Document: "d", Source: "referrer:x", IDs: []string{"CVE-1"}, Status: "not_affected", Products: []pratique.Product{{ID: "pkg:oci/x", Components: []string{"pkg:deb/debian/x"}}}, Image: sum("a")}},
		Problems:   []string{"one did not verify"},
	}
	mustBe(t, s.PutAttestations(ctx, a))
	none := pratique.Attestations{Image: sum("b"), CheckedAt: clock}
	mustBe(t, s.PutAttestations(ctx, none))
	s = open()
	got, err := s.Attestations(ctx, sum("a"))
	mustBe(t, err)
	same(t, "Attestations after reopening", got, a)
	got, err = s.Attestations(ctx, sum("b"))
	mustBe(t, err)
	same(t, "checked, and nothing found", got, none)
	less := pratique.Attestations{Image: sum("a"), CheckedAt: clock.Add(time.Hour), Trust: "t2"}
	mustBe(t, s.PutAttestations(ctx, less))
	got, err = s.Attestations(ctx, sum("a"))
	mustBe(t, err)
	same(t, "replaced as a whole", got, less)
	_, err = s.Attestations(ctx, sum("c"))
	wantNotFound(t, "another image's", err)
	if stamper, ok := any(s).(store.Stamper); ok {
		before := stamper.Stamp(sum("a"))
		mustBe(t, s.PutAttestations(ctx, a))
		if stamper.Stamp(sum("a")) == before {
			t.Error("PutAttestations moved no stamp")
		}
	}
}
