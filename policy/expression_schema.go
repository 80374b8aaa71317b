package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"

	"pratique"
)

// schema is everything that an expression may read.
type schema struct {
	variables []*field
	shapes    []*shape
}

func (s *schema) shape(name string) *shape {
	for _, k := range s.shapes {
		if k.name == name {
			return k
		}
	}
	return nil
}

// variable returns the variable of that name, or nil.
func (s *schema) variable(name string) *field {
	if i := slices.IndexFunc(s.variables, func(f *field) bool { return f.name == name }); i >= 0 {
		return s.variables[i]
	}
	return nil
}

func (s *schema) add(k *shape) *shape {
	s.shapes = append(s.shapes, k)
	return k
}

// read makes a field's getter from a function over the evaluation.
func read(get func(e *evaluation) any) func(*object) any {
	return func(o *object) any { return get(o.e) }
}

// of makes a field's getter from a function over what the object is of.
func of[T any](get func(o *object, v *T) any) func(*object) any {
	return func(o *object) any {
		v, ok := o.of.(*T)
		if !ok {
			return notKnown("a fact") // cannot be: shapes are made of one type
		}
		return get(o, v)
	}
}

var severityWords = []string{"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}

// minute is the time to the minute, so that an answer stands for a minute.
func (e *evaluation) minute() time.Time { return e.now.UTC().Truncate(time.Minute) }

// reached is when a moment to come has been reached, to the minute.
func reached(moment func(e *evaluation) time.Time) func(e *evaluation) time.Time {
	return func(e *evaluation) time.Time {
		at := moment(e)
		if !at.After(e.minute()) {
			return time.Time{}
		}
		if whole := at.Truncate(time.Minute); !whole.Before(at) {
			return whole
		}
		return at.Truncate(time.Minute).Add(time.Minute)
	}
}

func newSchema() *schema {
	s := &schema{}
	root := func(name, doc string, k *shape, needs Needs) *field {
		return &field{name: name, doc: doc, typ: k.typ, needs: needs, get: func(o *object) any { return &object{k, o.e, o.e} }}
	}
	lineage, attestations, finding := s.lineage(), s.attestations(), s.finding()
	s.variables = []*field{
		root("image", "the image", s.image(), 0),
		root("ref", "what was asked for", s.ref(), 0),
		root("report", "the standing report", s.report(), 0),
		{name: "findings", doc: "what the scan found, without what exceptions and VEX lifted; not known while there is no scan", typ: cel.ListType(finding.typ), get: read(func(e *evaluation) any {
			switch e.state {
			case pratique.StateScanned, pratique.StateIncomplete, pratique.StateUnsupported:
				return objects(e, finding, len(e.counted()), func(i int) any { return &e.counted()[i] })
			default:
				return notKnown("what is in it, for want of a scan")
			}
		})},
		root("lineage", "how it stands to the tags of its repository and to its base", lineage, 0),
		root("attestations", "what was signed and verified", attestations, NeedAttestations),
		root("served", "when Pratique served the digest", s.served(), NeedServed),
		{name: "client", doc: "address of the client; `client.within(\"10.0.0.0/8\")` asks for a network", typ: cel.StringType, needs: NeedClient, get: read(func(e *evaluation) any {
			if !e.facts.Client.IsValid() {
				return notKnown("the client's address")
			}
			return e.facts.Client.Unmap().WithZone("").String()
		})},
		{name: "now", doc: "the time, to the minute", typ: cel.TimestampType, get: read(func(e *evaluation) any { return e.minute() }), changes: func(e *evaluation) time.Time { return e.minute().Add(time.Minute) }},
	}
	return s
}

// configured reports whether the report says what is in the image, and what its
// config claims.
func (e *evaluation) configured() bool {
	return e.state == pratique.StateScanned || e.state == pratique.StateIncomplete
}

func (s *schema) image() *shape {
	claim := func(get func(c *pratique.ConfigFacts) any) func(*object) any {
		return read(func(e *evaluation) any {
			if !e.configured() {
				return notKnown("what the image's config claims")
			}
			return get(&e.facts.Report.Config)
		})
	}
	return s.add(newShape("Image", "an image or artifact",
		&field{name: "digest", doc: "of the manifest", typ: cel.StringType, get: read(func(e *evaluation) any { return e.facts.Image.Digest.String() })},
		&field{name: "kind", doc: "image or artifact", typ: cel.StringType, words: []string{string(pratique.KindImage), string(pratique.KindArtifact)},
			get: read(func(e *evaluation) any { return string(e.facts.Image.Kind) })},
		&field{name: "artifactType", doc: "of the manifest; may be empty; not known of what could be run and claims to be something else", typ: cel.StringType, get: read(func(e *evaluation) any {
			if i := &e.facts.Image; i.ArtifactType != "" && i.ArtifactType != i.Config.MediaType && i.Runnable() {
				return notKnown("the artifact's type")
			}
			return e.facts.Image.ArtifactType
		})},
		&field{name: "annotations", doc: "of the manifest", typ: cel.MapType(cel.StringType, cel.StringType), get: read(func(e *evaluation) any { return stringMap(e.facts.Image.Annotations) })},
		&field{name: "firstSeen", doc: "when Pratique first saw the digest", typ: cel.TimestampType, get: func(o *object) any { return o.moment(o.e.firstSeen(), "when it was first seen") }},
		&field{name: "created", doc: "when it claims to have been made; dates before 2013 are placeholders, those to come none", typ: cel.TimestampType, changes: reached((*evaluation).created), get: func(o *object) any {
			at := o.e.created()
			if at.After(o.e.minute()) {
				at = time.Time{}
			}
			return o.moment(at, "when it was created")
		}},
		&field{name: "platform", doc: "os/architecture[/variant], as it claims", typ: cel.StringType, get: read(func(e *evaluation) any {
			p, ok := e.platform()
			if !ok {
				return notKnown("the image's platform")
			}
			return p.String()
		})},
		&field{name: "user", doc: "that it runs as; empty is root", typ: cel.StringType, get: claim(func(c *pratique.ConfigFacts) any { return c.User })},
		&field{name: "labels", doc: "of the config; at most 64", typ: cel.MapType(cel.StringType, cel.StringType), get: claim(func(c *pratique.ConfigFacts) any { return stringMap(c.Labels) })},
	))
}

func (s *schema) ref() *shape {
	return s.add(newShape("Ref", "a reference",
		&field{name: "upstream", doc: "its key in the configuration", typ: cel.StringType, get: read(func(e *evaluation) any { return e.facts.Ref.Registry })},
		&field{name: "repository", doc: "without the upstream", typ: cel.StringType, get: read(func(e *evaluation) any { return e.facts.Ref.Repo })},
		&field{name: "tag", doc: "of a pull by digest: a tag that names it; not known when none is", typ: cel.StringType, needs: NeedNames, get: read(func(e *evaluation) any {
			if e.facts.Ref.Tag == "" {
				return notKnown("the tag")
			}
			return e.facts.Ref.Tag
		})},
	))
}

func (s *schema) report() *shape {
	scanned := func(get func(e *evaluation) any) func(*object) any {
		return read(func(e *evaluation) any {
			if !e.configured() {
				return notKnown("the operating system, for want of a scan")
			}
			return get(e)
		})
	}
	return s.add(newShape("Report", "what is known of the scan",
		&field{name: "state", doc: "of the scan", typ: cel.StringType, words: []string{"unknown", "pending", "scanned", "incomplete", "failed", "unsupported"},
			get: read(func(e *evaluation) any { return e.state.String() })},
		&field{name: "scannedAt", doc: "when it was last matched", typ: cel.TimestampType, get: func(o *object) any { return o.moment(o.e.report().ScannedAt, "when it was scanned") }},
		&field{name: "databaseAt", doc: "time of the vulnerability database", typ: cel.TimestampType, get: func(o *object) any {
			return o.moment(o.e.report().Engine.DatabaseAt, "which vulnerability database it was matched with")
		}},
		&field{name: "os", doc: "family of the operating system; empty when there is none", typ: cel.StringType, get: scanned(func(e *evaluation) any { return e.report().OS.Family })},
		&field{name: "osVersion", doc: "its release", typ: cel.StringType, get: scanned(func(e *evaluation) any { return e.report().OS.Name })},
		&field{name: "eol", doc: "the release is past its end of life", typ: cel.BoolType, changes: reached(func(e *evaluation) time.Time { return endOfLifeAt(e.report()) }), get: scanned(func(e *evaluation) any {
			at := endOfLifeAt(e.report())
			return at.IsZero() && e.report().EOL || !at.IsZero() && !e.minute().Before(at)
		})},
		&field{name: "eolAt", doc: "the end of life of the release", typ: cel.TimestampType, get: func(o *object) any { return o.moment(o.e.report().EOLAt, "the end of life") }},
	))
}

func (s *schema) served() *shape {
	return s.add(newShape("Served", "times of service",
		&field{name: "first", doc: "not known when it never was", typ: cel.TimestampType, needs: NeedServed, get: func(o *object) any { return o.moment(o.e.facts.FirstServed, "when it was first served") }},
		&field{name: "last", doc: "not known when it never was", typ: cel.TimestampType, needs: NeedServed, get: func(o *object) any { return o.moment(o.e.facts.LastServed, "when it was last served") }},
	))
}

func (s *schema) finding() *shape {
	text := func(name, doc string, get func(f *pratique.Finding) string) *field {
		return &field{name: name, doc: doc, typ: cel.StringType, get: of(func(_ *object, f *pratique.Finding) any { return get(f) })}
	}
	// The best score that a severity has in CVSS 3.1: what a finding without a score
	// is held to.
	best := [ranks]float64{10, 3.9, 6.9, 8.9, 10}
	kind := text("kind", "", func(f *pratique.Finding) string { return string(f.Kind) })
	kind.words = []string{string(pratique.KindVulnerability), string(pratique.KindSecret), string(pratique.KindMisconfiguration), string(pratique.KindLicense)}
	severity := text("severity", "a word nobody defined is CRITICAL", func(f *pratique.Finding) string { return severityWords[rank(f.Severity)] })
	severity.words = severityWords
	return s.add(newShape("Finding", "one finding",
		text("id", "CVE-…, GHSA-…, of a secret, misconfiguration or license its rule or name", func(f *pratique.Finding) string { return f.ID }),
		&field{name: "aliases", doc: "other ids", typ: cel.ListType(cel.StringType), get: of(func(_ *object, f *pratique.Finding) any { return stringList(f.VendorIDs) })},
		kind, severity,
		&field{name: "rank", doc: "of the severity: compare with LOW, MEDIUM, HIGH, CRITICAL; 0 is unknown", typ: cel.IntType, get: of(func(_ *object, f *pratique.Finding) any { return rank(f.Severity) })},
		&field{name: "cvss", doc: "base score; of a finding without one the best that its severity has", typ: cel.DoubleType, get: of(func(_ *object, f *pratique.Finding) any {
			if f.CVSS > 0 {
				return f.CVSS
			}
			return best[rank(f.Severity)]
		})},
		text("package", "", func(f *pratique.Finding) string { return f.Package }),
		text("ecosystem", "debian, alpine, npm, …", func(f *pratique.Finding) string { return f.Ecosystem }),
		text("installed", "version", func(f *pratique.Finding) string { return f.Installed }),
		text("fixed", "version; empty when there is none", func(f *pratique.Finding) string { return f.Fixed }),
		&field{name: "fixable", doc: "there is a version without it", typ: cel.BoolType, get: of(func(_ *object, f *pratique.Finding) any { return isFixable(f) })},
		text("status", "fixed, affected, will_not_fix, …", func(f *pratique.Finding) string { return f.Status }),
		text("path", "of the file", func(f *pratique.Finding) string { return f.Path }),
		text("purl", "of the package", func(f *pratique.Finding) string { return f.PURL }),
		text("title", "", func(f *pratique.Finding) string { return f.Title }),
		text("category", "of a license", func(f *pratique.Finding) string { return f.Category }),
		&field{name: "firstSeen", doc: "when Pratique first reported it for this image", typ: cel.TimestampType, get: of(func(o *object, f *pratique.Finding) any {
			return o.moment(f.FirstSeen, "when a finding was first seen")
		})},
		&field{name: "kev", doc: "known to be exploited (CISA KEV)", typ: cel.BoolType, needs: NeedExploits, get: of(func(o *object, f *pratique.Finding) any {
			switch exploited(o.e.facts.Exploits, f.ID) {
			case yes:
				return true
			case no:
				return false
			default:
				return notKnown("which vulnerabilities are exploited, for want of a KEV list")
			}
		})},
		&field{name: "epss", doc: "probability of exploitation (FIRST EPSS), 0 to 1; 0 without a score", typ: cel.DoubleType, needs: NeedExploits, get: of(func(o *object, f *pratique.Finding) any {
			if !o.e.facts.Exploits.HasEPSS() {
				return notKnown("how probably vulnerabilities will be exploited, for want of EPSS scores")
			}
			return float64(o.e.facts.Exploits.EPSS[strings.ToUpper(f.ID)])
		})},
	))
}

func (s *schema) lineage() *shape {
	moved := s.add(newShape("TagMove", "a tag that named the image and does not any more",
		&field{name: "tag", typ: cel.StringType, get: of(func(_ *object, m *pratique.TagMove) any { return m.Tag })},
		&field{name: "to", doc: "digest that it names now; empty when it is gone", typ: cel.StringType, get: of(func(_ *object, m *pratique.TagMove) any { return m.To.String() })},
		&field{name: "at", doc: "when that was seen", typ: cel.TimestampType, get: of(func(o *object, m *pratique.TagMove) any { return o.moment(m.At, "when a tag moved") })},
	))
	newer := s.add(newShape("Newer", "a newer version of the same tag series",
		&field{name: "tag", typ: cel.StringType, get: of(func(_ *object, n *pratique.Newer) any { return n.Tag })},
		&field{name: "level", doc: "how far it is away", typ: cel.StringType, words: []string{string(pratique.LevelPatch), string(pratique.LevelMinor), string(pratique.LevelMajor)},
			get: of(func(_ *object, n *pratique.Newer) any { return string(n.Level) })},
		&field{name: "since", doc: "when it was first seen", typ: cel.TimestampType, get: of(func(o *object, n *pratique.Newer) any { return o.moment(n.Since, "since when a version is there") })},
		&field{name: "compliant", doc: "policy lets it through", typ: cel.BoolType, get: of(func(_ *object, n *pratique.Newer) any { return n.Compliant })},
	))
	base := s.add(newShape("Base", "the image that it was built on",
		&field{name: "name", doc: "with the tag", typ: cel.StringType, get: of(func(_ *object, b *pratique.Base) any { return b.Ref.String() })},
		&field{name: "digest", doc: "that it was built on", typ: cel.StringType, get: of(func(_ *object, b *pratique.Base) any { return b.Digest.String() })},
		&field{name: "how", doc: "it is known", typ: cel.StringType, words: []string{"annotation", "layers"}, get: of(func(_ *object, b *pratique.Base) any { return b.How })},
		&field{name: "movedAt", doc: "since when the tag names another image", typ: cel.TimestampType, get: of(func(o *object, b *pratique.Base) any {
			return o.moment(b.MovedAt, "whether its base moved")
		})},
	))
	return s.add(newShape("Lineage", "tags and base",
		&field{name: "current", doc: "tags that name it now", typ: cel.ListType(cel.StringType), needs: NeedTags, get: read(func(e *evaluation) any { return stringList(e.facts.Lineage.Current) })},
		&field{name: "moved", doc: "tags that named it", typ: cel.ListType(moved.typ), needs: NeedTags, get: read(func(e *evaluation) any {
			return objects(e, moved, len(e.facts.Lineage.Moved), func(i int) any { return &e.facts.Lineage.Moved[i] })
		})},
		&field{name: "newer", doc: "newer versions, newest first", typ: cel.ListType(newer.typ), needs: NeedNewer, get: read(func(e *evaluation) any {
			return objects(e, newer, len(e.facts.Lineage.Newer), func(i int) any { return &e.facts.Lineage.Newer[i] })
		})},
		&field{name: "base", doc: "not known for most images: ask has(lineage.base) first", typ: base.typ, needs: NeedBase, get: read(func(e *evaluation) any {
			if e.facts.Lineage.Base == nil {
				return notKnown("its base image")
			}
			return &object{base, e, e.facts.Lineage.Base}
		})},
	))
}

func (s *schema) attestations() *shape {
	signature := s.add(newShape("Signature", "a verified signature",
		&field{name: "by", doc: "trusted identity of the configuration", typ: cel.StringType, get: of(func(_ *object, g *pratique.Signature) any { return g.By })},
		&field{name: "kind", typ: cel.StringType, words: []string{"cosign", "sigstore", "notation"}, get: of(func(_ *object, g *pratique.Signature) any { return g.Kind })},
		&field{name: "identity", doc: "subject of the certificate", typ: cel.StringType, get: of(func(_ *object, g *pratique.Signature) any { return g.Identity })},
		&field{name: "issuer", doc: "of the identity", typ: cel.StringType, get: of(func(_ *object, g *pratique.Signature) any { return g.Issuer })},
		&field{name: "at", doc: "proven signing time", typ: cel.TimestampType, get: of(func(o *object, g *pratique.Signature) any { return o.moment(g.At, "when it was signed") })},
	))
	provenance := s.add(newShape("Provenance", "a verified SLSA statement",
		&field{name: "by", doc: "trusted identity of the configuration", typ: cel.StringType, get: of(func(_ *object, p *pratique.Provenance) any { return p.By })},
		&field{name: "type", doc: "of the predicate", typ: cel.StringType, get: of(func(_ *object, p *pratique.Provenance) any { return p.Type })},
		&field{name: "builder", typ: cel.StringType, get: of(func(_ *object, p *pratique.Provenance) any { return p.Builder })},
		&field{name: "source", doc: "URI of the repository", typ: cel.StringType, get: of(func(_ *object, p *pratique.Provenance) any { return p.Source })},
		&field{name: "revision", doc: "of the source", typ: cel.StringType, get: of(func(_ *object, p *pratique.Provenance) any { return p.Revision })},
		&field{name: "buildType", typ: cel.StringType, get: of(func(_ *object, p *pratique.Provenance) any { return p.BuildType })},
	))
	looked := func(fact string, get func(e *evaluation, a *pratique.Attestations) any) func(*object) any {
		return read(func(e *evaluation) any {
			if a, ok := e.attested(); ok {
				return get(e, a)
			}
			return notKnown(fact)
		})
	}
	return s.add(newShape("Attestations", "signatures and provenance; not known until somebody looked",
		&field{name: "signatures", typ: cel.ListType(signature.typ), needs: NeedAttestations, get: looked("whether it is signed", func(e *evaluation, a *pratique.Attestations) any {
			return objects(e, signature, len(a.Signatures), func(i int) any { return &a.Signatures[i] })
		})},
		&field{name: "provenance", typ: cel.ListType(provenance.typ), needs: NeedAttestations, get: looked("where it was built", func(e *evaluation, a *pratique.Attestations) any {
			return objects(e, provenance, len(a.Provenance), func(i int) any { return &a.Provenance[i] })
		})},
		&field{name: "problems", doc: "what was found and did not verify", typ: cel.ListType(cel.StringType), needs: NeedAttestations, get: looked("whether it is signed", func(_ *evaluation, a *pratique.Attestations) any {
			return stringList(a.Problems)
		})},
	))
}

// ExpressionSchema is what an `expression` may read, as Markdown: the variables
// first, then the fields of their types.
func ExpressionSchema() string {
	s := newSchema()
	var b strings.Builder
	table := func(title, doc string, fields []*field) {
		fmt.Fprintf(&b, "**%s**: %s\n\n| name | type | meaning |\n|---|---|---|\n", title, doc)
		for _, f := range fields {
			meaning := f.doc
			if len(f.words) > 0 {
				meaning = strings.Trim(meaning+": `"+strings.Join(f.words, "`, `")+"`", ": ")
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.name, cel.FormatCELType(f.typ), meaning)
		}
		b.WriteString("\n")
	}
	table("Variables", "LOW, MEDIUM, HIGH and CRITICAL are the numbers 1 to 4", s.variables)
	for _, v := range s.variables { // in the order in which they are met above
		for _, k := range s.shapes {
			if strings.Contains(cel.FormatCELType(v.typ), k.name) {
				table(k.name, k.doc, k.fields)
			}
		}
	}
	for _, k := range s.shapes {
		if !strings.Contains(b.String(), "**"+k.name+"**") {
			table(k.name, k.doc, k.fields)
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}
