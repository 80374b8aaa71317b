package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"pratique"
)

// key is a trusted public key. The key decides by which algorithms it is used;
// nothing in a signature does.
type key struct {
	name      string
	verifiers []signature.Verifier
}

const minRSABits = 2048

// newKey reads a public key, PEM.
func newKey(name string, text []byte) (key, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return key{}, fmt.Errorf("%w key: no PEM in it; `cosign public-key` writes one", pratique.ErrInvalid)
	case strings.Contains(block.Type, "PRIVATE"):
		return key{}, fmt.Errorf("%w key: this is the private key; give the public one (cosign.pub), and consider this one known", pratique.ErrInvalid)
	case len(bytes.TrimSpace(rest)) > 0:
		return key{}, fmt.Errorf("%w key: more than one in a file; make an identity of each", pratique.ErrInvalid)
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(text)
	if err != nil {
		return key{}, fmt.Errorf("%w key: %w", pratique.ErrInvalid, err)
	}
	k := key{name: name}
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		// cosign signs payloads with SHA-256 on every curve, bundles with the hash
		// that fits the curve.
		hash := map[elliptic.Curve]crypto.Hash{elliptic.P256(): crypto.SHA256, elliptic.P384(): crypto.SHA384, elliptic.P521(): crypto.SHA512}[p.Curve]
		if hash == 0 {
			return key{}, fmt.Errorf("%w key: ECDSA on %s; want P-256, P-384 or P-521", pratique.ErrInvalid, p.Curve.Params().Name)
		}
		err = errors.Join(k.verifier(signature.LoadECDSAVerifier(p, hash)), k.verifier(signature.LoadECDSAVerifier(p, crypto.SHA256)))
	case ed25519.PublicKey:
		err = errors.Join(k.verifier(signature.LoadED25519Verifier(p)), k.verifier(signature.LoadED25519phVerifier(p)))
	case *rsa.PublicKey:
		if p.N.BitLen() < minRSABits {
			return key{}, fmt.Errorf("%w key: RSA of %d bits; want at least %d", pratique.ErrInvalid, p.N.BitLen(), minRSABits)
		}
		err = errors.Join(k.verifier(signature.LoadRSAPKCS1v15Verifier(p, crypto.SHA256)), k.verifier(signature.LoadRSAPSSVerifier(p, crypto.SHA256, nil)))
	default:
		err = fmt.Errorf("%T; want ECDSA, Ed25519 or RSA", public)
	}
	if err != nil {
		return key{}, fmt.Errorf("%w key: %w", pratique.ErrInvalid, err)
	}
	return k, nil
}

func (k *key) verifier(v signature.Verifier, err error) error {
	if err == nil {
		k.verifiers = append(k.verifiers, v)
	}
	return err
}

// signed reports whether the key made the signature over the message.
func (k key) signed(sig, message []byte) bool {
	for _, v := range k.verifiers {
		if v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)) == nil {
			return true
		}
	}
	return false
}
