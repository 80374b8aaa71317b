package pratique_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
)

var (
	configDigest = digest.FromString("config")
	layerDigest  = digest.FromString("layer")
)

// parts of documents.
var (
	aConfig = fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":6}`, configDigest)
	aLayer  = fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"%s","size":5}`, layerDigest)
	aChild  = fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":5,"platform":{"os":"linux","architecture":"amd64"}}`, layerDigest)
	anImage = fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}`, aConfig, aLayer)
	anIndex = fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}`, aChild)
)

func TestParseManifest(t *testing.T) {
	config := pratique.Descriptor{MediaType: pratique.MediaTypeImageConfig, Digest: configDigest, Size: 6}
	layer := pratique.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: layerDigest, Size: 5}
	child := pratique.Descriptor{MediaType: pratique.MediaTypeImageManifest, Digest: layerDigest, Size: 5, Platform: &pratique.Platform{OS: "linux", Architecture: "amd64"}}
	image := pratique.Image{MediaType: pratique.MediaTypeImageManifest, Kind: pratique.KindImage, Config: config, Layers: []pratique.Descriptor{layer}}
	index := pratique.Image{MediaType: pratique.MediaTypeImageIndex, Kind: pratique.KindIndex, Children: []pratique.Descriptor{child}}
	with := func(i pratique.Image, change func(*pratique.Image)) pratique.Image { change(&i); return i }

	for _, test := range []struct {
		name, contentType, raw string
		want                   pratique.Image
	}{
		{"image", pratique.MediaTypeImageManifest, anImage, image},
		{"index", pratique.MediaTypeImageIndex, anIndex, index},
		{"parameters of the type", pratique.MediaTypeImageManifest + "; charset=utf-8", anImage, image},
		{"a type that says nothing", "application/octet-stream", anImage, image},
		{"no type, image by its shape", "", strings.Replace(anImage, `"mediaType":"application/vnd.oci.image.manifest.v1+json",`, "", 1), image},
		{"no type, index by its shape", "", strings.Replace(anIndex, `"mediaType":"application/vnd.oci.image.index.v1+json",`, "", 1), index},
		{"type from outside only", pratique.MediaTypeDockerManifest, strings.Replace(anImage, `"mediaType":"application/vnd.oci.image.manifest.v1+json",`, "", 1),
			with(image, func(i *pratique.Image) { i.MediaType = pratique.MediaTypeDockerManifest })},
		{"empty index", "", `{"schemaVersion":2,"manifests":[]}`, with(index, func(i *pratique.Image) { i.Children = []pratique.Descriptor{} })},
		{"white space around", "", " \n" + anIndex + "\n", index},
		{"image without layers", "", strings.Replace(anImage, "["+aLayer+"]", "[]", 1), with(image, func(i *pratique.Image) { i.Layers = []pratique.Descriptor{} })},
		{"unknown keys", "", strings.Replace(anImage, `{`, `{"x-vendor":{"Digest2":1,"a":[{"b":null}]},`, 1), image},
		{"annotations hold what they like", "", strings.Replace(anImage, `{`, `{"annotations":{"Layers":"a","layers":"b","org.x":"ſ"},`, 1),
			with(image, func(i *pratique.Image) {
				i.Annotations = map[string]string{"Layers": "a", "layers": "b", "org.x": "ſ"}
			})},
		{"artifact by its config", "", strings.Replace(anImage, "application/vnd.oci.image.config.v1+json", "application/vnd.cncf.helm.config.v1+json", 1),
			with(image, func(i *pratique.Image) {
				i.Kind, i.ArtifactType = pratique.KindArtifact, "application/vnd.cncf.helm.config.v1+json"
				i.Config.MediaType = i.ArtifactType
			})},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := pratique.ParseManifest(test.contentType, []byte(test.raw))
			if err != nil {
				t.Fatal(err)
			}
			test.want.Digest, test.want.Size = digest.FromString(test.raw), int64(len(test.raw))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestParseManifestRefuses holds what would let a client and the scanner read
// two different images out of the same bytes, and what is simply broken.
func TestParseManifestRefuses(t *testing.T) {
	replaced := func(old, new string) string {
		t.Helper()
		out := strings.Replace(anImage, old, new, 1)
		if out == anImage {
			t.Fatalf("%q is not in the image", old)
		}
		return out
	}
	for _, test := range []struct{ name, contentType, raw, want string }{
		// CVE-2021-41190.
		{"index under an image's type", pratique.MediaTypeImageManifest, anIndex, "Content-Type"},
		{"image under an index's type", pratique.MediaTypeImageIndex, anImage, "Content-Type"},
		{"OCI under Docker's type", pratique.MediaTypeDockerManifest, anImage, "Content-Type"},
		{"both manifests and layers", "", replaced(`"layers"`, `"manifests":[`+aChild+`],"layers"`), "both manifests and layers"},
		{"an empty list of manifests in an image", "", replaced(`"layers"`, `"manifests":[],"layers"`), "both manifests and layers"},
		{"layers in an index", "", strings.Replace(anIndex, `"manifests"`, `"layers":[],"manifests"`, 1), "both manifests and layers"},
		{"layers under an index's type", pratique.MediaTypeImageIndex, `{"schemaVersion":2,"layers":[` + aLayer + `]}`, "with a config or layers"},
		{"manifests under an image's type", pratique.MediaTypeImageManifest, `{"schemaVersion":2,"manifests":[` + aChild + `]}`, "without a config or with manifests"},
		{"an image's type without a config", pratique.MediaTypeImageManifest, `{"schemaVersion":2,"layers":[` + aLayer + `]}`, "without a config"},
		{"a null config", "", replaced(aConfig, "null"), "without a config"},

		// Readers that disagree.
		{"a key twice", "", replaced(`"layers"`, `"layers":[],"layers"`), `key "layers" is there twice`},
		{"config twice", "", replaced(`"config"`, `"config":`+aConfig+`,"config"`), `key "config" is there twice`},
		{"a digest twice", "", replaced(`"size":5`, `"size":5,"digest":"`+configDigest.String()+`"`), `key "digest" is there twice`},
		{"a key twice, once escaped", "", replaced(`"layers"`, `"l\u0061yers":[],"layers"`), `key "layers" is there twice`},
		{"another case", "", replaced(`"layers"`, `"Layers"`), `key "Layers": clients disagree`},
		{"another case besides", "", replaced(`"layers"`, `"LAYERS":[],"layers"`), `key "LAYERS": clients disagree`},
		{"long s", "", replaced(`"layers"`, `"layerſ":[],"layers"`), `clients disagree whether it is "layers"`},
		{"long s, escaped", "", `{"manife\u017fts":[],` + anImage[1:], `clients disagree whether it is "manifests"`},
		{"another case in a descriptor", "", replaced(`"size":5`, `"size":5,"Digest":"`+configDigest.String()+`"`), `clients disagree whether it is "digest"`},
		{"another case in a platform", "", strings.Replace(anIndex, `"os":"linux"`, `"os":"linux","OS":"windows"`, 1), `clients disagree whether it is "os"`},
		{"an annotation twice", "", replaced(`"config"`, `"annotations":{"a":"1","a":"2"},"config"`), `key "a" is there twice`},
		{"not UTF-8", "", replaced(`"config"`, "\"x\xff\":1,\"config\""), "not UTF-8"},
		{"byte order mark", "", "\ufeff" + anImage, "invalid character"},
		{"something after the end", "", anImage + "{}", "invalid manifest"},
		{"rubbish after the end", "", anImage + "x", "invalid manifest"},
		{"two documents", "", anImage + anIndex, "invalid manifest"},

		// Fetched past the gate.
		{"a child from elsewhere", "", strings.Replace(anIndex, `"size":5`, `"size":5,"urls":["https://elsewhere.example/m"]`, 1), "not from the registry"},
		{"a config from elsewhere", "", replaced(`"size":6`, `"size":6,"urls":["https://elsewhere.example/c"]`), "not from the registry"},

		// Not supported.
		{"schema 1 by type", pratique.MediaTypeSignedSchema1, `{"schemaVersion":1}`, "Docker schema 1 is not supported"},
		{"schema 1 by version", "", `{"schemaVersion":1,"fsLayers":[]}`, "Docker schema 1 is not supported"},
		{"schema 1 in disguise", "", replaced(`"layers"`, `"fsLayers":[],"layers"`), "Docker schema 1 is not supported"},
		{"schema 3", "", `{"schemaVersion":3}`, "schemaVersion 3, want 2"},
		{"no schema", "", `{}`, "schemaVersion 0, want 2"},
		{"nothing in it", "", `{"schemaVersion":2}`, "neither a media type, nor a config, nor manifests"},
		{"another media type", "", replaced("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.artifact.manifest.v1+json"), "is not supported"},
		{"no mediaType under a type that says nothing", "text/html", `{"schemaVersion":2}`, "neither a media type"},

		// Broken.
		{"empty", "", "", "invalid manifest"},
		{"HTML", "text/html", "<html>", "invalid manifest"},
		{"a list", "", "[]", "invalid manifest"},
		{"null", "", "null", "schemaVersion 0"},
		{"cut off", "", anImage[:len(anImage)-1], "invalid manifest"},
		{"deep", "", `{"x":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + "}", "nests deeper than 32"},
		{"deep in objects", "", strings.Repeat(`{"x":`, 40) + "1" + strings.Repeat("}", 40), "nests deeper than 32"},
		{"too large", "", anImage + strings.Repeat(" ", pratique.MaxManifestSize), "at most 4194304 are accepted"},
		{"a size beyond int64", "", replaced(`"size":5`, `"size":9223372036854775808`), "invalid manifest"},
		{"a size with a fraction", "", replaced(`"size":5`, `"size":5.5`), "invalid manifest"},
		{"a size in exponents", "", replaced(`"size":5`, `"size":1e400`), "invalid manifest"},
		{"a negative size", "", replaced(`"size":5`, `"size":-5`), "has size -5"},
		{"a size in a string", "", replaced(`"size":5`, `"size":"5"`), "invalid manifest"},
		{"no digest", "", replaced(`"digest":"`+layerDigest.String()+`"`, `"x":1`), "invalid digest"},
		{"a short digest", "", replaced(layerDigest.String(), "sha256:ab"), "invalid digest"},
		{"a digest that is a path", "", replaced(layerDigest.String(), "sha256:../../../etc/passwd"), "invalid digest"},
		{"a weak digest", "", replaced(layerDigest.String(), "md5:d41d8cd98f00b204e9800998ecf8427e"), "invalid digest"},
		{"a digest in capitals", "", replaced(layerDigest.String(), "sha256:"+strings.ToUpper(layerDigest.Encoded())), "invalid digest"},
		{"a null layer", "", replaced(aLayer, "null"), "layer: invalid digest"},
		{"a config that is a string", "", replaced(aConfig, `"x"`), "invalid manifest"},
		{"a broken subject", "", replaced(`"layers"`, `"subject":{},"layers"`), "subject: invalid digest"},
		{"a broken child", "", strings.Replace(anIndex, layerDigest.String(), "", 1), "child: invalid digest"},
	} {
		t.Run(test.name, func(t *testing.T) {
			img, err := pratique.ParseManifest(test.contentType, []byte(test.raw))
			if !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%.300v, want %q", err, test.want)
			}
			if diff := cmp.Diff(pratique.Image{}, img); diff != "" {
				t.Errorf("an image came with the error:\n%s", diff)
			}
		})
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(pratique.MediaTypeImageManifest, []byte(anImage))
	f.Add(pratique.MediaTypeImageIndex, []byte(anIndex))
	f.Add("", []byte(`{"schemaVersion":2,"manifests":[{}]}`))
	f.Add("text/plain; a=b", []byte(`{"schemaVersion":2,"layers":null,"Config":{"a":[{"b":"\u017f"}]}}`))
	f.Fuzz(func(t *testing.T, mediaType string, raw []byte) {
		img, err := pratique.ParseManifest(mediaType, raw)
		if err != nil {
			if !errors.Is(err, pratique.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if img.Digest != digest.FromBytes(raw) || img.Size != int64(len(raw)) {
			t.Fatalf("%s, %d", img.Digest, img.Size)
		}
		if (img.Kind == pratique.KindIndex) != (img.Config.Digest == "") || img.Kind == pratique.KindIndex && img.Layers != nil {
			t.Fatalf("both kinds at once: %+v", img)
		}
		// Every reader that takes keys literally must see the same layers and
		// children.
		var literal map[string]json.RawMessage
		if err := json.Unmarshal(raw, &literal); err != nil {
			t.Fatal(err)
		}
		for key, n := range map[string]int{"layers": len(img.Layers), "manifests": len(img.Children)} {
			var list []json.RawMessage
			if v, ok := literal[key]; ok {
				if err := json.Unmarshal(v, &list); err != nil {
					t.Fatal(err)
				}
			}
			if len(list) != n {
				t.Fatalf("%d %s, a literal reader sees %d", n, key, len(list))
			}
		}
		// A stored image is read back as it was.
		stored, err := json.Marshal(img)
		if err != nil {
			t.Fatal(err)
		}
		var again pratique.Image
		if err := json.Unmarshal(stored, &again); err != nil {
			t.Fatal(err)
		}
		if again.Digest != img.Digest || len(again.Layers) != len(img.Layers) || len(again.Children) != len(img.Children) {
			t.Fatalf("read back: %+v, want %+v", again, img)
		}
	})
}

func TestPlatformMatches(t *testing.T) {
	for _, test := range []struct {
		child, wanted string
		want          bool
	}{
		{"linux/amd64", "linux/amd64", true},
		{"linux/amd64", "linux/arm64", false},
		{"windows/amd64", "linux/amd64", false},
		{"linux/amd64/v3", "linux/amd64", true},
		{"linux/amd64", "linux/amd64/v3", false},
		{"linux/amd64/v1", "linux/amd64", true},
		{"linux/arm64/v8", "linux/arm64", true},
		{"linux/arm64", "linux/arm64/v8", true},
		{"linux/arm64/v8", "linux/arm64/v8", true},
		{"linux/arm64/v9", "linux/arm64", true},
		{"linux/arm/v6", "linux/arm", true},
		{"linux/arm/v6", "linux/arm/v7", false},
		{"linux/arm", "linux/arm/v7", true},
		{"linux/arm/7", "linux/arm/v7", true},
		{"linux/armhf", "linux/arm/v7", true},
		{"linux/x86_64", "linux/amd64", true},
		{"Linux/AMD64", "linux/amd64", true},
		{"linux/aarch64", "linux/arm64", true},
		{"linux/i386", "linux/386", true},
		{"macos/arm64", "darwin/arm64", true},
		{"unknown/unknown", "linux/amd64", false},
	} {
		child, err := pratique.ParsePlatform(test.child)
		if err != nil {
			t.Fatal(err)
		}
		wanted, err := pratique.ParsePlatform(test.wanted)
		if err != nil {
			t.Fatal(err)
		}
		if got := child.Matches(wanted); got != test.want {
			t.Errorf("%s wanted as %s: %v", test.child, test.wanted, got)
		}
	}
}

func TestParsePlatform(t *testing.T) {
	for _, s := range []string{"linux/amd64", "linux/arm/v7", "windows/amd64", "wasip1/wasm"} {
		p, err := pratique.ParsePlatform(s)
		if err != nil || p.String() != s {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "/", "linux", "linux/", "/amd64", "linux/amd64/", "linux//v8", "linux/arm/v7/x", "linux/amd64 ", "linux/am\nd64", "li*ux/amd64", "-/-"} {
		if p, err := pratique.ParsePlatform(s); !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
}

func TestWanted(t *testing.T) {
	at := func(name, platform string) pratique.Descriptor {
		d := pratique.Descriptor{MediaType: pratique.MediaTypeImageManifest, Digest: digest.FromString(name)}
		if platform != "" {
			p, err := pratique.ParsePlatform(platform)
			if err != nil {
				t.Fatal(err)
			}
			d.Platform = &p
		}
		return d
	}
	amd64, arm64, windows := at("amd64", "linux/amd64"), at("arm64", "linux/arm64/v8"), at("windows", "windows/amd64")
	attestation, bare := at("attestation", "unknown/unknown"), at("bare", "")
	hollow := at("hollow", "")
	hollow.Platform = &pratique.Platform{}
	amd64Again := amd64
	amd64Again.Annotations = map[string]string{"again": "yes"}
	index := pratique.Image{Kind: pratique.KindIndex, Children: []pratique.Descriptor{amd64, attestation, windows, arm64, bare, hollow, amd64Again}}

	for _, test := range []struct {
		name      string
		platforms []string
		want      []pratique.Descriptor
	}{
		{"in the order of the platforms", []string{"linux/arm64", "linux/amd64"}, []pratique.Descriptor{arm64, amd64, bare, hollow}},
		{"one", []string{"windows/amd64"}, []pratique.Descriptor{windows, bare, hollow}},
		{"none that is there", []string{"linux/s390x"}, []pratique.Descriptor{bare, hollow}},
		{"no platforms are all but attestations", nil, []pratique.Descriptor{amd64, windows, arm64, bare, hollow}},
		{"a platform twice", []string{"linux/amd64", "linux/amd64"}, []pratique.Descriptor{amd64, bare, hollow}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var platforms []pratique.Platform
			for _, s := range test.platforms {
				p, err := pratique.ParsePlatform(s)
				if err != nil {
					t.Fatal(err)
				}
				platforms = append(platforms, p)
			}
			if diff := cmp.Diff(test.want, index.Wanted(platforms)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := (pratique.Image{Kind: pratique.KindIndex}).Wanted(nil); len(got) != 0 {
		t.Errorf("children of an empty index: %v", got)
	}
}

func TestForeign(t *testing.T) {
	for _, test := range []struct {
		name  string
		layer pratique.Descriptor
		want  bool
	}{
		{"plain", pratique.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip"}, false},
		{"with a URL", pratique.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", URLs: []string{"https://x"}}, true},
		{"OCI non-distributable", pratique.Descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}, true},
		{"Docker foreign", pratique.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}, true},
	} {
		img := pratique.Image{Layers: []pratique.Descriptor{{MediaType: "application/vnd.oci.image.layer.v1.tar"}, test.layer}}
		if _, got := img.Foreign(); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
