package trust_test

import (
	"crypto"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
)

func TestWhatIsLookedAt(t *testing.T) {
	k := ecdsaKey(elliptic.P256())
	cfg := keys(map[string]crypto.Signer{"release": k})
	good := func(image pratique.Ref) layer { return signed(payload(image), signature(k, payload(image))) }
	for _, tc := range []struct {
		name    string
		prepare func(s *shelf, image pratique.Ref)
		signed  bool
		why     string // of a problem; empty: there is none
	}{
		{"nothing", func(*shelf, pratique.Ref) {}, false, ""},
		{"a type that is no signature", func(s *shelf, image pratique.Ref) {
			at := s.push(t, image, "application/spdx+json", "", &image, layer{mediaType: "application/spdx+json", content: []byte("{}")})
			s.refer(image, at, "application/spdx+json")
			s.breaks(func(_, name string) error {
				if strings.Contains(name, at.Digest.String()) {
					return errors.New("nobody should ask for this")
				}
				return nil
			})
		}, false, ""},
		{"a referrer that is gone", func(s *shelf, image pratique.Ref) {
			at := pratique.Ref{Registry: image.Registry, Repo: image.Repo, Digest: digest.FromString("gone")}
			s.refer(image, at, typeBundle)
			s.attach(t, image, ".sig", good(image))
		}, true, "not found"},
		{"a layer that is gone", func(s *shelf, image pratique.Ref) {
			s.attach(t, image, ".sig", good(image), signed(payload(image), []byte("x")))
			l := good(image)
			at := s.push(t, image, pratique.MediaTypeImageConfig, "", &image, layer{l.mediaType, append(l.content, ' '), l.notes})
			delete(s.blobs, image.Repository()+"@"+digest.FromBytes(append(l.content, ' ')).String())
			s.refer(image, at, "")
		}, true, "not found"},
		{"a layer that is too large", func(s *shelf, image pratique.Ref) {
			l := good(image)
			s.attach(t, image, ".sig", l, layer{l.mediaType, []byte(strings.Repeat(" ", 1<<20) + string(l.content)), l.notes})
		}, true, "at most 1048576 are read"},
		{"a bundle that is too large", func(s *shelf, image pratique.Ref) {
			s.attach(t, image, ".sig", good(image))
			s.attachBundle(t, image, []byte(strings.Repeat(" ", 10<<20+1)))
		}, true, "at most 10485760 are read"},
		{"more manifests than are looked at", func(s *shelf, image pratique.Ref) {
			for n := range 64 {
				at := s.push(t, image, pratique.MediaTypeEmptyJSON, typeBundle, &image, layer{mediaType: typeBundle, content: fmt.Appendf(nil, "%d", n)})
				s.refer(image, at, typeBundle)
			}
			s.attach(t, image, ".sig", good(image))
		}, false, "more"},
		{"more layers than are looked at", func(s *shelf, image pratique.Ref) {
			var ls []layer
			for range 128 {
				ls = append(ls, signed(payload(image), []byte("x")))
			}
			s.attach(t, image, ".sig", append(ls, good(image))...)
		}, false, "more than 128 signatures"},
		{"one manifest listed many times", func(s *shelf, image pratique.Ref) {
			at := s.attach(t, image, ".sig", good(image))
			for range 1000 {
				s.refer(image, at, "")
			}
		}, true, ""},
		{"a signature of another repository's tag", func(s *shelf, image pratique.Ref) {
			elsewhere := s.image(t, pratique.Ref{Registry: "docker.io", Repo: "library/other"}, "app")
			s.attach(t, elsewhere, ".sig", good(image))
		}, false, ""},
		{"an index in the place of a signature", func(s *shelf, image pratique.Ref) {
			s.tag(image, s.index(t, image, image), ".sig")
		}, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			tc.prepare(s, image)
			got := verified(t, s, cfg, image)
			if (len(got.Signatures) == 1) != tc.signed || len(got.Signatures) > 1 {
				t.Errorf("signatures %+v, want one: %t; problems %q", got.Signatures, tc.signed, got.Problems)
			}
			if all := strings.Join(got.Problems, "\n"); (tc.why == "") != (all == "") || !strings.Contains(all, tc.why) {
				t.Errorf("problems %q; want %q", got.Problems, tc.why)
			}
			if len(got.Problems) > 32 {
				t.Errorf("%d problems", len(got.Problems))
			}
		})
	}
}

// What stands in a problem was written by whoever may push.
func TestProblemsAreLines(t *testing.T) {
	k := ecdsaKey(elliptic.P256())
	s := newShelf()
	image := s.image(t, app, "app")
	p := replace(payload(image), "cosign container image signature", `evil\u001b[31m\n\u2028`+strings.Repeat("x", 1000))
	s.attach(t, image, ".sig", signed(p, signature(k, p)))
	i := newInstance(t)
	c := i.key(ask{subjects: []string{"https://evil.com/" + strings.Repeat("é", 500)}})
	s.attachBundle(t, image, i.attestation(c, statement(image, cosignSign, "{}")))
	cfg := keyless(i)
	got := verified(t, s, cfg, image)
	if len(got.Problems) != 2 {
		t.Fatalf("problems %q", got.Problems)
	}
	for _, p := range got.Problems {
		if len(p) > 310 || strings.ContainsFunc(p, unicode.IsControl) || strings.ContainsRune(p, '\u2028') {
			t.Errorf("problem %q of %d bytes", p, len(p))
		}
	}
}

func TestIndexSigns(t *testing.T) {
	k := ecdsaKey(elliptic.P256())
	cfg := keys(map[string]crypto.Signer{"release": k})
	sign := func(s *shelf, at pratique.Ref) {
		s.attach(t, at, ".sig", signed(payload(at), signature(k, payload(at))))
	}
	elsewhere := pratique.Ref{Registry: "docker.io", Repo: "evil/app"}
	for _, tc := range []struct {
		name    string
		prepare func(s *shelf, image pratique.Ref)
		want    bool
	}{
		{"a signed index that lists it", func(s *shelf, image pratique.Ref) { sign(s, s.index(t, app, image)) }, true},
		{"an index of a signed index", func(s *shelf, image pratique.Ref) {
			sign(s, s.index(t, app, s.index(t, app, image)))
		}, true},
		{"the second of two indexes", func(s *shelf, image pratique.Ref) {
			s.index(t, app, image)
			sign(s, s.index(t, app, image, image))
		}, true},
		{"an index that is not signed", func(s *shelf, image pratique.Ref) { s.index(t, app, image) }, false},
		{"a signed index that lists something else", func(s *shelf, image pratique.Ref) {
			at := s.index(t, app, s.image(t, app, "another"))
			sign(s, at)
			s.adopt(image, at)
		}, false},
		{"a signed index of another repository", func(s *shelf, image pratique.Ref) {
			copied := s.image(t, elsewhere, "app")
			at := s.index(t, elsewhere, copied)
			sign(s, at)
			s.adopt(image, at)
		}, false},
		{"a signed image in the place of an index", func(s *shelf, image pratique.Ref) {
			at := s.image(t, app, "another")
			sign(s, at)
			s.adopt(image, at)
		}, false},
		{"its signature over the index names the image", func(s *shelf, image pratique.Ref) {
			at := s.index(t, app, image)
			s.attach(t, at, ".sig", signed(payload(image), signature(k, payload(image))))
		}, false},
		{"another image of the index is signed", func(s *shelf, image pratique.Ref) {
			another := s.image(t, app, "another")
			sign(s, another)
			s.index(t, app, image, another)
		}, false},
		{"an index that is gone", func(s *shelf, image pratique.Ref) {
			s.adopt(image, app.At(digest.FromString("gone")))
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			tc.prepare(s, image)
			if got := verified(t, s, cfg, image); (len(got.Signatures) == 1) != tc.want {
				t.Errorf("signatures %+v, problems %q; want one: %t", got.Signatures, got.Problems, tc.want)
			}
		})
	}
}

// A statement about the index speaks of the image, too; VEX is about the image
// alone then.
func TestIndexStates(t *testing.T) {
	k := ecdsaKey(elliptic.P256())
	s := newShelf()
	image := s.image(t, app, "app")
	index := s.index(t, app, image)
	s.attachBundle(t, index, keyBundle(k, statement(index, slsa1, `{"runDetails":{"builder":{"id":"b"}}}`)))
	s.attachBundle(t, index, keyBundle(k, statement(index, openVEX, `{}`)))
	cfg := keys(map[string]crypto.Signer{"ci": k})
	cfg.SignedBy = []string{"ci"}
	cfg.ParseVEX = func([]byte) ([]pratique.Statement, error) { return []pratique.Statement{{Document: "doc"}}, nil }
	got := verified(t, s, cfg, image)
	if len(got.Provenance) != 1 || len(got.Statements) != 1 || got.Statements[0].Image != image.Digest {
		t.Errorf("got %+v", got)
	}
	if diff := cmp.Diff([]string{image.String(), index.String()}, got.Subjects); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}
}

func TestOtherBytes(t *testing.T) {
	k := ecdsaKey(elliptic.P256())
	cfg := keys(map[string]crypto.Signer{"release": k})
	s := newShelf()
	image := s.image(t, app, "app")
	good := signed(payload(image), signature(k, payload(image)))
	s.attach(t, image, ".sig", good)
	s.blobs[image.Repository()+"@"+digest.FromBytes(good.content).String()] = []byte(`{"other":"bytes"}`)
	if got := verified(t, s, cfg, image); len(got.Signatures) > 0 || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "other bytes") {
		t.Errorf("signatures %+v, problems %q", got.Signatures, got.Problems)
	}
	m := s.manifests[image.String()]
	m.raw = append(m.raw, ' ')
	s.manifests[image.String()] = m
	_, err := newTrust(t, s, newMemory(), cfg).Attestations(t.Context(), image, pratique.Image{Digest: image.Digest}, true)
	if err == nil || !strings.Contains(err.Error(), "other bytes") {
		t.Errorf("a manifest of other bytes: %v", err)
	}
}

func FuzzHostile(f *testing.F) {
	k := ecdsaKey(elliptic.P256())
	image := newShelf().image(f, app, "app")
	st := statement(image, cosignSign, "{}")
	f.Add(payload(image), "c2ln", "", "{}")
	f.Add(envelope(st, []byte("x")), "c2ln", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", `{"SignedEntryTimestamp":"eA==","Payload":{"body":"e30=","integratedTime":1,"logIndex":1,"logID":"00"}}`)
	f.Add(keyBundle(k, st), "", "", "")
	i := newInstance(f)
	c := i.key(ask{})
	f.Add(i.attestation(c, st), string(c.pem()), string(c.pem()), i.keyless(c, payload(image)).notes["dev.sigstore.cosign/bundle"])
	cfg := keyless(i)
	cfg.Identities["key"] = keys(map[string]crypto.Signer{"key": k}).Identities["key"]
	f.Fuzz(func(t *testing.T, content []byte, sig, cert, log string) {
		notes := map[string]string{noteSignature: sig, "dev.sigstore.cosign/certificate": cert, "dev.sigstore.cosign/bundle": log}
		for n := range notes {
			if b, err := json.Marshal(notes[n]); err != nil || !json.Valid(b) {
				t.Skip()
			}
		}
		s := newShelf()
		image := s.image(t, app, "app")
		s.attach(t, image, ".sig", layer{typeSimple, content, notes}, layer{typeDSSE, content, notes}, layer{typeBundle, content, nil}, layer{mediaType: "x", content: content})
		s.notarize(t, image, "application/jose+json", content)
		got := verified(t, s, cfg, image)
		for _, p := range got.Problems {
			if strings.Contains(p, "cannot be read") {
				t.Errorf("it panics: %q", p)
			}
		}
		if len(got.Signatures)+len(got.Provenance) > 0 && string(content) != string(keyBundle(k, st)) && len(content) < 100 {
			t.Errorf("it verified: %+v", got)
		}
	})
}
