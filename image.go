package pratique

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Media types Pratique knows. Source: OCI image-spec 1.1, Docker distribution.
const (
	MediaTypeImageIndex     = "application/vnd.oci.image.index.v1+json"
	MediaTypeImageManifest  = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeImageConfig    = "application/vnd.oci.image.config.v1+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	MediaTypeSignedSchema1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	MediaTypeEmptyJSON      = "application/vnd.oci.empty.v1+json"
)

// Limits that every manifest is held to before it is parsed or kept.
const (
	// MaxManifestSize in bytes (OCI distribution-spec 1.1: registries should accept 4 MiB).
	MaxManifestSize = 4 << 20
	// MaxConfigSize in bytes for an image config.
	MaxConfigSize = 8 << 20
	// MaxIndexDepth is how deep indexes may nest.
	MaxIndexDepth = 4
)

// ImageKind tells what a manifest describes.
type ImageKind string

// Kinds of manifests. The zero value is nothing that may be served.
const (
	KindImage    ImageKind = "image"    // runnable: a config and root file system layers
	KindIndex    ImageKind = "index"    // OCI index or Docker list
	KindArtifact ImageKind = "artifact" // chart, signature, SBOM, attestation, WebAssembly, unknown
)

// Descriptor points at content. Source: OCI image-spec, "descriptor".
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       digest.Digest     `json:"digest"`
	Size         int64             `json:"size"`
	Platform     *Platform         `json:"platform,omitempty"`
	URLs         []string          `json:"urls,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// Image is one resolved manifest, the unit of a verdict: a runnable image, an
// index of images, or another artifact. Its bytes live in the blob store under
// Digest; Image never changes once parsed.
type Image struct {
	Digest       digest.Digest     `json:"digest"`
	MediaType    string            `json:"mediaType"`
	Size         int64             `json:"size"`
	Kind         ImageKind         `json:"kind"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Config       Descriptor        `json:"config,omitzero"`
	Layers       []Descriptor      `json:"layers,omitempty"`   // in order, base first
	Children     []Descriptor      `json:"children,omitempty"` // of an index, in order
	Subject      *Descriptor       `json:"subject,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	// FirstSeen is when Pratique first saw the digest; zero in a freshly parsed
	// Image. `created` in a config is a claim, this is not.
	FirstSeen time.Time `json:"firstSeen,omitzero"`
}

// Wanted are the children of an index for the given platforms, ordered as the
// platforms are. With no platforms every runnable child is wanted. Children
// without a platform that are not attestations are always wanted: nothing says
// that no client runs them.
func (i Image) Wanted(platforms []Platform) []Descriptor {
	var out []Descriptor
	taken := make(map[digest.Digest]bool)
	add := func(d Descriptor) {
		if !taken[d.Digest] {
			taken[d.Digest] = true
			out = append(out, d)
		}
	}
	for _, w := range platforms {
		for _, c := range i.Children {
			if c.Platform != nil && c.Platform.Matches(w) {
				add(c)
			}
		}
	}
	for _, c := range i.Children {
		switch {
		case c.Platform == nil || c.Platform.OS == "" && c.Platform.Architecture == "":
			add(c)
		case len(platforms) == 0 && c.Platform.OS != "unknown":
			add(c)
		}
	}
	return out
}

// rawManifest is the union of the fields of every manifest kind.
type rawManifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *Descriptor       `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Manifests     []Descriptor      `json:"manifests"`
	Subject       *Descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
	FSLayers      json.RawMessage   `json:"fsLayers"`
}

// carried is the part of a descriptor that holds the content itself (OCI
// image-spec 1.1, "data").
type carried struct {
	Manifests []struct {
		Data json.RawMessage `json:"data"`
	} `json:"manifests"`
}

// carriesChild refuses an index that holds a child's content inside the
// descriptor: containerd takes that before it asks a registry, so a refused
// child would come along with an index that is served for the sake of another.
// Inside an image such content is the image's own.
func carriesChild(children []Descriptor, raw []byte) error {
	var c carried
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("%w manifest: %w", ErrInvalid, err)
	}
	for i, child := range children {
		if i < len(c.Manifests) && len(c.Manifests[i].Data) > 0 {
			return fmt.Errorf("%w manifest: child %s of the index is carried inside its descriptor (data); push the index without that", ErrInvalid, child.Digest)
		}
	}
	return nil
}

// mixed reports whether the document holds parts of both an index and an image,
// empty ones included: which of them counts would be the client's choice.
func (m *rawManifest) mixed() bool {
	return m.Manifests != nil && (m.Config != nil || m.Layers != nil)
}

// ParseManifest reads a manifest's bytes. mediaType is the Content-Type the
// upstream sent; when the document names its own media type the two must agree
// in kind, else one client would read an index where another reads an image
// (CVE-2021-41190). What clients would read differently is refused altogether
// (see checkDocument). The error wraps ErrInvalid and says what to do.
func ParseManifest(mediaType string, raw []byte) (Image, error) {
	if len(raw) > MaxManifestSize {
		return Image{}, fmt.Errorf("%w manifest: %d bytes, at most %d are accepted", ErrInvalid, len(raw), MaxManifestSize)
	}
	mediaType, _, _ = strings.Cut(mediaType, ";")
	mediaType = strings.TrimSpace(mediaType)
	if err := checkDocument(raw); err != nil {
		return Image{}, fmt.Errorf("%w manifest: %w", ErrInvalid, err)
	}
	var m rawManifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return Image{}, fmt.Errorf("%w manifest: %w", ErrInvalid, err)
	}
	if mediaType == MediaTypeDockerSchema1 || mediaType == MediaTypeSignedSchema1 || m.SchemaVersion == 1 || len(m.FSLayers) > 0 {
		return Image{}, fmt.Errorf("%w manifest: Docker schema 1 is not supported; push the image again with a current client", ErrInvalid)
	}
	if m.SchemaVersion != 2 {
		return Image{}, fmt.Errorf("%w manifest: schemaVersion %d, want 2", ErrInvalid, m.SchemaVersion)
	}
	if m.mixed() {
		return Image{}, fmt.Errorf("%w manifest: holds both manifests and layers", ErrInvalid)
	}
	if m.MediaType != "" && mediaType != "" && m.MediaType != mediaType && isManifestType(mediaType) {
		return Image{}, fmt.Errorf("%w manifest: Content-Type %q, mediaType %q", ErrInvalid, mediaType, m.MediaType)
	}
	if !isManifestType(mediaType) {
		mediaType = m.MediaType
	}
	if mediaType == "" {
		switch {
		case m.Config != nil:
			mediaType = MediaTypeImageManifest
		case m.Manifests != nil:
			mediaType = MediaTypeImageIndex
		default:
			return Image{}, fmt.Errorf("%w manifest: neither a media type, nor a config, nor manifests", ErrInvalid)
		}
	}
	img := Image{
		Digest:       digest.FromBytes(raw),
		MediaType:    mediaType,
		Size:         int64(len(raw)),
		ArtifactType: m.ArtifactType,
		Subject:      m.Subject,
		Annotations:  m.Annotations,
	}
	switch mediaType {
	case MediaTypeImageIndex, MediaTypeDockerList:
		if m.Config != nil || m.Layers != nil {
			return Image{}, fmt.Errorf("%w manifest: %q with a config or layers", ErrInvalid, mediaType)
		}
		if err := carriesChild(m.Manifests, raw); err != nil {
			return Image{}, err
		}
		img.Kind, img.Children = KindIndex, m.Manifests
	case MediaTypeImageManifest, MediaTypeDockerManifest:
		if m.Config == nil || m.Manifests != nil {
			return Image{}, fmt.Errorf("%w manifest: %q without a config or with manifests", ErrInvalid, mediaType)
		}
		img.Config, img.Layers = *m.Config, m.Layers
		img.Kind = KindArtifact
		if isImageConfig(m.Config.MediaType) {
			img.Kind = KindImage
		} else if img.ArtifactType == "" {
			img.ArtifactType = m.Config.MediaType
		}
	default:
		return Image{}, fmt.Errorf("%w manifest: media type %q is not supported", ErrInvalid, mediaType)
	}
	if err := img.validate(); err != nil {
		return Image{}, err
	}
	return img, nil
}

func (i Image) validate() error {
	check := func(what string, d Descriptor) error {
		if _, err := ParseDigest(d.Digest.String()); err != nil {
			return fmt.Errorf("%w manifest: %s: %w", ErrInvalid, what, err)
		}
		if d.Size < 0 {
			return fmt.Errorf("%w manifest: %s %s has size %d", ErrInvalid, what, d.Digest, d.Size)
		}
		return nil
	}
	// containerd fetches whatever has URLs from there, not from the registry: a
	// refused child would be pulled past the gate. For layers see Foreign.
	local := func(what string, d Descriptor) error {
		if len(d.URLs) > 0 {
			return fmt.Errorf("%w manifest: %s %s is to be fetched from %q, not from the registry", ErrInvalid, what, d.Digest, d.URLs[0])
		}
		return check(what, d)
	}
	if i.Kind != KindIndex {
		if err := local("config", i.Config); err != nil {
			return err
		}
	}
	for _, l := range i.Layers {
		if err := check("layer", l); err != nil {
			return err
		}
	}
	for _, c := range i.Children {
		if err := local("child", c); err != nil {
			return err
		}
	}
	if i.Subject != nil {
		return check("subject", *i.Subject)
	}
	return nil
}

// Foreign returns the first layer whose bytes the registry may not hand out
// (non-distributable, with URLs elsewhere), if there is one. Such an image can
// be neither cached nor scanned whole.
func (i Image) Foreign() (Descriptor, bool) {
	for _, l := range i.Layers {
		if len(l.URLs) > 0 || strings.Contains(l.MediaType, "nondistributable") || strings.Contains(l.MediaType, "rootfs.foreign") {
			return l, true
		}
	}
	return Descriptor{}, false
}

// Runnable reports whether a client could run what the manifest names, so that
// it has to be scanned whatever it calls itself. Clients are more lenient than
// the specification, and a manifest is written by whoever pushed it:
//
//   - a layer with a root file system's media type is unpacked under any config
//     (containerd looks at the layers' types only),
//   - under an image config, and under whatever config in a Docker schema 2
//     manifest, podman and docker unpack every layer, whatever its type; docker
//     takes a few nameless config types for an image's too.
//
// The exception under such a config are layers that all claim to be JSON: that
// is how signatures (cosign) and attestations (BuildKit) are stored.
//
// A runnable image is never StateUnsupported: a layer of it that cannot be
// read, or whose media type IsLayer does not know, is a Problem.
func (i Image) Runnable() bool {
	if i.Kind == KindIndex {
		return false
	}
	json := 0
	for _, l := range i.Layers {
		if unpacked(l.MediaType) {
			return true
		}
		if isJSON(l.MediaType) {
			json++
		}
	}
	return i.ImageConfig() && (len(i.Layers) == 0 || json < len(i.Layers))
}

// ImageConfig reports whether some client takes the manifest's config for that
// of a runnable image.
func (i Image) ImageConfig() bool {
	if i.Kind == KindIndex {
		return false
	}
	if i.Kind == KindImage || i.MediaType == MediaTypeDockerManifest {
		return true
	}
	switch mediaBase(i.Config.MediaType) {
	case "", "application/octet-stream", "application/json", "text/html":
		return true // docker's ImageTypes: what old registries sent instead
	}
	return isImageConfig(mediaBase(i.Config.MediaType))
}

// unpacked reports whether a client unpacks a layer for its media type alone,
// compressions, encryptions and spellings that the scanner does not read
// included. Helm charts and the like have types of their own.
func unpacked(mediaType string) bool {
	t := mediaBase(mediaType)
	return strings.HasPrefix(t, "application/vnd.oci.image.layer.") ||
		strings.HasPrefix(t, "application/vnd.docker.image.rootfs.") ||
		strings.HasPrefix(t, "application/vnd.docker.container.image.rootfs.")
}

func isJSON(mediaType string) bool {
	t := mediaBase(mediaType)
	return strings.HasSuffix(t, "+json") || t == "application/json"
}

// mediaBase is a media type without parameters, in lower case.
func mediaBase(mediaType string) string {
	t, _, _ := strings.Cut(mediaType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}

func isManifestType(t string) bool {
	switch t {
	case MediaTypeImageIndex, MediaTypeDockerList, MediaTypeImageManifest, MediaTypeDockerManifest:
		return true
	}
	return false
}

func isImageConfig(t string) bool { return t == MediaTypeImageConfig || t == MediaTypeDockerConfig }

// IsLayer reports whether a media type names a root file system layer that the
// scanner reads: a tar, plain, gzip or zstd.
func IsLayer(mediaType string) bool {
	switch mediaType {
	case "application/vnd.oci.image.layer.v1.tar",
		"application/vnd.oci.image.layer.v1.tar+gzip",
		"application/vnd.oci.image.layer.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd":
		return true
	}
	return false
}
