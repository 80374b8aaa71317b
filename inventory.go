package pratique

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// OS is the operating system an image is built on, in Trivy's words.
type OS struct {
	Family   string `json:"family,omitempty"`   // "debian", "alpine", "redhat", …
	Name     string `json:"name,omitempty"`     // release: "12.5", "3.20.1"
	Extended bool   `json:"extended,omitempty"` // Ubuntu ESM and its like
	Supplier string `json:"supplier,omitempty"` // third party that rebuilt the packages
}

// Detected reports whether a family is known.
func (o OS) Detected() bool { return o.Family != "" }

// Repository is the package repository configured in an image (Alpine's
// /etc/apk/repositories), when it decides which advisories apply.
type Repository struct {
	Family  string `json:"family,omitempty"`
	Release string `json:"release,omitempty"`
}

// BuildInfo are Red Hat's content sets of a layer.
type BuildInfo struct {
	ContentSets []string `json:"contentSets,omitempty"`
	NVR         string   `json:"nvr,omitempty"`
	Arch        string   `json:"arch,omitempty"`
}

// Package is one installed package as an analyzer found it.
type Package struct {
	ID         string     `json:"id,omitempty"` // trivy's: name@version, …
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	Release    string     `json:"release,omitempty"`
	Epoch      int        `json:"epoch,omitempty"`
	Arch       string     `json:"arch,omitempty"`
	SrcName    string     `json:"srcName,omitempty"`
	SrcVersion string     `json:"srcVersion,omitempty"`
	SrcRelease string     `json:"srcRelease,omitempty"`
	SrcEpoch   int        `json:"srcEpoch,omitempty"`
	Modularity string     `json:"modularity,omitempty"`
	Licenses   []string   `json:"licenses,omitempty"`
	ThirdParty bool       `json:"thirdParty,omitempty"` // installed from another vendor's repository
	Dev        bool       `json:"dev,omitempty"`        // development dependency
	PURL       string     `json:"purl,omitempty"`
	Path       string     `json:"path,omitempty"` // the package's own metadata file
	AnalyzedBy string     `json:"analyzedBy,omitempty"`
	BuildInfo  *BuildInfo `json:"buildInfo,omitempty"`
	// Layer that brought the package; set by Merge unless the analyzer knew.
	Layer digest.Digest `json:"layer,omitempty"`
}

// PackageSet is one OS package database.
type PackageSet struct {
	Path     string    `json:"path"`
	Packages []Package `json:"packages"`
}

// Application is one language ecosystem's manifest, lock file or binary.
type Application struct {
	Type     string    `json:"type"` // trivy's language type: "npm", "node-pkg", "gobinary", …
	Path     string    `json:"path,omitempty"`
	Packages []Package `json:"packages"`
}

// Secret is a credential found in a file or in the image config. The match is
// kept censored, as the scanner returns it.
type Secret struct {
	RuleID    string        `json:"ruleId"`
	Category  string        `json:"category,omitempty"`
	Severity  Severity      `json:"severity"`
	Title     string        `json:"title,omitempty"`
	Path      string        `json:"path"`
	StartLine int           `json:"startLine,omitempty"`
	EndLine   int           `json:"endLine,omitempty"`
	Match     string        `json:"match,omitempty"`
	Layer     digest.Digest `json:"layer,omitempty"`
}

// Misconfiguration is a failed check.
type Misconfiguration struct {
	ID       string        `json:"id"` // DS-0002, …
	Type     string        `json:"type,omitempty"`
	Title    string        `json:"title,omitempty"`
	Message  string        `json:"message,omitempty"`
	Severity Severity      `json:"severity"`
	Path     string        `json:"path,omitempty"`
	URL      string        `json:"url,omitempty"`
	Layer    digest.Digest `json:"layer,omitempty"`
}

// License is a licence found in a file of the image (not a package's own).
type License struct {
	Name    string        `json:"name"`
	Package string        `json:"package,omitempty"`
	Path    string        `json:"path,omitempty"`
	Type    string        `json:"type,omitempty"` // trivy's: "dpkg", "header", "license-file"
	Layer   digest.Digest `json:"layer,omitempty"`
}

// Inventory is what analysis read from content: immutable, database-free.
// For a layer it is keyed by the layer's digest and Analyzer; Merge joins the
// layers of an image into one.
type Inventory struct {
	Layer    digest.Digest `json:"layer,omitempty"`    // compressed digest; empty when merged
	DiffID   digest.Digest `json:"diffId,omitempty"`   // measured, not claimed
	Size     int64         `json:"size,omitempty"`     // uncompressed bytes
	Analyzer string        `json:"analyzer,omitempty"` // versions and options of the analyzers

	OS OS `json:"os,omitzero"`
	// OSRelease is the ID in an os-release file that no analyzer knows ("arch").
	// With it, an image without an OS is one whose packages nobody can see.
	OSRelease         string             `json:"osRelease,omitempty"`
	Repository        *Repository        `json:"repository,omitempty"`
	OpaqueDirs        []string           `json:"opaqueDirs,omitempty"`
	Whiteouts         []string           `json:"whiteouts,omitempty"`
	PackageSets       []PackageSet       `json:"packageSets,omitempty"`
	Applications      []Application      `json:"applications,omitempty"`
	Secrets           []Secret           `json:"secrets,omitempty"`
	Misconfigurations []Misconfiguration `json:"misconfigurations,omitempty"`
	Licenses          []License          `json:"licenses,omitempty"`
	BuildInfo         *BuildInfo         `json:"buildInfo,omitempty"`
	Problems          []Problem          `json:"problems,omitempty"`
}

// Class tells the two ways a component is matched.
type Class string

// Classes of components.
const (
	ClassOS       Class = "os-pkgs"
	ClassLanguage Class = "lang-pkgs"
)

// Context is what a package is matched in, besides itself. Two packages that
// are alike in Context and in Component's other fields have the same findings
// under the same database, whatever image they are in.
type Context struct {
	Class      Class       `json:"class"`
	Type       string      `json:"type"`           // OS family, or trivy's language type
	Name       string      `json:"name,omitempty"` // OS release
	Extended   bool        `json:"extended,omitempty"`
	Supplier   string      `json:"supplier,omitempty"` // "rapidfort", or the driver the whole image selects: "root.io", "seal"
	Repository *Repository `json:"repository,omitempty"`
	BuildInfo  *BuildInfo  `json:"buildInfo,omitempty"`
}

// Component is one distinct package in its match context: the unit of matching.
type Component struct {
	Context    Context `json:"context"`
	Name       string  `json:"name"`
	Version    string  `json:"version,omitempty"`
	Release    string  `json:"release,omitempty"`
	Epoch      int     `json:"epoch,omitempty"`
	Arch       string  `json:"arch,omitempty"`
	SrcName    string  `json:"srcName,omitempty"`
	SrcVersion string  `json:"srcVersion,omitempty"`
	SrcRelease string  `json:"srcRelease,omitempty"`
	SrcEpoch   int     `json:"srcEpoch,omitempty"`
	Modularity string  `json:"modularity,omitempty"`
	ThirdParty bool    `json:"thirdParty,omitempty"`
}

// ComponentID is the first 16 bytes of the SHA-256 of the component's JSON, in
// lower-case hex (32 characters).
type ComponentID string

// ID computes the component's identity.
func (c Component) ID() ComponentID {
	b, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("component does not marshal: %v", err)) // strings and ints always do
	}
	sum := sha256.Sum256(b)
	return ComponentID(hex.EncodeToString(sum[:16]))
}

// Occurrence is one place of a component in one image.
type Occurrence struct {
	Component ComponentID   `json:"component"`
	Installed string        `json:"installed"` // version as people write it, epoch and release included
	Path      string        `json:"path,omitempty"`
	Target    string        `json:"target,omitempty"`
	Layer     digest.Digest `json:"layer,omitempty"`
	PURL      string        `json:"purl,omitempty"`
}

// Problem states that decide a report's state.
func worst(problems []Problem) State {
	if slices.ContainsFunc(problems, func(p Problem) bool { return p.Fatal }) {
		return StateFailed
	}
	if len(problems) > 0 {
		return StateIncomplete
	}
	return StateScanned
}

// State is the state that the inventory's problems allow: scanned, incomplete
// or failed. An inventory of nothing at all is unknown.
func (i Inventory) State() State {
	if i.Analyzer == "" {
		return StateUnknown
	}
	return worst(i.Problems)
}
