package trust

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/result"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pratique"
)

// notary verifies signatures of the Notary Project for one identity.
type notary struct {
	name     string
	verifier notation.Verifier
}

// storeName is that of the one trust store of an identity.
const storeName = "pratique"

// subjectPrefix begins a trusted identity in a trust policy.
const subjectPrefix = "x509.subject:"

func newNotary(name string, id Notation) (notary, error) {
	if len(id.CA) == 0 {
		return notary{}, fmt.Errorf("%w: a notation identity needs the certificates of an authority (ca)", pratique.ErrInvalid)
	}
	certs := make(authorities)
	policy := trustpolicy.TrustPolicy{
		Name:           storeName,
		RegistryScopes: []string{"*"},
		SignatureVerification: trustpolicy.SignatureVerification{
			VerificationLevel: trustpolicy.LevelStrict.Name,
			// Whether a certificate was revoked is asked of its authority, which is a
			// request to an address that the certificate names: never from here.
			Override:        map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeRevocation: trustpolicy.ActionSkip},
			VerifyTimestamp: trustpolicy.OptionAfterCertExpiry,
		},
		TrustStores: []string{string(truststore.TypeCA) + ":" + storeName},
	}
	var err error
	if certs[truststore.TypeCA], err = certificates(id.CA); err != nil {
		return notary{}, fmt.Errorf("%w notation ca: %w", pratique.ErrInvalid, err)
	}
	if len(id.TSA) > 0 {
		if certs[truststore.TypeTSA], err = certificates(id.TSA); err != nil {
			return notary{}, fmt.Errorf("%w notation tsa: %w", pratique.ErrInvalid, err)
		}
		policy.TrustStores = append(policy.TrustStores, string(truststore.TypeTSA)+":"+storeName)
	}
	for _, s := range id.Subjects {
		policy.TrustedIdentities = append(policy.TrustedIdentities, subjectPrefix+" "+strings.TrimSpace(strings.TrimPrefix(s, subjectPrefix)))
	}
	if len(id.Subjects) == 0 {
		policy.TrustedIdentities = []string{"*"}
	}
	v, err := verifier.NewWithOptions(&trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{policy}}, certs, nil,
		verifier.VerifierOptions{RevocationCodeSigningValidator: offline{}, RevocationTimestampingValidator: offline{}})
	if err != nil {
		return notary{}, fmt.Errorf("%w notation: %w", pratique.ErrInvalid, err)
	}
	return notary{name, v}, nil
}

// authorities are the trusted certificates of one identity.
type authorities map[truststore.Type][]*x509.Certificate

// GetCertificates implements truststore.X509TrustStore.
func (a authorities) GetCertificates(_ context.Context, t truststore.Type, _ string) ([]*x509.Certificate, error) {
	if len(a[t]) == 0 {
		return nil, fmt.Errorf("no certificates of type %s are trusted", t)
	}
	return a[t], nil
}

// certificates reads PEM files of authorities.
func certificates(files [][]byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, rest := range files {
		found := false
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				return nil, fmt.Errorf("a PEM block %q; want certificates only", block.Type)
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			out, found = append(out, c), true
		}
		if !found {
			return nil, errors.New("no certificate in it")
		}
	}
	return out, truststore.ValidateCertificates(out)
}

// offline asks nobody and knows of no revocation.
type offline struct{}

// ValidateContext implements revocation.Validator.
func (offline) ValidateContext(_ context.Context, o revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	out := make([]*result.CertRevocationResult, len(o.CertChain))
	for i := range out {
		out[i] = &result.CertRevocationResult{Result: result.ResultNonRevokable}
	}
	return out, nil
}

// notation verifies a signature of the Notary Project: the layer is a JWS or
// COSE envelope.
func (s *search) notation(sub subject, holder digest.Digest, l pratique.Descriptor, blob []byte) error {
	if len(s.t.notaries) == 0 {
		return errors.New("a signature of the Notary Project; no notation identity is configured here")
	}
	about := ocispec.Descriptor{MediaType: sub.image.MediaType, Digest: sub.ref.Digest, Size: int64(len(sub.raw))}
	// Only the scope "*" is asked for, which any reference fits.
	ref := notation.VerifierVerifyOptions{ArtifactReference: "localhost/image@" + sub.ref.Digest.String(), SignatureMediaType: l.MediaType}
	var errs []error
	for _, n := range s.t.notaries {
		// The libraries' context is for plugins and requests, of which there are none.
		outcome, err := n.verifier.Verify(context.Background(), about, blob, ref)
		if err != nil {
			errs = append(errs, fmt.Errorf("not by %s: %w", n.name, err))
			continue
		}
		leaf := outcome.EnvelopeContent.SignerInfo.CertificateChain[0]
		s.signed(holder, []signer{{name: n.name, kind: kindNotation, identity: leaf.Subject.String(), issuer: leaf.Issuer.String()}})
	}
	if len(errs) == len(s.t.notaries) {
		return errors.Join(errs...)
	}
	return nil
}
