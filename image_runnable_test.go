package pratique

import (
	"errors"
	"fmt"
	"testing"
)

func TestRunnable(t *testing.T) {
	const (
		tgz    = "application/vnd.oci.image.layer.v1.tar+gzip"
		intoto = "application/vnd.in-toto+json"
		helm   = "application/vnd.cncf.helm.config.v1+json"
		chart  = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	)
	tests := []struct {
		name     string
		manifest string // media type; empty = OCI
		config   string
		layers   []string
		want     bool
	}{
		{"an OCI image", "", MediaTypeImageConfig, []string{tgz}, true},
		{"an OCI image without layers", "", MediaTypeImageConfig, nil, true},
		{"a Docker image", MediaTypeDockerManifest, MediaTypeDockerConfig, []string{"application/vnd.docker.image.rootfs.diff.tar.gzip"}, true},
		{"a Helm chart", "", helm, []string{chart}, false},
		{"a cosign signature", "", MediaTypeImageConfig, []string{"application/vnd.dev.cosign.simplesigning.v1+json"}, false},
		{"BuildKit attestations", "", MediaTypeImageConfig, []string{intoto, intoto}, false},
		{"an SBOM referrer", "", MediaTypeEmptyJSON, []string{"application/spdx+json"}, false},
		{"WebAssembly", "", "application/vnd.wasm.config.v0+json", []string{"application/wasm"}, false},

		{"an image that calls its config a chart's", "", helm, []string{tgz}, true},
		{"an image with one chart layer", "", MediaTypeImageConfig, []string{chart}, true},
		{"an image with an empty config", "", MediaTypeEmptyJSON, []string{tgz}, true},
		{"an image hidden among attestations", "", MediaTypeImageConfig, []string{intoto, tgz}, true},
		{"an image with an unknown layer among attestations", "", MediaTypeImageConfig, []string{intoto, "application/x-tar"}, true},
		{"an unknown layer type under an image config", "", MediaTypeImageConfig, []string{"application/octet-stream"}, true},
		{"an empty layer type under an image config", "", MediaTypeImageConfig, []string{""}, true},
		{"an encrypted layer", "", helm, []string{tgz + "+encrypted"}, true},
		{"a layer type in upper case", "", helm, []string{"Application/vnd.OCI.image.layer.v1.tar+gzip"}, true},
		{"a layer type with a parameter", "", helm, []string{tgz + "; charset=utf-8"}, true},
		{"a compression nobody has heard of", "", helm, []string{"application/vnd.oci.image.layer.v1.tar+br"}, true},
		{"a non-distributable layer", "", helm, []string{"application/vnd.oci.image.layer.nondistributable.v1.tar"}, true},
		{"a nameless config, as docker takes it", "", "application/octet-stream", []string{"application/octet-stream"}, true},
		{"a config of text/html, as docker takes it", "", "text/html", []string{"text/plain"}, true},
		{"a missing config type, as docker takes it", "", "", []string{"application/x"}, true},
		{"an image config in odd spelling", "", "application/vnd.oci.image.config.v1+JSON ; a=b", []string{"x/y"}, true},
		{"a chart in a Docker manifest, as podman runs it", MediaTypeDockerManifest, helm, []string{chart}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img := Image{MediaType: tt.manifest, Kind: KindArtifact, Config: Descriptor{MediaType: tt.config}}
			if img.MediaType == "" {
				img.MediaType = MediaTypeImageManifest
			}
			if isImageConfig(tt.config) {
				img.Kind = KindImage
			}
			for _, l := range tt.layers {
				img.Layers = append(img.Layers, Descriptor{MediaType: l})
			}
			if got := img.Runnable(); got != tt.want {
				t.Errorf("Runnable() = %v, want %v", got, tt.want)
			}
		})
	}
	if (Image{Kind: KindIndex, MediaType: MediaTypeImageIndex}).Runnable() {
		t.Error("an index is not run: its children are")
	}
}

// containerd takes a child from its descriptor before it asks a registry.
func TestIndexCarriesNoChild(t *testing.T) {
	const child = `"mediaType":"` + MediaTypeImageManifest + `","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2`
	tests := []struct {
		name, extra string
		ok          bool
	}{
		{"plain", ``, true},
		{"empty urls", `,"urls":[]`, true},
		{"data", `,"data":"e30="`, false},
		{"data in another spelling", `,"DATA":"e30="`, false},
		{"data that is no string", `,"data":1`, false},
		{"urls", `,"urls":["https://elsewhere.example/x"]`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, mediaType := range []string{MediaTypeImageIndex, MediaTypeDockerList} {
				raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{%s},{%s%s}]}`, mediaType, child, child, tt.extra)
				_, err := ParseManifest(mediaType, []byte(raw))
				if tt.ok && err != nil || !tt.ok && !errors.Is(err, ErrInvalid) {
					t.Errorf("ParseManifest: %v", err)
				}
			}
		})
	}
	// Artifacts carry their empty config as OCI image-spec 1.1 suggests.
	raw := `{"schemaVersion":2,"mediaType":"` + MediaTypeImageManifest + `","config":{"mediaType":"` + MediaTypeEmptyJSON + `","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"data":"e30="},"layers":[]}`
	if _, err := ParseManifest(MediaTypeImageManifest, []byte(raw)); err != nil {
		t.Errorf("an artifact with an empty config: %v", err)
	}
}
