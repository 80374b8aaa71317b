package trust_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/google/certificate-transparency-go/x509util"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/rekor/pkg/util"
	sigstoresignature "github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// instance is a Sigstore: a certificate authority, a log of certificates and a
// log of signatures, as public ones are, with keys made here.
type instance struct {
	t            testing.TB
	root, issuer *x509.Certificate
	issuerKey    *ecdsa.PrivateKey
	ct, rekor    *ecdsa.PrivateKey
	start        time.Time
}

func newInstance(t testing.TB) *instance {
	i := &instance{t: t, ct: ecdsaKey(elliptic.P256()), rekor: ecdsaKey(elliptic.P256()), start: time.Now().Add(-365 * 24 * time.Hour).Truncate(time.Second)}
	rootKey := ecdsaKey(elliptic.P384())
	ca := func(name string, usage ...x509.ExtKeyUsage) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: i.start, NotAfter: i.start.Add(10 * 365 * 24 * time.Hour),
			KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: usage, IsCA: true, BasicConstraintsValid: true,
		}
	}
	root := ca("root")
	i.root = certify(root, root, rootKey.Public(), rootKey)
	i.issuerKey = ecdsaKey(elliptic.P384())
	i.issuer = certify(ca("intermediate", x509.ExtKeyUsageCodeSigning), i.root, i.issuerKey.Public(), rootKey)
	return i
}

func certify(template, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, key, by))))
}

func pkixBytes(k crypto.PublicKey) []byte { return must(x509.MarshalPKIXPublicKey(k)) }

// trustedRoot is what a client of the instance is given.
func (i *instance) trustedRoot(edit ...func(*prototrustroot.TrustedRoot)) []byte {
	since := &protocommon.TimeRange{Start: timestamppb.New(i.start)}
	log := func(url string, k *ecdsa.PrivateKey) *prototrustroot.TransparencyLogInstance {
		return &prototrustroot.TransparencyLogInstance{
			BaseUrl: url, HashAlgorithm: protocommon.HashAlgorithm_SHA2_256,
			PublicKey: &protocommon.PublicKey{RawBytes: pkixBytes(k.Public()), KeyDetails: protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, ValidFor: since},
			LogId:     &protocommon.LogId{KeyId: sha(pkixBytes(k.Public()))},
		}
	}
	r := &prototrustroot.TrustedRoot{
		MediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		Tlogs:     []*prototrustroot.TransparencyLogInstance{log("https://rekor.test", i.rekor)},
		Ctlogs:    []*prototrustroot.TransparencyLogInstance{log("https://ct.test", i.ct)},
		CertificateAuthorities: []*prototrustroot.CertificateAuthority{{
			Uri: "https://fulcio.test", ValidFor: since,
			CertChain: &protocommon.X509CertificateChain{Certificates: []*protocommon.X509Certificate{{RawBytes: i.issuer.Raw}, {RawBytes: i.root.Raw}}},
		}},
	}
	for _, e := range edit {
		e(r)
	}
	return must(protojson.Marshal(r))
}

// sigkey is a key with the certificate that the instance gave for ten minutes.
type sigkey struct {
	*ecdsa.PrivateKey
	cert *x509.Certificate
	at   time.Time
}

// ask is what a certificate is asked for; the zero value is filled in.
type ask struct {
	subjects []string // URIs, or addresses where there is an @ and no scheme
	issuer   string
	at       time.Time
	noSCT    bool
	by       *instance // whose log of certificates proves it; if nil, the instance's
}

const (
	github   = "https://token.actions.githubusercontent.com"
	workflow = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main"
)

func (i *instance) key(a ask) sigkey {
	if a.subjects == nil {
		a.subjects = []string{workflow}
	}
	if a.issuer == "" {
		a.issuer = github
	}
	if a.at.IsZero() {
		a.at = time.Now().Add(-30 * 24 * time.Hour)
	}
	if a.by == nil {
		a.by = i
	}
	a.at = a.at.Truncate(time.Second)
	k := ecdsaKey(elliptic.P256())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: a.at, NotAfter: a.at.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(a.issuer)},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: must(asn1.MarshalWithParams(a.issuer, "utf8"))},
		},
	}
	for _, s := range a.subjects {
		if strings.Contains(s, "@") && !strings.Contains(s, "://") {
			template.EmailAddresses = append(template.EmailAddresses, s)
			continue
		}
		template.URIs = append(template.URIs, must(url.Parse(s)))
	}
	cert := certify(template, i.issuer, k.Public(), i.issuerKey)
	if !a.noSCT {
		template.ExtraExtensions = append(template.ExtraExtensions, a.by.sct(cert, i.issuer, a.at))
		cert = certify(template, i.issuer, k.Public(), i.issuerKey)
	}
	return sigkey{k, cert, a.at.Add(time.Minute)}
}

// sct is the log's promise to hold the certificate, as an extension for it.
func (i *instance) sct(pre, issuer *x509.Certificate, at time.Time) pkix.Extension {
	sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, Timestamp: uint64(at.UnixMilli())}
	copy(sct.LogID.KeyID[:], sha(pkixBytes(i.ct.Public())))
	entry := ct.LogEntry{Leaf: ct.MerkleTreeLeaf{TimestampedEntry: &ct.TimestampedEntry{
		EntryType:    ct.PrecertLogEntryType,
		PrecertEntry: &ct.PreCert{IssuerKeyHash: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), TBSCertificate: pre.RawTBSCertificate},
	}}}
	data := must(ct.SerializeSCTSignatureInput(sct, entry))
	sct.Signature = ct.DigitallySigned{
		Algorithm: tls.SignatureAndHashAlgorithm{Hash: tls.SHA256, Signature: tls.ECDSA},
		Signature: signature(i.ct, data),
	}
	list := must(tls.Marshal(*must(x509util.MarshalSCTsIntoSCTList([]*ct.SignedCertificateTimestamp{&sct}))))
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: must(asn1.Marshal(list))}
}

func (k sigkey) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.cert.Raw})
}

// hashedRekord is the body of a log's entry about a signature over a message.
func hashedRekord(k sigkey, sig, message []byte) []byte {
	return must(json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
		"data":      map[string]any{"hash": map[string]string{"algorithm": "sha256", "value": hex.EncodeToString(sha(message))}},
		"signature": map[string]any{"content": sig, "publicKey": map[string]any{"content": k.pem()}},
	}}))
}

// dsseRekord is that about an envelope.
func dsseRekord(k sigkey, sig, payload []byte) []byte {
	hash := map[string]string{"algorithm": "sha256", "value": hex.EncodeToString(sha(payload))}
	return must(json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"envelopeHash": hash, "payloadHash": hash,
		"signatures": []any{map[string]any{"signature": base64.StdEncoding.EncodeToString(sig), "verifier": k.pem()}},
	}}))
}

// promise is the log's signature that it will hold the body.
func (i *instance) promise(body []byte, at time.Time) (logID, set []byte) {
	logID = sha(pkixBytes(i.rekor.Public()))
	doc := must(json.Marshal(map[string]any{"body": body, "integratedTime": at.Unix(), "logID": hex.EncodeToString(logID), "logIndex": 5}))
	return logID, signature(i.rekor, doc)
}

// notes are cosign's annotations for a keyless signature over the payload.
func (i *instance) notes(k sigkey, body, sig []byte) map[string]string {
	id, set := i.promise(body, k.at)
	return map[string]string{
		noteSignature:                     base64.StdEncoding.EncodeToString(sig),
		"dev.sigstore.cosign/certificate": string(k.pem()),
		"dev.sigstore.cosign/bundle": string(must(json.Marshal(map[string]any{
			"SignedEntryTimestamp": set,
			"Payload":              map[string]any{"body": body, "integratedTime": k.at.Unix(), "logIndex": 5, "logID": hex.EncodeToString(id)},
		}))),
	}
}

// keyless is the layer of a keyless signature over the payload.
func (i *instance) keyless(k sigkey, content []byte) layer {
	sig := signature(k, content)
	return layer{typeSimple, content, i.notes(k, hashedRekord(k, sig, content), sig)}
}

// entry is the log's entry with a proof that it is the only one.
func (i *instance) entry(kind string, body []byte, at time.Time) *protorekor.TransparencyLogEntry {
	id, set := i.promise(body, at)
	hash := sha(append([]byte{0}, body...))
	signer := must(sigstoresignature.LoadECDSASignerVerifier(i.rekor, crypto.SHA256))
	checkpoint := must(util.CreateAndSignCheckpoint(context.Background(), "rekor.test", 123, 1, hash, signer))
	return &protorekor.TransparencyLogEntry{
		LogIndex: 5, LogId: &protocommon.LogId{KeyId: id}, KindVersion: &protorekor.KindVersion{Kind: kind, Version: "0.0.1"},
		IntegratedTime: at.Unix(), CanonicalizedBody: body,
		InclusionPromise: &protorekor.InclusionPromise{SignedEntryTimestamp: set},
		InclusionProof: &protorekor.InclusionProof{
			LogIndex: 0, TreeSize: 1, RootHash: hash, Checkpoint: &protorekor.Checkpoint{Envelope: string(checkpoint)},
		},
	}
}

const inToto = "application/vnd.in-toto+json"

// attestation is a bundle with a statement.
func (i *instance) attestation(k sigkey, statement []byte, edit ...func(*protobundle.Bundle)) []byte {
	sig := signature(k, dsse.PAE(inToto, statement))
	b := &protobundle.Bundle{
		MediaType: typeBundle,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content:     &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: k.cert.Raw}},
			TlogEntries: []*protorekor.TransparencyLogEntry{i.entry("dsse", dsseRekord(k, sig, statement), k.at)},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: statement, PayloadType: inToto, Signatures: []*protodsse.Signature{{Sig: sig}},
		}},
	}
	for _, e := range edit {
		e(b)
	}
	return must(protojson.Marshal(b))
}

// message is a bundle with a signature over the bytes of a manifest.
func (i *instance) message(k sigkey, manifest []byte) []byte {
	sig := signature(k, manifest)
	return must(protojson.Marshal(&protobundle.Bundle{
		MediaType: typeBundle,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content:     &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: k.cert.Raw}},
			TlogEntries: []*protorekor.TransparencyLogEntry{i.entry("hashedrekord", hashedRekord(k, sig, manifest), k.at)},
		},
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sha(manifest)}, Signature: sig,
		}},
	}))
}

// keyBundle is a bundle with a statement signed by a key without a certificate.
func keyBundle(k crypto.Signer, statement []byte) []byte {
	return must(protojson.Marshal(&protobundle.Bundle{
		MediaType: typeBundle,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "whatever"}},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: statement, PayloadType: inToto, Signatures: []*protodsse.Signature{{Sig: signature(k, dsse.PAE(inToto, statement))}},
		}},
	}))
}

// envelope is an attestation as cosign kept it under .att.
func envelope(statement, sig []byte) []byte {
	return must(json.Marshal(map[string]any{"payloadType": inToto, "payload": statement, "signatures": []any{map[string]any{"keyid": "", "sig": sig}}}))
}

// replace edits JSON text.
func replace(doc []byte, old, text string) []byte {
	if !bytes.Contains(doc, []byte(old)) {
		panic("nothing to replace: " + old)
	}
	return bytes.Replace(doc, []byte(old), []byte(text), 1)
}
