package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pratique"
)

// fleetConcurrent: reports that are read while databases come are those of one moment
// or another, and in the end those of the last.
func fleetConcurrent[T Joined](t *testing.T, open func() T) {
	s := open()
	var cs []pratique.Component
	for i := range 8 {
		cs = append(cs, component(fmt.Sprint("package", i)))
	}
	said := func(n int) matches {
		ms := make(matches)
		for _, c := range cs {
			ms[c.ID()] = []pratique.Vulnerability{cve(fmt.Sprint("CVE-", n), "HIGH")}
		}
		return ms
	}
	mustBe(t, s.Begin(t.Context(), engine(0)))
	const images, updates = 4, 30
	for i := range images {
		scanned(t, s, fmt.Sprint("image", i), engine(0), clock, said(0), cs[i:]...)
	}
	concurrently(t, images+1, func(ctx context.Context, g int) error {
		if g < images {
			for range 4 * updates {
				r, err := s.Report(ctx, sum(fmt.Sprint("image", g)))
				if err != nil {
					return err
				}
				if len(r.Findings) != len(cs)-g {
					return fmt.Errorf("%d findings of %d components", len(r.Findings), len(cs)-g)
				}
			}
			return nil
		}
		for n := 1; n <= updates; n++ {
			if err := s.Begin(ctx, engine(n)); err != nil {
				return err
			}
			if _, err := s.PutMatches(ctx, engine(n), clock.Add(time.Duration(n)*time.Hour), said(n)); err != nil {
				return err
			}
			// Who is told of it finds it, whoever else was reading.
			r, err := s.Report(ctx, sum("image0"))
			if err != nil {
				return err
			}
			if id := r.Findings[0].ID; id != fmt.Sprint("CVE-", n) {
				return fmt.Errorf("%s after update %d", id, n)
			}
			if err := s.Advance(ctx, engine(n), clock.Add(time.Duration(n)*time.Hour)); err != nil {
				return err
			}
		}
		return nil
	})
	before := make([]pratique.Report, images)
	var err error
	for i := range before {
		before[i], err = s.Report(t.Context(), sum(fmt.Sprint("image", i)))
		mustBe(t, err)
	}
	s = open()
	for i := range before {
		r, err := s.Report(t.Context(), sum(fmt.Sprint("image", i)))
		mustBe(t, err)
		same(t, "with nothing in memory", r, before[i])
		same(t, "findings", r.Findings[0].ID, fmt.Sprint("CVE-", updates))
	}
}
