package policy

import (
	"strings"

	"github.com/package-url/packageurl-go"
)

// purl is a package URL taken apart. The zero value covers nothing.
type purl struct {
	kind, namespace, name, version, subpath string
	qualifiers                              map[string]string
}

func parsePURL(text string) (purl, bool) {
	p, err := packageurl.FromString(text)
	if err != nil || p.Type == "" || p.Name == "" {
		return purl{}, false
	}
	return purl{p.Type, p.Namespace, p.Name, p.Version, p.Subpath, p.Qualifiers.Map()}, true
}

// covers reports whether what is said of p is said of other: the same package,
// and every version, qualifier and subpath that p names is other's too.
func (p *purl) covers(other purl) bool {
	if p.kind == "" || p.kind != other.kind || p.namespace != other.namespace || p.name != other.name {
		return false
	}
	if p.version != "" && p.version != other.version || p.subpath != "" && p.subpath != other.subpath {
		return false
	}
	for key, value := range p.qualifiers {
		if v, ok := other.qualifiers[key]; !ok || v != value {
			return false
		}
	}
	return true
}

// kindImage is the type of package URLs of images.
const kindImage = "oci"

// isImage reports whether what is said of p, of type oci, is said of the image
// under decision. A digest settles it; without one p must name the repository,
// because the name alone is anybody's. A tag is the one that was asked for.
func (p *purl) isImage(e *evaluation) bool {
	if strings.Contains(p.version, ":") {
		return p.version == e.facts.Image.Digest.String()
	}
	tag := p.version
	for key, value := range p.qualifiers {
		switch key {
		case "repository_url":
		case "tag":
			if tag != "" && tag != value {
				return false
			}
			tag = value
		case "arch":
			if platform, known := e.platform(); !known || platform.Architecture != value {
				return false
			}
		default:
			return false
		}
	}
	if tag != "" && (tag != e.facts.Ref.Tag || e.facts.former) {
		return false
	}
	where := strings.TrimPrefix(strings.TrimPrefix(p.qualifiers["repository_url"], "https://"), "index.")
	return where != "" && where == e.facts.Ref.Repository() && (where == p.name || strings.HasSuffix(where, "/"+p.name))
}
