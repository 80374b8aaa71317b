package trust_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/evidence/trust"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// publicPEM writes the public half as cosign does.
func publicPEM(k crypto.Signer) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(k.Public()))})
}

func ecdsaKey(c elliptic.Curve) *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(c, rand.Reader)) }

// payload is what cosign signs over an image.
func payload(image pratique.Ref) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"index.docker.io/library/app"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, image.Digest)
}

func sha(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

// signature signs as cosign does with such a key.
func signature(k crypto.Signer, message []byte) []byte {
	if ed, ok := k.(ed25519.PrivateKey); ok {
		return ed25519.Sign(ed, message)
	}
	return must(k.Sign(rand.Reader, sha(message), crypto.SHA256))
}

// signed is the layer of a signature.
func signed(content, sig []byte) layer {
	return layer{typeSimple, content, map[string]string{noteSignature: base64.StdEncoding.EncodeToString(sig)}}
}

func keys(ks map[string]crypto.Signer) trust.Config {
	ids := make(map[string]trust.Identity)
	for name, k := range ks {
		ids[name] = trust.Identity{Key: publicPEM(k)}
	}
	return trust.Config{Identities: ids}
}

func TestKeySigns(t *testing.T) {
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	p384, p521 := ecdsaKey(elliptic.P384()), ecdsaKey(elliptic.P521())
	image := newShelf().image(t, app, "app")
	content := payload(image)
	sum384, sum512 := sha512.Sum384(content), sha512.Sum512(content)
	p256 := ecdsaKey(elliptic.P256())
	for _, tc := range []struct {
		name string
		key  crypto.Signer
		sig  []byte
	}{
		{"ECDSA P-256", p256, signature(p256, content)},
		{"ECDSA P-384 with SHA-256, as cosign", p384, signature(p384, content)},
		{"ECDSA P-384 with SHA-384", p384, must(p384.Sign(rand.Reader, sum384[:], crypto.SHA384))},
		{"ECDSA P-521 with SHA-256, as cosign", p521, signature(p521, content)},
		{"ECDSA P-521 with SHA-512", p521, must(p521.Sign(rand.Reader, sum512[:], crypto.SHA512))},
		{"Ed25519", edKey, signature(edKey, content)},
		{"Ed25519ph", edKey, must(edKey.Sign(rand.Reader, sum512[:], crypto.SHA512))},
		{"RSA PKCS #1 v1.5", rsaKey, signature(rsaKey, content)},
		{"RSA PSS", rsaKey, must(rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, sha(content), nil))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			at := s.attach(t, image, ".sig", signed(content, tc.sig))
			got := verified(t, s, keys(map[string]crypto.Signer{"release": tc.key}), image)
			want := []pratique.Signature{{By: "release", Kind: "cosign", Digest: at.Digest}}
			if diff := cmp.Diff(want, got.Signatures); diff != "" || len(got.Problems) > 0 {
				t.Errorf("problems %q, signatures (-want +got):\n%s", got.Problems, diff)
			}
		})
	}
}

func TestKeyDoesNotSign(t *testing.T) {
	k, other := ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P256())
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	s := newShelf()
	image, another := s.image(t, app, "app"), s.image(t, app, "another")
	content := payload(image)
	mac := hmac.New(sha256.New, publicPEM(rsaKey))
	mac.Write(content)
	edit := func(old, text string) []byte { return []byte(strings.Replace(string(content), old, text, 1)) }
	for _, tc := range []struct {
		name  string
		layer layer
		why   string // of the problem
	}{
		{"another key", signed(content, signature(other, content)), "signed by none of the keys"},
		{"a signature over another image", signed(payload(another), signature(k, payload(another))), "signature over another manifest"},
		{"a payload that was changed", signed(content, signature(k, payload(another))), "signed by none of the keys"},
		{"two digests", func() layer {
			p := edit(`"docker-manifest-digest":`, fmt.Sprintf(`"docker-manifest-digest":"%s","docker-manifest-digest":`, another.Digest))
			return signed(p, signature(k, p))
		}(), `the key "docker-manifest-digest" comes twice`},
		{"two critical parts", func() layer {
			p := edit(`"optional":null`, `"critical":{}`)
			return signed(p, signature(k, p))
		}(), `the key "critical" comes twice`},
		{"the key in capitals", func() layer {
			p := edit(`"critical"`, `"Critical"`)
			return signed(p, signature(k, p))
		}(), "payload of type"},
		{"a payload of another type", func() layer {
			p := edit("cosign container image signature", "atomic container signature")
			return signed(p, signature(k, p))
		}(), "payload of type"},
		{"something after the payload", func() layer {
			p := append([]byte(nil), content...)
			p = append(p, "{}"...)
			return signed(p, signature(k, p))
		}(), "something follows the JSON object"},
		{"no signature", layer{typeSimple, content, nil}, "no signature"},
		{"a signature that is no base64", layer{typeSimple, content, map[string]string{noteSignature: "%%"}}, "no signature"},
		{"an HMAC by the public key", signed(content, mac.Sum(nil)), "signed by none of the keys"},
		{"no JSON", signed([]byte("\x00"), signature(k, []byte("\x00"))), "payload"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			at := s.attach(t, image, ".sig", tc.layer)
			got := verified(t, s, keys(map[string]crypto.Signer{"release": k, "rsa": rsaKey}), image)
			if len(got.Signatures) > 0 {
				t.Fatalf("it verified: %+v", got.Signatures)
			}
			if len(got.Problems) != 1 || !strings.Contains(got.Problems[0], tc.why) || !strings.HasPrefix(got.Problems[0], at.Digest.String()) {
				t.Errorf("problems %q; want one of %s with %q", got.Problems, at.Digest, tc.why)
			}

			// What does not verify hides nothing that does.
			s.attach(t, image, ".sig", tc.layer, signed(content, signature(k, content)))
			if got := verified(t, s, keys(map[string]crypto.Signer{"release": k}), image); !cmp.Equal(by(got), []string{"release"}) || len(got.Problems) != 1 {
				t.Errorf("beside a good one: signed by %q, problems %q", by(got), got.Problems)
			}
		})
	}
}

func TestKeyWhoeverElseIsNamed(t *testing.T) {
	a, b := ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P256())
	s := newShelf()
	image := s.image(t, app, "app")
	// The docker-reference in the payload is library/app; cosign does not look at it.
	copied := s.image(t, pratique.Ref{Registry: "mirror", Repo: "copy/app"}, "app")
	for _, ref := range []pratique.Ref{image, copied} {
		s.attach(t, ref, ".sig", signed(payload(ref), signature(a, payload(ref))), signed(payload(ref), signature(b, payload(ref))))
		got := verified(t, s, keys(map[string]crypto.Signer{"a": a, "b": b}), ref)
		if diff := cmp.Diff([]string{"a", "b"}, by(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", ref, diff)
		}
	}
}

func TestKeyRefused(t *testing.T) {
	weak := must(rsa.GenerateKey(rand.Reader, 1024)) //nolint:gosec // that is the point
	good := ecdsaKey(elliptic.P256())
	for _, tc := range []struct {
		name string
		key  []byte
		want string
	}{
		{"no PEM", []byte("ssh-ed25519 AAAA"), "no PEM"},
		{"a private key", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: []byte("x")}), "private key"},
		{"two keys", append(publicPEM(good), publicPEM(good)...), "more than one"},
		{"RSA of 1024 bits", publicPEM(weak), "1024 bits"},
		{"P-224", publicPEM(ecdsaKey(elliptic.P224())), "P-224"},
		{"nonsense", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), "invalid key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := trust.New(newShelf(), newMemory(), trust.Config{Identities: map[string]trust.Identity{"release": {Key: tc.key}}})
			if !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), `"release"`) {
				t.Errorf("got %v; want an invalid one that says %q", err, tc.want)
			}
		})
	}
}
