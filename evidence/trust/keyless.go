package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"pratique"
)

// keyless verifies signatures by certificates of a Sigstore instance.
type keyless struct {
	verifier   *verify.Verifier
	identities []keylessIdentity
}

type keylessIdentity struct {
	name    string
	issuer  string
	subject *regexp.Regexp
}

// newKeyless believes in what the trusted root lists, and demands all of it.
func newKeyless(trustedRoot []byte) (*keyless, error) {
	if len(trustedRoot) == 0 {
		return nil, fmt.Errorf("%w: keyless signatures need a trusted root", pratique.ErrInvalid)
	}
	r, err := root.NewTrustedRootFromJSON(trustedRoot)
	if err != nil {
		return nil, fmt.Errorf("%w trusted root: %w", pratique.ErrInvalid, err)
	}
	if len(r.FulcioCertificateAuthorities()) == 0 {
		return nil, fmt.Errorf("%w trusted root: it lists no certificate authorities", pratique.ErrInvalid)
	}
	options := []verify.VerifierOption{verify.WithoutStatementPredicate()}
	switch {
	case len(r.RekorLogs()) > 0:
		options = append(options, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	case len(r.TimestampingAuthorities()) > 0:
		options = append(options, verify.WithSignedTimestamps(1))
	default:
		return nil, fmt.Errorf("%w trusted root: it lists neither transparency logs nor time stampers, so nothing can prove that a certificate was valid when it signed", pratique.ErrInvalid)
	}
	if len(r.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	v, err := verify.NewVerifier(r, options...)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	return &keyless{verifier: v}, nil
}

func (k *keyless) add(name string, id Sigstore) error {
	if id.Issuer == "" || id.Subject == "" {
		return fmt.Errorf("%w: a sigstore identity needs both issuer and subject", pratique.ErrInvalid)
	}
	glob, err := subjectGlob(id.Subject)
	if err != nil {
		return fmt.Errorf("%w subject %q: %w", pratique.ErrInvalid, id.Subject, err)
	}
	k.identities = append(k.identities, keylessIdentity{name, id.Issuer, glob})
	return nil
}

// subjectGlob compiles the glob of a subject: it fits the whole of it or not.
// See Sigstore.Subject.
func subjectGlob(glob string) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for rest := glob; rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		switch {
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			size = 2
		case rest == "*":
			b.WriteString(`.*`)
		case r == '*':
			b.WriteString(`[^/]*`)
		case r == '?':
			b.WriteString(`[^/]`)
		default:
			b.WriteString(regexp.QuoteMeta(rest[:size]))
		}
		rest = rest[size:]
	}
	b.WriteString(`\z`)
	return regexp.Compile(b.String())
}

// signer is who made a signature that verified.
type signer struct {
	name, kind, identity, issuer string
	at                           time.Time
}

// Kinds of signatures.
const (
	kindKey      = "cosign"
	kindKeyless  = "sigstore"
	kindNotation = "notation"
)

// signers are the identities whose signature the bundle is over the artifact,
// which policy names. The error says why there are none.
func (k *keyless) signers(b *bundle.Bundle, artifact verify.ArtifactPolicyOption) ([]signer, error) {
	content, err := b.VerificationContent()
	if err != nil {
		return nil, err
	}
	// The identities are compared below, once the signature is known to be one.
	result, err := k.verifier.Verify(b, verify.NewPolicy(artifact, verify.WithoutIdentitiesUnsafe()))
	if err != nil {
		return nil, err
	}
	if result.Signature == nil || result.Signature.Certificate == nil || content.Certificate() == nil {
		return nil, errors.New("it was not made with a certificate")
	}
	if n := names(content.Certificate()); n != 1 {
		return nil, fmt.Errorf("its certificate names %d identities; want one", n)
	}
	who := result.Signature.Certificate
	var at time.Time
	for _, stamp := range result.VerifiedTimestamps {
		if at.IsZero() || stamp.Timestamp.Before(at) {
			at = stamp.Timestamp.UTC()
		}
	}
	var out []signer
	for _, id := range k.identities {
		if who.Issuer == id.issuer && id.subject.MatchString(who.SubjectAlternativeName) {
			out = append(out, signer{id.name, kindKeyless, who.SubjectAlternativeName, who.Issuer, at})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("signed by %q of %q, whom nobody here trusts", who.SubjectAlternativeName, who.Issuer)
	}
	return out, nil
}

// names counts the identities that a certificate is made out to.
func names(c *x509.Certificate) int {
	n := len(c.URIs) + len(c.EmailAddresses) + len(c.DNSNames) + len(c.IPAddresses)
	if other, err := cryptoutils.UnmarshalOtherNameSAN(c.Extensions); err == nil && other != "" {
		n++
	}
	return n
}
