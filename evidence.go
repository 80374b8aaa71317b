package pratique

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Signature is one over an image's manifest that was verified.
type Signature struct {
	By       string        `json:"by"`                 // name of the trusted identity in the configuration
	Kind     string        `json:"kind"`               // "cosign", "sigstore" (keyless), "notation"
	Identity string        `json:"identity,omitempty"` // subject of the certificate
	Issuer   string        `json:"issuer,omitempty"`   // OIDC issuer, or the certificate's
	Digest   digest.Digest `json:"digest"`             // of the manifest that holds it
	At       time.Time     `json:"at,omitzero"`        // proven signing time
}

// Provenance is a verified SLSA statement about an image.
type Provenance struct {
	By        string        `json:"by"`   // name of the trusted identity in the configuration
	Type      string        `json:"type"` // predicate type
	Builder   string        `json:"builder,omitempty"`
	Source    string        `json:"source,omitempty"`   // URI of the source repository
	Revision  string        `json:"revision,omitempty"` // digest of the source, algorithm:hex
	BuildType string        `json:"buildType,omitempty"`
	Digest    digest.Digest `json:"digest"` // of the manifest that holds it
}

// Statement is what a VEX document says of a vulnerability in a product.
type Statement struct {
	Document      string    `json:"document"`        // id of the document
	Source        string    `json:"source"`          // "file:NAME", or "referrer:DIGEST"
	By            string    `json:"by,omitempty"`    // trusted identity that signed it; empty for a file
	IDs           []string  `json:"vulnerabilities"` // id and aliases
	Status        string    `json:"status"`          // OpenVEX: not_affected, fixed, affected, under_investigation
	Justification string    `json:"justification,omitempty"`
	Impact        string    `json:"impact,omitempty"`
	At            time.Time `json:"at,omitzero"`
	// Products are purls, or for a whole image pkg:oci/… or a manifest's digest. A
	// product with Components is meant as far as it holds one of them.
	Products []Product `json:"products,omitempty"`
	// Image is set when the statement came as a referrer of that manifest, about
	// which alone it speaks.
	Image digest.Digest `json:"image,omitempty"`
}

// Product of a Statement.
type Product struct {
	ID         string   `json:"id"`                   // purl, or other identifier
	Components []string `json:"components,omitempty"` // purls
}

// Attestations are what was verified about one image, and when.
type Attestations struct {
	Image digest.Digest `json:"image"`
	// CheckedAt is zero when nobody looked yet: then nothing is known, and no
	// signature is not the same as none found.
	CheckedAt time.Time `json:"checkedAt,omitzero"`
	Trust     string    `json:"trust,omitempty"` // version of the trusted identities that verified
	// Subjects are the manifests, REPOSITORY@DIGEST, whose signatures were looked
	// for: the image, and indexes that list it.
	Subjects   []string     `json:"subjects,omitempty"`
	Signatures []Signature  `json:"signatures,omitempty"`
	Provenance []Provenance `json:"provenance,omitempty"`
	Statements []Statement  `json:"statements,omitempty"`
	// Problems say, one line each, what was found and did not verify.
	Problems []string `json:"problems,omitempty"`
}

// TagMove tells that a tag which named an image names another one now.
type TagMove struct {
	Tag string        `json:"tag"`
	To  digest.Digest `json:"to,omitempty"` // empty: the tag is gone
	At  time.Time     `json:"at"`           // when that was first seen
}

// Level says how far a newer version is away.
type Level string

// Levels, ascending.
const (
	LevelPatch Level = "patch"
	LevelMinor Level = "minor"
	LevelMajor Level = "major"
)

// Newer is a newer version of the same tag series.
type Newer struct {
	Tag    string        `json:"tag"`
	Digest digest.Digest `json:"digest,omitempty"` // empty until it was resolved
	Level  Level         `json:"level"`
	Since  time.Time     `json:"since"` // when the tag was first seen in the repository
	// Compliant: it is known here, and policy lets it through. False is also what
	// was never looked at.
	Compliant bool `json:"compliant"`
}

// Base is the image that another one was built on.
type Base struct {
	Ref    Ref           `json:"ref"`    // with the tag
	Digest digest.Digest `json:"digest"` // that the image was built on
	How    string        `json:"how"`    // "annotation", "layers"
	// Now is what the tag names now, and MovedAt since when that is not Digest;
	// zero while it is, or when it is not known.
	Now     digest.Digest `json:"now,omitempty"`
	MovedAt time.Time     `json:"movedAt,omitzero"`
}

// Lineage is how an image stands to the tags of its repository and to its base.
type Lineage struct {
	// Current are the tags that name the image now.
	Current []string `json:"current,omitempty"`
	// Moved are the tags that named it and do not any more, the latest move last.
	Moved []TagMove `json:"moved,omitempty"`
	// Elsewhere are tags that rules name and that name another image now, or none.
	// They are looked up when no tag of an image is known.
	Elsewhere []string `json:"elsewhere,omitempty"`
	// Newer versions of the tag asked for, or of Current or Moved, newest first.
	Newer []Newer `json:"newer,omitempty"`
	Base  *Base   `json:"base,omitempty"`
}

// Exploits says which vulnerabilities are known to be exploited (CISA KEV), and
// how probably others will be (FIRST EPSS). It never changes once made; nil knows
// nothing.
type Exploits struct {
	Version string               // changes with the content
	KEVAt   time.Time            // of the list; zero: there is no list
	EPSSAt  time.Time            // of the scores; zero: there are no scores
	KEV     map[string]time.Time // id → date on which it was added
	EPSS    map[string]float32   // id → probability of exploitation in the next 30 days, 0 to 1
}

// HasKEV reports whether there is a list at all.
func (e *Exploits) HasKEV() bool { return e != nil && !e.KEVAt.IsZero() }

// HasEPSS reports whether there are scores at all.
func (e *Exploits) HasEPSS() bool { return e != nil && !e.EPSSAt.IsZero() }
