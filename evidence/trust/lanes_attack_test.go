package trust_test

import (
	"context"
	"crypto/elliptic"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pratique"
	"pratique/evidence"
	"pratique/evidence/trust"
)

// stuck is a registry one upstream of which never answers.
type stuck struct {
	*shelf
	upstream string
}

func (s stuck) Referrers(ctx context.Context, ref pratique.Ref) ([]pratique.Descriptor, error) {
	if ref.Registry == s.upstream {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return s.shelf.Referrers(ctx, ref)
}

var _ evidence.Registry = stuck{}

// TestAnUpstreamThatHangsHoldsUpItsOwn: however many of its images are asked for,
// those of another upstream are looked at; the same image too, once the lookup
// that was joined has failed.
func TestAnUpstreamThatHangsHoldsUpItsOwn(t *testing.T) {
	s := newShelf()
	hanging := pratique.Ref{Registry: "slow.example", Repo: "library/app"}
	var slow []pratique.Ref
	for i := range 20 {
		slow = append(slow, s.image(t, hanging, fmt.Sprint("slow ", i)))
	}
	image, both := s.image(t, app, "app"), s.image(t, app, "slow 0")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		tr, err := trust.New(stuck{s, hanging.Registry}, newMemory(), trust.Config{Identities: map[string]trust.Identity{"k": {Key: publicPEM(ecdsaKey(elliptic.P256()))}}})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- tr.Run(ctx) }()
		ask := func(ref pratique.Ref, wait time.Duration) error {
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			_, err := tr.Attestations(ctx, ref, pratique.Image{Digest: ref.Digest}, true)
			return err
		}
		for _, ref := range slow {
			go func() { _ = ask(ref, 25*time.Second) }()
		}
		synctest.Wait()
		if err := ask(image, 25*time.Second); err != nil {
			t.Errorf("an image of another upstream: %v", err)
		}
		time.Sleep(61 * time.Second) // its lookups have failed
		if err := ask(both, 25*time.Second); err != nil {
			t.Errorf("an image that both have: %v", err)
		}
		cancel()
		<-ended
	})
}
