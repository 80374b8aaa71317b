package trust

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/testing/data"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"pratique"
)

// A bundle that the public instance of Sigstore made, about a package of npm, held
// against that instance's root: what the tests' own instance leaves out would show
// here.
func TestPublicInstance(t *testing.T) {
	const (
		issuer  = "https://token.actions.githubusercontent.com"
		subject = "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main"
	)
	root, err := data.TrustedRoot(t, "public-good.json").MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKeyless(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.add("js", Sigstore{Issuer: issuer, Subject: "https://github.com/sigstore/sigstore-js/.github/workflows/*"}); err != nil {
		t.Fatal(err)
	}
	b := data.Bundle(t, "sigstore.js@2.0.0-provenance.sigstore.json")
	e := dsseEnvelope{payloadType: b.GetDsseEnvelope().GetPayloadType(), payload: b.GetDsseEnvelope().GetPayload()}
	subjects, _, err := list(e.payload, 1, "subject")
	if err != nil || len(subjects) != 1 {
		t.Fatal(subjects, err)
	}
	sum, err := text(subjects[0], "digest", "sha512")
	if err != nil {
		t.Fatal(err)
	}
	about := digest.NewDigestFromEncoded(digest.SHA512, sum)
	raw, err := hex.DecodeString(sum)
	if err != nil {
		t.Fatal(err)
	}

	who, err := k.signers(b, verify.WithArtifactDigest("sha512", raw))
	if err != nil || len(who) != 1 {
		t.Fatal(who, err)
	}
	if w := who[0]; w.name != "js" || w.identity != subject || w.issuer != issuer || w.at.Year() != 2023 {
		t.Errorf("signed by %+v", w)
	}
	st, err := e.statement(about)
	if err != nil {
		t.Fatal(err)
	}
	p, err := provenance(st)
	want := pratique.Provenance{
		Type: slsa1, Builder: "https://github.com/actions/runner/github-hosted",
		Source: "https://github.com/sigstore/sigstore-js", Revision: "sha1:f0b49a04e5a62250e0f60fb128004a73110fe311",
		BuildType: "https://slsa-framework.github.io/github-actions-buildtypes/workflow/v1",
	}
	if err != nil || p != want {
		t.Errorf("got %+v, %v; want %+v", p, err, want)
	}

	raw[0] ^= 1
	if who, err := k.signers(b, verify.WithArtifactDigest("sha512", raw)); err == nil {
		t.Errorf("about something else: %+v", who)
	}
	k.identities = nil
	if _, err := k.signers(b, verify.WithoutArtifactUnsafe()); err == nil || !strings.Contains(err.Error(), subject) {
		t.Errorf("trusted by nobody: %v", err)
	}
}
