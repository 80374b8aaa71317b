package policy

import (
	"slices"
	"strings"

	"pratique"
)

// identityChars are what names of trusted identities are made of.
const identityChars = lower + upper + "._-"

// signatureDocument is a signature condition as written.
type signatureDocument struct {
	By []string `yaml:"by"` // names of trusted identities; required
}

func (d *signatureDocument) compile(c *compiler, at place) condition {
	if !c.has(at, "by") {
		c.fail(at.pos, "by is missing: name the trusted identities of the configuration, e.g. {by: [release-key]}")
	}
	return unsigned{c.identities(at, d.By)}
}

// identities checks names of trusted identities: they are exact.
func (c *compiler) identities(at place, by []string) []string {
	if c.has(at, "by") && len(by) == 0 {
		c.failAt(at, "by", "by: an empty list names nobody")
	}
	for _, name := range by {
		switch {
		case name == "":
			c.failAt(at, "by", "by: an empty name names nobody")
		case strings.Trim(name, identityChars) != "" || strings.ContainsAny(name, "*?"):
			c.failAt(at, "by", "by: %q is no name of a trusted identity; patterns are not possible here", name)
		}
	}
	return by
}

// attested are the attestations, if somebody looked for those of this image.
func (e *evaluation) attested() (*pratique.Attestations, bool) {
	a := &e.facts.Attestations
	return a, !a.CheckedAt.IsZero() && a.Image == e.facts.Image.Digest
}

// unsigned is met by images without a verified signature of any of the
// identities.
type unsigned struct{ by []string }

func (unsigned) needs() Needs { return NeedAttestations }

func (u unsigned) meets(e *evaluation) match {
	a, looked := e.attested()
	if !looked {
		return match{met: unknown, missing: "whether it is signed"}
	}
	for i := range a.Signatures {
		if slices.Contains(u.by, a.Signatures[i].By) {
			return match{met: no}
		}
	}
	return match{met: yes, mark: distinguish(a.Problems...)}
}

func (u unsigned) text(e *evaluation, m *match) string {
	if m.met == unknown {
		return "nobody has looked for signatures by " + list(u.by) + " yet"
	}
	a, _ := e.attested()
	return "no verified signature by " + list(u.by) + found(a)
}

// found says what was there instead: the first thing that did not verify, or
// somebody else's signature.
func found(a *pratique.Attestations) string {
	switch {
	case len(a.Problems) > 0:
		return "; found: " + oneLine(a.Problems[0])
	case len(a.Signatures) > 0:
		return "; signed by " + oneLine(a.Signatures[0].By)
	}
	return "; nothing was found"
}

func (unsigned) facts(e *evaluation) string {
	a, looked := e.attested()
	if !looked {
		return "not looked for yet"
	}
	if len(a.Signatures) == 0 {
		return "no verified signature" + found(a)
	}
	names := make([]string, 0, len(a.Signatures))
	for i := range a.Signatures {
		if by := a.Signatures[i].By; !slices.Contains(names, by) {
			names = append(names, by)
		}
	}
	return "signed by " + oneLine(strings.Join(names, ", "))
}

// provenanceDocument is a provenance condition as written: all of what is there
// has to fit one statement.
type provenanceDocument struct {
	By      []string `yaml:"by"`      // names of trusted identities; if missing, any
	Builder []string `yaml:"builder"` // globs; if missing, any
	Source  []string `yaml:"source"`  // globs; if missing, any
}

// uriChars are the characters of builders and sources: RFC 3986, and what SPDX
// download locations add.
const uriChars = lower + upper + "-._~:/?#@!$&'()+,;=%[]"

func (d *provenanceDocument) compile(c *compiler, at place) condition {
	out := &unproven{by: c.identities(at, d.By)}
	c.list(at, "builder", d.Builder, takeGlob(&out.builder, uriChars))
	c.list(at, "source", d.Source, takeGlob(&out.source, uriChars))
	var words []string
	for _, part := range []struct {
		key string
		in  []string
	}{{"by", d.By}, {"builder", d.Builder}, {"source", d.Source}} {
		if len(part.in) > 0 {
			words = append(words, part.key+" "+oneLine(list(part.in)))
		}
	}
	if out.wanted = strings.Join(words, ", "); len(words) > 0 {
		out.wanted = " " + out.wanted
	}
	return out
}

// unproven is met by images without a verified provenance that fits.
type unproven struct {
	by              []string
	builder, source globs
	wanted          string // for text
}

func (*unproven) needs() Needs { return NeedAttestations }

// fits never takes what a statement leaves out for what is asked for.
func (u *unproven) fits(p *pratique.Provenance) bool {
	return (u.by == nil || slices.Contains(u.by, p.By)) &&
		(u.builder == nil || p.Builder != "" && u.builder.match(p.Builder)) &&
		(u.source == nil || p.Source != "" && u.source.match(p.Source))
}

func (u *unproven) meets(e *evaluation) match {
	a, looked := e.attested()
	if !looked {
		return match{met: unknown, missing: "where it was built"}
	}
	for i := range a.Provenance {
		if u.fits(&a.Provenance[i]) {
			return match{met: no}
		}
	}
	return match{met: yes, mark: distinguish(a.Problems...)}
}

func (u *unproven) text(e *evaluation, m *match) string {
	if m.met == unknown {
		return "nobody has looked for provenance" + u.wanted + " yet"
	}
	a, _ := e.attested()
	text := "no verified provenance" + u.wanted
	switch {
	case len(a.Provenance) > 0:
		p := &a.Provenance[0]
		return text + "; found: builder " + oneLine(p.Builder) + ", source " + oneLine(p.Source) + ", by " + oneLine(p.By)
	case len(a.Problems) > 0:
		return text + "; found: " + oneLine(a.Problems[0])
	}
	return text + "; nothing was found"
}

func (*unproven) facts(e *evaluation) string {
	a, looked := e.attested()
	switch {
	case !looked:
		return "not looked for yet"
	case len(a.Provenance) == 0:
		return "no verified provenance"
	}
	p := &a.Provenance[0]
	return "builder " + oneLine(p.Builder) + ", source " + oneLine(p.Source) + ", by " + oneLine(p.By)
}
