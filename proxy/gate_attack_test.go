package proxy

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"pratique"
	"pratique/policy"
)

// TestEvidenceOfOthersHoldsNobodyUp: a registry that does not tell who signed an
// image refuses those that have to be signed, and no others.
func TestEvidenceOfOthersHoldsNobodyUp(t *testing.T) {
	for name, failure := range map[string]error{
		"fails":   errors.New("referrers: 500"),
		"pending": pratique.ErrPending,
	} {
		w := newWorld(t)
		w.clean(w.image(t, app, "1", "a"))
		const acme = "docker.io/acme/app"
		w.clean(w.image(t, acme, "1", "b"))
		w.policies = rules(t, `{name: signed, match: {repository: [acme/**]}, signature: {by: [key]}, action: deny}`)
		e := &memEvidence{}
		e.say(func(ctx context.Context, needs policy.Needs, _ *policy.Facts, wait bool) error {
			switch {
			case !needs.Has(policy.NeedAttestations):
				return nil
			case wait && errors.Is(failure, pratique.ErrPending):
				t.Errorf("%s: waited for", name)
			}
			return failure
		})
		g := w.gate(GateConfig{Evidence: e})
		for range 2 {
			if _, err := g.Manifest(t.Context(), get(app, "1")); err != nil {
				t.Errorf("%s: an image that nobody wants signed: %v", name, err)
			}
			if _, err := g.Blob(t.Context(), get(app, string(layerOf("a")))); err != nil {
				t.Errorf("%s: its layer: %v", name, err)
			}
		}
		var refusal *Error
		if _, err := g.Manifest(t.Context(), head(acme, "1")); !errors.As(err, &refusal) || refusal.Status() == http.StatusOK {
			t.Errorf("%s: one that has to be: %v", name, err)
		}
	}
}
