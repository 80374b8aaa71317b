package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Types of in-toto statements and predicates.
const (
	statement01  = "https://in-toto.io/Statement/v0.1"
	statement1   = "https://in-toto.io/Statement/v1"
	cosignSign   = "https://sigstore.dev/cosign/sign/v1"
	slsa02       = "https://slsa.dev/provenance/v0.2"
	slsa1        = "https://slsa.dev/provenance/v1"
	openVEX      = "https://openvex.dev/ns" // with or without /VERSION
	maxOver      = 1024                     // subjects of one statement
	maxMaterials = 1000                     // of a provenance are looked through
)

// statement is an in-toto statement that speaks about the image. Source: in-toto
// attestation framework.
type statement struct {
	predicateType string
	predicate     json.RawMessage
}

// statement reads what the envelope states, if that is about the manifest.
func (e dsseEnvelope) statement(about digest.Digest) (statement, error) {
	if e.payloadType != typeInToto {
		return statement{}, fmt.Errorf("payload of type %.60q; want %s", e.payloadType, typeInToto)
	}
	o, err := object(e.payload)
	if err != nil {
		return statement{}, fmt.Errorf("statement: %w", err)
	}
	typ, err := text(o["_type"])
	if err != nil || typ != statement01 && typ != statement1 {
		return statement{}, fmt.Errorf("statement of type %.60q; want %s", typ, statement1)
	}
	subjects, more, err := list(o["subject"], maxOver)
	switch {
	case err != nil:
		return statement{}, fmt.Errorf("statement: subject: %w", err)
	case more:
		return statement{}, fmt.Errorf("statement about more than %d subjects", maxOver)
	}
	var fits bool
	for _, s := range subjects {
		d, err := text(s, "digest", about.Algorithm().String())
		if err != nil {
			return statement{}, fmt.Errorf("statement: subject: %w", err)
		}
		fits = fits || d == about.Encoded()
	}
	if !fits {
		return statement{}, errors.New("statement about something else: no subject has the digest of this manifest")
	}
	var st statement
	if st.predicateType, err = text(o["predicateType"]); err != nil {
		return statement{}, fmt.Errorf("statement: predicateType: %w", err)
	}
	st.predicate = o["predicate"]
	return st, nil
}

// stated takes over what was stated and signed. Predicates of other types say
// nothing that a rule asks for.
func (s *search) stated(holder digest.Digest, st statement, who []signer) error {
	switch {
	case st.predicateType == cosignSign:
		s.signed(holder, who)
		return nil
	case st.predicateType == slsa02, st.predicateType == slsa1:
		p, err := provenance(st)
		if err != nil {
			return fmt.Errorf("provenance: %w", err)
		}
		for _, w := range who {
			p.By, p.Digest = w.name, holder
			s.found.Provenance = append(s.found.Provenance, p)
		}
		return nil
	case st.predicateType == openVEX, strings.HasPrefix(st.predicateType, openVEX+"/"):
		return s.exploitability(holder, st, who)
	}
	return nil
}

// exploitability takes over a VEX document, if one of those signed it whose
// documents count.
func (s *search) exploitability(holder digest.Digest, st statement, who []signer) error {
	i := slices.IndexFunc(who, func(w signer) bool { return s.t.vex[w.name] })
	switch {
	case i < 0:
		return fmt.Errorf("VEX document signed by %s, whose documents do not count here", who[0].name)
	case s.t.cfg.ParseVEX == nil:
		return nil
	case int64(len(st.predicate)) > s.t.cfg.MaxBlob:
		return fmt.Errorf("VEX document of %d bytes; at most %d are read", len(st.predicate), s.t.cfg.MaxBlob)
	}
	if _, err := object(st.predicate); err != nil {
		return fmt.Errorf("VEX document: %w", err)
	}
	statements, err := s.t.cfg.ParseVEX(st.predicate)
	if err != nil {
		return fmt.Errorf("VEX document: %w", err)
	}
	if len(s.found.Statements)+len(statements) > maxStatements {
		return fmt.Errorf("more than %d VEX statements about one image", maxStatements)
	}
	for _, v := range statements {
		v.Source, v.By, v.Image = "referrer:"+holder.String(), who[i].name, s.image
		s.found.Statements = append(s.found.Statements, v)
	}
	return nil
}

// provenance reads who built the image out of what. Source: SLSA provenance v0.2
// and v1.
func provenance(st statement) (pratique.Provenance, error) {
	p := pratique.Provenance{Type: st.predicateType}
	read := func(to *string, names ...string) error {
		if *to != "" {
			return nil
		}
		v, err := text(st.predicate, names...)
		*to = v
		return err
	}
	var err error
	if st.predicateType == slsa02 {
		err = errors.Join(
			read(&p.Builder, "builder", "id"),
			read(&p.BuildType, "buildType"),
			read(&p.Source, "invocation", "configSource", "uri"),
			revision(&p, st.predicate, "invocation", "configSource", "digest"),
			materials(&p, st.predicate, "materials"),
		)
		return p, err
	}
	err = errors.Join(
		read(&p.Builder, "runDetails", "builder", "id"),
		read(&p.BuildType, "buildDefinition", "buildType"),
		// Where it is depends on the build type: GitHub's workflows and generators
		// for them, BuildKit, Google's and Tekton's.
		read(&p.Source, "buildDefinition", "externalParameters", "workflow", "repository"),
		read(&p.Source, "buildDefinition", "externalParameters", "configSource", "uri"),
		read(&p.Source, "buildDefinition", "externalParameters", "source", "uri"),
		read(&p.Source, "buildDefinition", "externalParameters", "source", "repository"),
		read(&p.Source, "buildDefinition", "externalParameters", "source"),
		revision(&p, st.predicate, "buildDefinition", "externalParameters", "configSource", "digest"),
		materials(&p, st.predicate, "buildDefinition", "resolvedDependencies"),
	)
	return p, err
}

// revision reads the digest of the source.
func revision(p *pratique.Provenance, raw []byte, names ...string) error {
	if p.Revision != "" {
		return nil
	}
	for _, algorithm := range []string{"gitCommit", "sha1", "sha256"} {
		hash, err := text(raw, append(slices.Clone(names), algorithm)...)
		if err != nil {
			return err
		}
		if hash != "" {
			p.Revision = strings.Replace(algorithm, "gitCommit", "sha1", 1) + ":" + hash
			return nil
		}
	}
	return nil
}

// materials reads the revision of the source, and the source itself where
// nothing said it before: then it is the first of what was built from.
func materials(p *pratique.Provenance, raw []byte, names ...string) error {
	ms, _, err := list(raw, maxMaterials, names...)
	if err != nil {
		return err
	}
	for _, m := range ms {
		uri, err := text(m, "uri")
		if err != nil {
			return err
		}
		if p.Source == "" {
			p.Source = uri
		}
		if sameSource(p.Source, uri) {
			return revision(p, m, "digest")
		}
	}
	return nil
}

// sameSource reports whether both name one repository: a material is written as
// git+URL@REF where the source is URL.
func sameSource(source, material string) bool {
	clean := func(s string) string {
		s = strings.TrimPrefix(s, "git+")
		if i := strings.LastIndexByte(s, '@'); i > strings.LastIndexByte(s, '/') || i > 0 && strings.HasPrefix(s[i:], "@refs/") {
			s = s[:i]
		}
		return strings.TrimSuffix(s, ".git")
	}
	return clean(source) == clean(material)
}
