package trust_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	notationsignature "github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence/trust"
)

// authority certifies signers of the Notary Project.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(name string) authority {
	k := ecdsaKey(elliptic.P384())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Country: []string{"US"}, Province: []string{"WA"}, Organization: []string{name}, CommonName: name + " root"},
		NotBefore: time.Now().Add(-10 * 365 * 24 * time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
	}
	return authority{certify(template, template, k.Public(), k), k}
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// leaf certifies a signer of the organisation.
func (a authority) leaf(organisation string, key crypto.PublicKey, from, to time.Time, ask ...string) *x509.Certificate {
	return certify(&x509.Certificate{
		OCSPServer: ask, CRLDistributionPoints: ask,
		SerialNumber: big.NewInt(2), Subject: pkix.Name{Country: []string{"US"}, Province: []string{"WA"}, Organization: []string{organisation}, CommonName: "signer"},
		NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}, a.cert, key, a.key)
}

// notarized is what may be said of a signature of the Notary Project.
type notarized struct {
	authority    authority
	organisation string
	envelope     string // media type
	key          crypto.Signer
	from, to     time.Time
	at, expiry   time.Time
	mediaType    string
	digest       digest.Digest
	size         int
	scheme       notationsignature.SigningScheme
	extended     []notationsignature.Attribute
	stamped      func(*notationsignature.SignRequest)
	ask          []string // addresses to ask whether the certificate was revoked
}

// sign makes a signature over the image.
func (n notarized) sign(t *testing.T) []byte {
	t.Helper()
	if n.key == nil {
		n.key = ecdsaKey(elliptic.P256())
	}
	if n.scheme == "" {
		n.scheme = notationsignature.SigningSchemeX509
	}
	now := time.Now()
	for to, std := range map[*time.Time]time.Time{&n.from: now.Add(-time.Hour), &n.to: now.Add(24 * time.Hour), &n.at: now} {
		if to.IsZero() {
			*to = std
		}
	}
	certs := []*x509.Certificate{n.authority.leaf(n.organisation, n.key.Public(), n.from, n.to, n.ask...), n.authority.cert}
	target := map[string]any{"targetArtifact": map[string]any{"mediaType": n.mediaType, "digest": n.digest, "size": n.size}}
	e := must(notationsignature.NewEnvelope(n.envelope))
	request := &notationsignature.SignRequest{
		Payload:     notationsignature.Payload{ContentType: "application/vnd.cncf.notary.payload.v1+json", Content: must(json.Marshal(target))},
		Signer:      must(notationsignature.NewLocalSigner(certs, n.key)),
		SigningTime: n.at, Expiry: n.expiry, SigningScheme: n.scheme, ExtendedSignedAttributes: n.extended,
	}
	if n.stamped != nil {
		n.stamped(request)
	}
	sig, err := e.Sign(request)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// notarize attaches a signature to the image.
func (s *shelf) notarize(t *testing.T, image pratique.Ref, envelopeType string, sig []byte) pratique.Ref {
	t.Helper()
	at := s.push(t, image, typeNotation, "", &image, layer{mediaType: envelopeType, content: sig})
	s.refer(image, at, typeNotation)
	return at
}

func TestNotation(t *testing.T) {
	acme, evil := newAuthority("acme"), newAuthority("evil")
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	base := newShelf()
	image := base.image(t, app, "app")
	another := base.image(t, app, "another")
	m := base.manifests[image.String()]
	good := notarized{authority: acme, organisation: "acme", envelope: jws.MediaTypeEnvelope, mediaType: m.image.MediaType, digest: image.Digest, size: len(m.raw)}
	edit := func(f func(*notarized)) notarized { n := good; f(&n); return n }
	ago := func(days int) time.Time { return time.Now().Add(time.Duration(-days) * 24 * time.Hour) }
	for _, tc := range []struct {
		name     string
		with     notarized
		subjects []string
		why      string // empty: it verifies
	}{
		{"JWS", good, nil, ""},
		{"COSE", edit(func(n *notarized) { n.envelope = cose.MediaTypeEnvelope }), nil, ""},
		{"RSA", edit(func(n *notarized) { n.key = rsaKey }), nil, ""},
		{"a subject", good, []string{"x509.subject: C=US, ST=WA, O=acme"}, ""},
		{"a subject without its prefix", good, []string{"C=US, ST=WA, O=acme"}, ""},
		{"not expired", edit(func(n *notarized) { n.expiry = time.Now().Add(time.Hour) }), nil, ""},

		{"another subject", edit(func(n *notarized) { n.organisation = "evil" }), []string{"C=US, ST=WA, O=acme"}, "does not match the X.509 trusted identities"},
		{"a subject that goes on", edit(func(n *notarized) { n.organisation = "acme, O=evil" }), []string{"C=US, ST=WA, O=acme"}, "does not match the X.509 trusted identities"},
		{"another authority", edit(func(n *notarized) { n.authority = evil }), nil, "does not contain any trusted certificate"},
		{"another image", edit(func(n *notarized) { n.digest = another.Digest }), nil, "content descriptor mismatch"},
		{"another size", edit(func(n *notarized) { n.size++ }), nil, "content descriptor mismatch"},
		{"another media type", edit(func(n *notarized) { n.mediaType = pratique.MediaTypeImageIndex }), nil, "content descriptor mismatch"},
		{"a certificate that is over, without a time stamp", edit(func(n *notarized) { n.from, n.to, n.at = ago(30), ago(10), ago(20) }), nil, "expired"},
		{"expired", edit(func(n *notarized) { n.from, n.at, n.expiry = ago(3), ago(2), ago(1) }), nil, "expired"},
		{"a time that the signer claims", edit(func(n *notarized) { n.scheme = notationsignature.SigningSchemeX509SigningAuthority }), nil, "no trusted certificates"},
		{"made for a plugin", edit(func(n *notarized) {
			n.extended = []notationsignature.Attribute{{Key: "io.cncf.notary.verificationPlugin", Critical: true, Value: "../../evil"}}
		}), nil, "plugin"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			at := s.notarize(t, image, tc.with.envelope, tc.with.sign(t))
			got := verified(t, s, trust.Config{Identities: map[string]trust.Identity{
				"acme": {Notation: trust.Notation{CA: [][]byte{acme.pem()}, Subjects: tc.subjects}},
			}}, image)
			if tc.why != "" {
				if len(got.Signatures) > 0 || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], tc.why) {
					t.Errorf("signatures %+v, problems %q; want a problem with %q", got.Signatures, got.Problems, tc.why)
				}
				return
			}
			want := []pratique.Signature{{By: "acme", Kind: "notation", Identity: "CN=signer,O=acme,ST=WA,C=US", Issuer: "CN=acme root,O=acme,ST=WA,C=US", Digest: at.Digest}}
			if diff := cmp.Diff(want, got.Signatures); diff != "" || len(got.Problems) > 0 {
				t.Errorf("problems %q, signatures (-want +got):\n%s", got.Problems, diff)
			}
		})
	}
}

// A certificate names addresses to ask whether it was revoked. Nobody asks there.
func TestNotationAsksNobody(t *testing.T) {
	dialled := make(chan string, 10)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { dialled <- r.URL.Path }))
	defer elsewhere.Close()
	acme := newAuthority("acme")
	s := newShelf()
	image := s.image(t, app, "app")
	m := s.manifests[image.String()]
	sig := notarized{
		authority: acme, organisation: "acme", envelope: jws.MediaTypeEnvelope, mediaType: m.image.MediaType, digest: image.Digest, size: len(m.raw),
		ask: []string{elsewhere.URL},
	}.sign(t)
	s.notarize(t, image, jws.MediaTypeEnvelope, sig)
	got := verified(t, s, trust.Config{Identities: map[string]trust.Identity{"acme": {Notation: trust.Notation{CA: [][]byte{acme.pem()}}}}}, image)
	if len(got.Signatures) != 1 || len(dialled) > 0 {
		t.Errorf("signatures %+v, problems %q, %d requests", got.Signatures, got.Problems, len(dialled))
	}
}

func TestNotationHostile(t *testing.T) {
	acme := newAuthority("acme")
	s := newShelf()
	image := s.image(t, app, "app")
	m := s.manifests[image.String()]
	sig := notarized{authority: acme, organisation: "acme", envelope: jws.MediaTypeEnvelope, mediaType: m.image.MediaType, digest: image.Digest, size: len(m.raw)}.sign(t)
	var doc map[string]any
	if err := json.Unmarshal(sig, &doc); err != nil {
		t.Fatal(err)
	}
	with := func(k string, v any) []byte {
		c := map[string]any{}
		for name, value := range doc {
			c[name] = value
		}
		c[k] = v
		return must(json.Marshal(c))
	}
	for _, tc := range []struct {
		name, mediaType string
		envelope        []byte
	}{
		{"JWS that says COSE", cose.MediaTypeEnvelope, sig},
		{"of no known type", "text/plain", sig},
		{"without an algorithm", jws.MediaTypeEnvelope, with("protected", "eyJhbGciOiJub25lIn0")},
		{"no JSON", jws.MediaTypeEnvelope, []byte("x")},
		{"no CBOR", cose.MediaTypeEnvelope, []byte{0xd2, 0x9f, 0x9f, 0x9f}},
		{"nothing", jws.MediaTypeEnvelope, []byte("{}")},
		{"another payload", jws.MediaTypeEnvelope, with("payload", "e30")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			s.notarize(t, image, tc.mediaType, tc.envelope)
			got := verified(t, s, trust.Config{Identities: map[string]trust.Identity{"acme": {Notation: trust.Notation{CA: [][]byte{acme.pem()}}}}}, image)
			if len(got.Signatures) > 0 || len(got.Problems) != 1 {
				t.Errorf("signatures %+v, problems %q", got.Signatures, got.Problems)
			}
		})
	}
}

func TestNotationRefused(t *testing.T) {
	acme := newAuthority("acme")
	leaf := acme.leaf("acme", ecdsaKey(elliptic.P256()).Public(), time.Now(), time.Now().Add(time.Hour))
	for _, tc := range []struct {
		name string
		id   trust.Notation
		want string
	}{
		{"no authority", trust.Notation{Subjects: []string{"C=US, ST=WA, O=acme"}}, "needs the certificates"},
		{"no certificate", trust.Notation{CA: [][]byte{[]byte("x")}}, "no certificate"},
		{"a key", trust.Notation{CA: [][]byte{publicPEM(ecdsaKey(elliptic.P256()))}}, "certificates only"},
		{"a signer's certificate", trust.Notation{CA: [][]byte{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})}}, "not a CA"},
		{"a subject that is none", trust.Notation{CA: [][]byte{acme.pem()}, Subjects: []string{"acme"}}, "distinguished name"},
		{"subjects that overlap", trust.Notation{CA: [][]byte{acme.pem()}, Subjects: []string{"C=US, ST=WA, O=acme", "C=US, ST=WA, O=acme, OU=x"}}, "overlapping"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := trust.New(newShelf(), newMemory(), trust.Config{Identities: map[string]trust.Identity{"acme": {Notation: tc.id}}})
			if !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v; want an invalid one that says %q", err, tc.want)
			}
		})
	}
}
