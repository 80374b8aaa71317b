package pratique

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Platform of an image. Source: OCI image-spec, "platform".
type Platform struct {
	OS           string `json:"os,omitempty"`
	Architecture string `json:"architecture,omitempty"`
	Variant      string `json:"variant,omitempty"`
	OSVersion    string `json:"os.version,omitempty"`
}

// String is os/architecture[/variant], as in the configuration.
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Matches reports whether p, of an index child, is wanted by the configured
// platform w. A variant that w does not name is not asked for. Names are taken
// as containerd takes them: aarch64 is arm64, arm64/v8 is arm64, arm is arm/v7.
func (p Platform) Matches(w Platform) bool {
	if p, w = p.normal(), w.normal(); p.OS != w.OS || p.Architecture != w.Architecture {
		return false
	}
	if p.Architecture == "arm" && p.Variant == "" {
		p.Variant = "v7"
	}
	return w.Variant == "" || w.Variant == p.Variant
}

// normal writes other names for a platform as Go writes it. Source:
// containerd's platforms package, "normalizeOS" and "normalizeArch".
func (p Platform) normal() Platform {
	p.OS = strings.ToLower(p.OS)
	p.Architecture = strings.ToLower(p.Architecture)
	p.Variant = strings.ToLower(p.Variant)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	switch p.Architecture {
	case "i386":
		p.Architecture, p.Variant = "386", ""
	case "x86_64", "x86-64", "amd64":
		p.Architecture = "amd64"
		if p.Variant == "v1" {
			p.Variant = ""
		}
	case "aarch64", "arm64":
		p.Architecture = "arm64"
		if p.Variant == "8" || p.Variant == "v8" {
			p.Variant = ""
		}
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	case "arm":
		if len(p.Variant) == 1 {
			p.Variant = "v" + p.Variant
		}
	}
	return p
}

var platformPart = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ParsePlatform reads os/architecture[/variant]. The error wraps ErrInvalid.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.ContainsFunc(parts, func(p string) bool { return !platformPart.MatchString(p) }) {
		return Platform{}, fmt.Errorf("%w platform %q: want os/architecture[/variant], e.g. linux/amd64", ErrInvalid, s)
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}
