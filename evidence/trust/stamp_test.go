package trust_test

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	notationsignature "github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/tspclient-go"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"pratique/evidence/trust"
)

// stamper is a time stamping authority (RFC 3161) that says what time it is told.
type stamper struct {
	root, leaf *x509.Certificate
	key        crypto.Signer
	at         time.Time
}

func newStamper(at time.Time) *stamper {
	rootKey, key := ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P256())
	from, to := time.Now().Add(-10*365*24*time.Hour), time.Now().Add(10*365*24*time.Hour)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stamper root", Organization: []string{"stamper"}}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	s := &stamper{key: key, at: at.Truncate(time.Second)}
	s.root = certify(root, root, rootKey.Public(), rootKey)
	s.leaf = certify(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "stamper", Organization: []string{"stamper"}}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{ // time stamping alone, critical
			Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true,
			Value: must(asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})),
		}},
	}, s.root, key.Public(), rootKey)
	return s
}

func (s *stamper) stamp(hash []byte, nonce *big.Int) []byte {
	ts := timestamp.Timestamp{
		HashAlgorithm: crypto.SHA256, HashedMessage: hash, Time: s.at, Nonce: nonce, AddTSACertificate: true,
		Policy: asn1.ObjectIdentifier{1, 2, 3, 4}, Accuracy: time.Second,
	}
	return must(ts.CreateResponseWithOpts(s.leaf, s.key, crypto.SHA256))
}

// Timestamp implements tspclient.Timestamper.
func (s *stamper) Timestamp(_ context.Context, r *tspclient.Request) (*tspclient.Response, error) {
	out := new(tspclient.Response)
	return out, out.UnmarshalBinary(s.stamp(r.MessageImprint.HashedMessage, r.Nonce))
}

func (s *stamper) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.root.Raw})
}

// A signature of the Notary Project outlives its certificate when it was stamped
// in time by somebody who is trusted for that.
func TestNotationStamped(t *testing.T) {
	acme := newAuthority("acme")
	days := func(n int) time.Time { return time.Now().Add(time.Duration(n) * 24 * time.Hour) }
	inTime, late, foreign := newStamper(days(-20)), newStamper(days(-5)), newStamper(days(-20))
	for _, envelope := range []string{jws.MediaTypeEnvelope, cose.MediaTypeEnvelope} {
		for _, tc := range []struct {
			name    string
			by      *stamper
			trusted [][]byte
			why     string
		}{
			{"in time", inTime, [][]byte{inTime.pem()}, ""},
			{"when it was over", late, [][]byte{late.pem()}, "expired"},
			{"by somebody else", foreign, [][]byte{inTime.pem()}, "timestamp"},
			{"by nobody who is trusted", inTime, nil, "expired"},
			{"not at all", nil, [][]byte{inTime.pem()}, "no timestamp countersignature"},
		} {
			t.Run(envelope+"/"+tc.name, func(t *testing.T) {
				s := newShelf()
				image := s.image(t, app, "app")
				m := s.manifests[image.String()]
				n := notarized{
					authority: acme, organisation: "acme", envelope: envelope, mediaType: m.image.MediaType, digest: image.Digest, size: len(m.raw),
					from: days(-30), to: days(-10), at: days(-20),
				}
				if tc.by != nil {
					n.stamped = func(r *notationsignature.SignRequest) {
						roots := x509.NewCertPool()
						roots.AddCert(tc.by.root)
						r.Timestamper, r.TSARootCAs = tc.by, roots
					}
				}
				s.notarize(t, image, envelope, n.sign(t))
				got := verified(t, s, trust.Config{Identities: map[string]trust.Identity{
					"acme": {Notation: trust.Notation{CA: [][]byte{acme.pem()}, TSA: tc.trusted}},
				}}, image)
				switch {
				case tc.why == "" && (len(got.Signatures) != 1 || len(got.Problems) > 0):
					t.Errorf("signatures %+v, problems %q", got.Signatures, got.Problems)
				case tc.why != "" && (len(got.Signatures) > 0 || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], tc.why)):
					t.Errorf("signatures %+v, problems %q; want a problem with %q", got.Signatures, got.Problems, tc.why)
				}
			})
		}
	}
}

// A private Sigstore may have a time stamper in the place of a log: then a stamp
// is demanded.
func TestKeylessStamped(t *testing.T) {
	i := newInstance(t)
	k := i.key(ask{})
	inTime, late, foreign := newStamper(k.at), newStamper(k.at.Add(time.Hour)), newStamper(k.at)
	for _, tc := range []struct {
		name    string
		by      *stamper
		trusted *stamper
		want    bool
	}{
		{"in time", inTime, inTime, true},
		{"when the certificate was over", late, late, false},
		{"by somebody else", foreign, inTime, false},
		{"not at all", nil, inTime, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			s.attachBundle(t, image, i.attestation(k, statement(image, cosignSign, "{}"), func(b *protobundle.Bundle) {
				b.VerificationMaterial.TlogEntries = nil
				if tc.by == nil {
					return
				}
				sig := b.GetDsseEnvelope().GetSignatures()[0].GetSig()
				b.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{
					Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: tc.by.stamp(sha(sig), nil)}},
				}
			}))
			cfg := keyless(i)
			cfg.TrustedRoot = i.trustedRoot(func(r *prototrustroot.TrustedRoot) {
				r.Tlogs = nil
				r.TimestampAuthorities = []*prototrustroot.CertificateAuthority{{
					Uri: "https://stamper.test", ValidFor: &protocommon.TimeRange{Start: timestamppb.New(i.start)},
					CertChain: &protocommon.X509CertificateChain{Certificates: []*protocommon.X509Certificate{{RawBytes: tc.trusted.leaf.Raw}, {RawBytes: tc.trusted.root.Raw}}},
				}}
			})
			got := verified(t, s, cfg, image)
			if (len(got.Signatures) == 1) != tc.want || tc.want == (len(got.Problems) > 0) {
				t.Errorf("signatures %+v, problems %q; want a signature: %t", got.Signatures, got.Problems, tc.want)
			}
			if tc.want && !got.Signatures[0].At.Equal(tc.by.at) {
				t.Errorf("signed at %s, stamped at %s", got.Signatures[0].At, tc.by.at)
			}
		})
	}
}
