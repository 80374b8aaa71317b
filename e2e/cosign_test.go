//go:build e2e

package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
)

// trusting is the configuration's lines for a policy with these rules and one
// identity, release, whose public key is in the file.
func trusting(t testing.TB, public, rules string) string {
	t.Helper()
	return policies(t, rules) + fmt.Sprintf("trust: {identities: {release: {key: %q}}}\n", public)
}

const onlySigned = "  - {name: signed, signature: {by: [release]}, action: deny}\n"

// signer signs as cosign did before bundles, without any of its code.
type signer struct {
	key    *ecdsa.PrivateKey
	public string // file
}

func newSigner(t testing.TB) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(workdir(t, "key"), "cosign.pub")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return signer{key, path}
}

// sign puts a signature over the digest beside it.
func (s signer) sign(t testing.TB, u *Upstream, repo, digest string) {
	t.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, digest)
	sum := sha256.Sum256(payload)
	sig, err := s.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:       static.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)},
	})
	if err != nil {
		t.Fatal(err)
	}
	u.Push(t, img, repo+":"+strings.Replace(digest, ":", "-", 1)+".sig")
}

// pushIndex pushes an index of images, and returns its digest.
func pushIndex(t testing.TB, u *Upstream, reference string, images ...v1.Image) string {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for i, img := range images {
		platform := &v1.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[i]}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform}})
	}
	ref, err := name.ParseReference(u.Addr+"/"+reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	d, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// TestSignature: what nobody known signed is refused by every door; a signature
// of the index counts for the images in it.
func TestSignature(t *testing.T) {
	t.Parallel() // waits most of the time
	u := StartUpstream(t)
	release, stranger := newSigner(t), newSigner(t)
	img := archived(t, "debian-bookworm-patched-skeleton")
	u.Push(t, labelled(t, img, "unsigned"), "demo/signature:unsigned")
	stranger.sign(t, u, "demo/signature", u.Push(t, labelled(t, img, "stranger"), "demo/signature:stranger"))
	release.sign(t, u, "demo/signature", u.Push(t, labelled(t, img, "signed"), "demo/signature:signed"))
	child := labelled(t, img, "child")
	release.sign(t, u, "demo/signature", pushIndex(t, u, "demo/signature:index", child, labelled(t, img, "other")))

	p := StartPratique(t, u, Options{TagTTL: "1s", Extra: trusting(t, release.public, onlySigned)})
	p.becomes(t, "demo/signature:unsigned", http.StatusForbidden, 20*time.Second)
	told(t, p, u, "unsigned", "demo/signature:unsigned", "house/signed")
	if body, _ := p.becomes(t, "demo/signature:stranger", http.StatusForbidden, 20*time.Second); !strings.Contains(body, "release") {
		t.Errorf("the refusal does not say who should have signed: %s", body)
	}
	p.becomes(t, "demo/signature:signed", http.StatusOK, 20*time.Second)
	pulled(t, p, "demo/signature:signed")

	byDigest := "demo/signature@" + digestOf(t, child)
	p.becomes(t, byDigest, http.StatusForbidden, 20*time.Second) // its index is not known here yet
	p.becomes(t, "demo/signature:index", http.StatusOK, 20*time.Second)
	p.becomes(t, byDigest, http.StatusOK, 20*time.Second)
	pulled(t, p, "demo/signature:index")

	// What was verified outlives the registry that holds it, and a restart.
	u.Stop()
	p.Stop()
	p.Start(t)
	p.becomes(t, byDigest, http.StatusOK, 20*time.Second)
	p.becomes(t, "demo/signature:unsigned", http.StatusForbidden, 20*time.Second)
}
