package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"pratique"
)

// Annotations of layers in which cosign keeps a signature and what belongs to
// it. Source: cosign, specs/SIGNATURE_SPEC.md.
const (
	noteSignature   = "dev.cosignproject.cosign/signature"
	noteCertificate = "dev.sigstore.cosign/certificate"
	noteBundle      = "dev.sigstore.cosign/bundle"
	noteTimestamp   = "dev.sigstore.cosign/rfc3161timestamp"
)

// simpleSigningType is what critical.type of a payload says.
const simpleSigningType = "cosign container image signature"

// maxEnvelopeSignatures of one envelope are tried.
const maxEnvelopeSignatures = 16

// byKeys are the trusted keys that made one of the signatures over the message.
func (s *search) byKeys(sigs [][]byte, message []byte) []signer {
	var out []signer
	for _, k := range s.t.keys {
		for _, sig := range sigs {
			if k.signed(sig, message) {
				out = append(out, signer{name: k.name, kind: kindKey})
				break
			}
		}
	}
	return out
}

// who are the identities that made one of the signatures over the message: the
// trusted keys, and those of the certificate that came along. The error says why
// there are none.
func (s *search) who(sigs [][]byte, message []byte, certified func() (*bundle.Bundle, error), artifact verify.ArtifactPolicyOption) ([]signer, error) {
	out := s.byKeys(sigs, message)
	b, err := certified()
	switch {
	case err == nil && b != nil && s.t.keyless != nil:
		var more []signer
		more, err = s.t.keyless.signers(b, artifact)
		out = append(out, more...)
	case err == nil && b != nil:
		err = errors.New("signed with a certificate; no keyless identity is configured here")
	case err == nil:
		err = errors.New("signed by none of the keys that are trusted here")
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, err
}

// simpleSigning verifies a cosign signature: the layer is the payload, the
// signature over it is in the layer's annotations.
func (s *search) simpleSigning(sub subject, holder digest.Digest, l pratique.Descriptor, payload []byte) error {
	image, err := within(payload, "critical", "image")
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	over, err := text(image, "docker-manifest-digest")
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	typ, err := text(payload, "critical", "type")
	switch {
	case err != nil:
		return fmt.Errorf("payload: %w", err)
	case typ != simpleSigningType:
		return fmt.Errorf("payload of type %.60q; want %q", typ, simpleSigningType)
	case over != sub.ref.Digest.String():
		return fmt.Errorf("signature over another manifest, %.80q", over)
	}
	sig, err := base64.StdEncoding.DecodeString(l.Annotations[noteSignature])
	if err != nil || len(sig) == 0 {
		return fmt.Errorf("no signature in the annotation %s", noteSignature)
	}
	certified := func() (*bundle.Bundle, error) { return legacyMessage(l.Annotations, payload, sig) }
	who, err := s.who([][]byte{sig}, payload, certified, verify.WithArtifact(bytes.NewReader(payload)))
	if err != nil {
		return err
	}
	s.signed(holder, who)
	return nil
}

// envelope verifies an attestation as cosign keeps it: the layer is a DSSE
// envelope; a certificate is in the layer's annotations.
func (s *search) envelope(sub subject, holder digest.Digest, l pratique.Descriptor, blob []byte) error {
	e, err := parseEnvelope(blob)
	if err != nil {
		return fmt.Errorf("envelope: %w", err)
	}
	certified := func() (*bundle.Bundle, error) { return legacyEnvelope(l.Annotations, e) }
	return s.attested(sub, holder, e, certified)
}

// attested verifies an envelope and what is stated in it.
func (s *search) attested(sub subject, holder digest.Digest, e dsseEnvelope, certified func() (*bundle.Bundle, error)) error {
	over, err := e.statement(sub.ref.Digest)
	if err != nil {
		return err
	}
	hash, err := hexBytes(sub.ref.Digest)
	if err != nil {
		return err
	}
	who, err := s.who(e.sigs, dsse.PAE(e.payloadType, e.payload), certified,
		verify.WithArtifactDigest(sub.ref.Digest.Algorithm().String(), hash))
	if err != nil {
		return err
	}
	return s.stated(holder, over, who)
}

// bundle verifies a Sigstore bundle.
func (s *search) bundle(sub subject, holder digest.Digest, _ pratique.Descriptor, blob []byte) error {
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(blob); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	content, err := b.VerificationContent()
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	certified := func() (*bundle.Bundle, error) {
		if content.Certificate() == nil {
			return nil, nil
		}
		return b, nil
	}
	if p := b.GetDsseEnvelope(); p != nil {
		e := dsseEnvelope{payloadType: p.GetPayloadType(), payload: p.GetPayload()}
		for _, sig := range p.GetSignatures() {
			e.sigs = append(e.sigs, sig.GetSig())
		}
		if len(e.sigs) > maxEnvelopeSignatures {
			return fmt.Errorf("more than %d signatures on one envelope", maxEnvelopeSignatures)
		}
		return s.attested(sub, holder, e, certified)
	}
	// A signature over the bytes of the manifest.
	who, err := s.who([][]byte{b.GetMessageSignature().GetSignature()}, sub.raw, certified, verify.WithArtifact(bytes.NewReader(sub.raw)))
	if err != nil {
		return err
	}
	s.signed(holder, who)
	return nil
}

// signed notes a signature.
func (s *search) signed(holder digest.Digest, who []signer) {
	for _, w := range who {
		s.found.Signatures = append(s.found.Signatures, pratique.Signature{
			By: w.name, Kind: w.kind, Identity: w.identity, Issuer: w.issuer, Digest: holder, At: w.at,
		})
	}
}

// dsseEnvelope is a payload with signatures. Source: DSSE v1, "envelope".
type dsseEnvelope struct {
	payloadType string
	payload     []byte
	sigs        [][]byte
}

func parseEnvelope(raw []byte) (dsseEnvelope, error) {
	o, err := object(raw)
	if err != nil {
		return dsseEnvelope{}, err
	}
	var e dsseEnvelope
	if err := json.Unmarshal(o["payloadType"], &e.payloadType); err != nil {
		return dsseEnvelope{}, errors.New("no payload type")
	}
	if e.payload, err = base64Text(o["payload"]); err != nil {
		return dsseEnvelope{}, fmt.Errorf("payload: %w", err)
	}
	sigs, more, err := list(o["signatures"], maxEnvelopeSignatures)
	switch {
	case err != nil:
		return dsseEnvelope{}, err
	case len(sigs) == 0:
		return dsseEnvelope{}, errors.New("nobody signed it")
	case more:
		return dsseEnvelope{}, fmt.Errorf("more than %d signatures on one envelope", maxEnvelopeSignatures)
	}
	for _, raw := range sigs {
		v, err := within(raw, "sig")
		if err != nil {
			return dsseEnvelope{}, err
		}
		sig, err := base64Text(v)
		if err != nil {
			return dsseEnvelope{}, fmt.Errorf("signature: %w", err)
		}
		e.sigs = append(e.sigs, sig)
	}
	return e, nil
}

// base64Text decodes a JSON string in standard or URL encoding; DSSE allows both.
func base64Text(raw json.RawMessage) ([]byte, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, errors.New("no text")
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		b, err = base64.URLEncoding.DecodeString(s)
	}
	return b, err
}
