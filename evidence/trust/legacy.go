package trust

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/bundle"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
)

// mediaTypeBundle01 is the first version of the bundle: the one that a log's
// promise suffices for, which is all that cosign kept in annotations.
const mediaTypeBundle01 = "application/vnd.dev.sigstore.bundle+json;version=0.1"

// legacyMessage makes a bundle of a keyless signature that cosign kept in
// annotations; nil if there is no certificate.
func legacyMessage(notes map[string]string, payload, sig []byte) (*bundle.Bundle, error) {
	m, err := legacyMaterial(notes)
	if m == nil || err != nil {
		return nil, err
	}
	sum := sha256.Sum256(payload)
	return bundle.NewBundle(&protobundle.Bundle{
		MediaType:            mediaTypeBundle01,
		VerificationMaterial: m,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature:     sig,
		}},
	})
}

// legacyEnvelope is the same for an attestation.
func legacyEnvelope(notes map[string]string, e dsseEnvelope) (*bundle.Bundle, error) {
	m, err := legacyMaterial(notes)
	if m == nil || err != nil {
		return nil, err
	}
	env := &protodsse.Envelope{Payload: e.payload, PayloadType: e.payloadType}
	for _, sig := range e.sigs {
		env.Signatures = append(env.Signatures, &protodsse.Signature{Sig: sig})
	}
	return bundle.NewBundle(&protobundle.Bundle{
		MediaType:            mediaTypeBundle01,
		VerificationMaterial: m,
		Content:              &protobundle.Bundle_DsseEnvelope{DsseEnvelope: env},
	})
}

// legacyMaterial reads the certificate, the log's promise and the time stamp out
// of annotations; nil if there is no certificate. The chain that cosign keeps
// beside them is not needed: authorities come from the trusted root alone.
func legacyMaterial(notes map[string]string) (*protobundle.VerificationMaterial, error) {
	if notes[noteCertificate] == "" {
		return nil, nil
	}
	block, _ := pem.Decode([]byte(notes[noteCertificate]))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("no certificate in the annotation %s", noteCertificate)
	}
	m := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_X509CertificateChain{
		X509CertificateChain: &protocommon.X509CertificateChain{Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}}},
	}}
	if text := notes[noteBundle]; text != "" {
		entry, err := legacyEntry([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", noteBundle, err)
		}
		m.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	if raw := notes[noteTimestamp]; raw != "" {
		v, err := within([]byte(raw), "SignedRFC3161Timestamp")
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", noteTimestamp, err)
		}
		stamp, err := base64Text(v)
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", noteTimestamp, err)
		}
		m.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamp}},
		}
	}
	return m, nil
}

// legacyEntry reads a log's promise to hold an entry.
func legacyEntry(raw []byte) (*protorekor.TransparencyLogEntry, error) {
	o, err := object(raw)
	if err != nil {
		return nil, err
	}
	promise, err := base64Text(o["SignedEntryTimestamp"])
	if err != nil {
		return nil, fmt.Errorf("SignedEntryTimestamp: %w", err)
	}
	payload, err := object(o["Payload"])
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	var at, index int64
	if json.Unmarshal(payload["integratedTime"], &at) != nil || json.Unmarshal(payload["logIndex"], &index) != nil {
		return nil, errors.New("neither time nor index of the entry")
	}
	id, err := text(o["Payload"], "logID")
	if err != nil {
		return nil, err
	}
	log, err := hex.DecodeString(id)
	if err != nil {
		return nil, fmt.Errorf("logID: %w", err)
	}
	var coded string
	if err := json.Unmarshal(payload["body"], &coded); err != nil {
		return nil, errors.New("no body")
	}
	body, err := base64.StdEncoding.DecodeString(coded)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	kind, err := text(body, "kind")
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	version, err := text(body, "apiVersion")
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:          index,
		LogId:             &protocommon.LogId{KeyId: log},
		KindVersion:       &protorekor.KindVersion{Kind: kind, Version: version},
		IntegratedTime:    at,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: promise},
		CanonicalizedBody: body,
	}, nil
}

// hexBytes are the bytes of a digest.
func hexBytes(d digest.Digest) ([]byte, error) { return hex.DecodeString(d.Encoded()) }
