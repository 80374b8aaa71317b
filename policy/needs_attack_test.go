package policy

import (
	"math/rand/v2"
	"testing"
	"time"

	"pratique"
)

// TestNeedsForARepository: what only rules about other repositories read is not
// gathered: else a registry that does not tell of signatures holds up images that
// nobody wants signed.
func TestNeedsForARepository(t *testing.T) {
	set := load(t, `
name: p
default: allow
rules:
  - {name: signed, match: {repository: [acme/**]}, signature: {by: [release]}, action: deny}
  - {name: built, match: {upstream: [ghcr.io]}, provenance: {}, action: deny}
  - {name: newest, except: {repository: [library/*]}, outdated: {}, action: deny}
  - {name: moved, except: {repository: [library/*], tag: [x]}, tagMoved: {}, action: deny}
  - {name: known, match: {repository: [acme/old]}, vulnerability: {kev: true}, action: exempt, lifts: [signed], message: why}`)
	for ref, want := range map[pratique.Ref]Needs{
		{Registry: "docker.io", Repo: "library/nginx"}: NeedTags | NeedNames,
		{Registry: "docker.io", Repo: "acme/app"}:      NeedTags | NeedNames | NeedAttestations | NeedNewer,
		{Registry: "ghcr.io", Repo: "library/nginx"}:   NeedTags | NeedNames | NeedAttestations,
		{Registry: "docker.io", Repo: "acme/old"}:      NeedTags | NeedNames | NeedAttestations | NeedNewer | NeedExploits,
	} {
		if got := set.NeedsFor(ref); got != want {
			t.Errorf("%s: %b, want %b", ref.Repository(), got, want)
		}
	}
	if (*Set)(nil).NeedsFor(pratique.Ref{}) != 0 {
		t.Error("no policies need something")
	}
}

// TestNeedsForLeavesNothingOut: facts that are not needed change no verdict.
func TestNeedsForLeavesNothingOut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	less := 0
	for i := range 2000 {
		text, other := anyPolicy(rnd, "first"), anyPolicy(rnd, "second")
		set, f := load(t, text, other), anyFacts(rnd)
		needs := set.NeedsFor(f.Ref)
		if !set.Needs().Has(needs) {
			t.Fatalf("%d: more than is needed at all: %b, %b", i, needs, set.Needs())
		}
		bare := f
		forget := func(need Needs, how func()) {
			if !needs.Has(need) {
				how()
			}
		}
		forget(NeedServed, func() { bare.FirstServed, bare.LastServed = time.Time{}, time.Time{} })
		forget(NeedNewer, func() { bare.Lineage.Newer = nil })
		forget(NeedBase, func() { bare.Lineage.Base = nil })
		forget(NeedExploits, func() { bare.Exploits = nil })
		if needs&(NeedTags|NeedNames) == 0 {
			bare.Lineage.Current, bare.Lineage.Moved = nil, nil
		}
		// Statements come with attestations, and are not asked for by rules.
		forget(NeedAttestations, func() { bare.Attestations.Signatures, bare.Attestations.Provenance = nil, nil })
		if needs != set.Needs() {
			less++
		}
		if a, b := set.Decide(f), set.Decide(bare); a.ID != b.ID || a.Outcome != b.Outcome {
			t.Fatalf("%d: %v %s with all facts, %v %s with those needed (%b)\n%s%s%+v", i, parts(a), a.ID, parts(b), b.ID, needs, text, other, f)
		}
	}
	t.Logf("%d of 2000 needed less than their policies", less)
	if less < 50 {
		t.Errorf("%d of 2000 needed less: the test asks for nothing", less)
	}
}
