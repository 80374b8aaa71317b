// Package vex reads what suppliers say about vulnerabilities in their products:
// OpenVEX, CycloneDX VEX and CSAF, as JSON, into pratique.Statement.
//
// It owns the three formats and one law: a statement never comes out wider than
// its document made it. What names a version is never read as all versions, what
// speaks of one product's component never as that component everywhere, and a
// product that cannot be told is left out, with an error where the operator could
// do something about it. Whether a statement fits a finding, and which of several
// holds, is for policy; whether its author is to be believed, for whoever handed
// the document over: an operator who names a file, or evidence/trust.
package vex

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/package-url/packageurl-go"

	"pratique"
)

// Words of OpenVEX for what is said of a vulnerability. Every format's are
// written as these.
const (
	statusNotAffected        = "not_affected"
	statusFixed              = "fixed"
	statusAffected           = "affected"
	statusUnderInvestigation = "under_investigation"
)

// Bounds. A document beyond one is an error: what was left out silently might be
// the statement that takes another one back.
const (
	maxDocument = 32 << 20 // bytes
	maxFiles    = 10_000
	maxProducts = 200_000 // products and components that one document names, all statements together
	maxText     = 500     // bytes of a justification or impact, cut
	maxID       = 1000    // bytes of an identifier
	maxIDs      = 100     // identifiers of one vulnerability
)

// Load reads documents; a directory stands for all *.json in it. CycloneDX VEX
// refers to BOMs: those are among paths too, where they are not in the same file.
// The error joins what is wrong in any file and wraps pratique.ErrInvalid where
// it is the content; then there are no statements at all.
func Load(paths []string) ([]pratique.Statement, error) {
	names, err := expand(paths)
	if err != nil {
		return nil, fmt.Errorf("VEX: %w", err)
	}
	var errs []error
	fail := func(name string, err error) { errs = append(errs, fmt.Errorf("VEX: %s: %w", name, err)) }
	docs := make([]any, len(names))
	boms := make(boms)
	for i, name := range names {
		raw, err := readFile(name)
		if err == nil {
			docs[i], err = decode(raw)
		}
		if bom, ok := docs[i].(*bom); err == nil && ok {
			err = boms.add(name, bom)
		}
		if err != nil {
			fail(name, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var out []pratique.Statement
	for i, name := range names {
		ss, err := statements(docs[i], boms)
		if err != nil {
			fail(name, err)
			continue
		}
		for _, s := range ss {
			s.Source = "file:" + name
			s.Document = cmp.Or(s.Document, filepath.Base(name))
			out = append(out, s)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// expand lists the files that paths mean, each once.
func expand(paths []string) ([]string, error) {
	var out []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		names := []string{path}
		if info.IsDir() {
			entries, err := os.ReadDir(path)
			if err != nil {
				return nil, err
			}
			names = nil
			for _, e := range entries {
				// A mounted ConfigMap holds its files as links; its hidden folders are not
				// read twice.
				if strings.HasSuffix(e.Name(), ".json") && !strings.HasPrefix(e.Name(), ".") && !e.IsDir() {
					names = append(names, filepath.Join(path, e.Name()))
				}
			}
		}
		for _, name := range names {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
		if len(out) > maxFiles {
			return nil, fmt.Errorf("%w: more than %d files", pratique.ErrInvalid, maxFiles)
		}
	}
	return out, nil
}

// readFile reads one byte more than is accepted.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDocument+1))
}

// decode finds out the format of a document and reads it.
func decode(raw []byte) (any, error) {
	if len(raw) > maxDocument {
		return nil, invalid("more than %d bytes", maxDocument)
	}
	var head struct {
		Context   json.RawMessage `json:"@context"`
		BOMFormat json.RawMessage `json:"bomFormat"`
		Document  struct {
			CSAF json.RawMessage `json:"csaf_version"`
		} `json:"document"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		if typed, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok || typed.Field == "" {
			return nil, invalid("not a JSON object: %w", err)
		}
	}
	switch {
	case bytes.HasPrefix(head.Context, []byte(`"`+openVEXContext)):
		return decodeOpenVEX(raw)
	case bytes.Equal(head.BOMFormat, []byte(`"CycloneDX"`)):
		return decodeCycloneDX(raw)
	case head.Document.CSAF != nil:
		return decodeCSAF(raw)
	}
	return nil, invalid("neither OpenVEX, nor CycloneDX, nor CSAF, as JSON")
}

// statements turns what decode returned into statements.
func statements(doc any, boms boms) ([]pratique.Statement, error) {
	switch doc := doc.(type) {
	case *openVEX:
		return doc.statements(true)
	case *bom:
		return doc.statements(boms)
	case *csaf:
		return doc.statements()
	}
	panic(fmt.Sprintf("no document: %T", doc))
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w document: "+format, append([]any{pratique.ErrInvalid}, args...)...)
}

// collector makes the statements of one document, counting what they name.
type collector struct {
	document string
	at       time.Time // of the document
	named    int
	out      []pratique.Statement
}

// add takes s with its products; without any it says nothing and is left out.
func (c *collector) add(s pratique.Statement) error {
	s.Document = text(c.document)
	s.IDs = ids(s.IDs...)
	s.Justification, s.Impact = text(s.Justification), text(s.Impact)
	if s.At.IsZero() {
		s.At = c.at
	}
	s.At = s.At.UTC()
	for _, p := range s.Products {
		c.named += 1 + len(p.Components)
	}
	if c.named > maxProducts {
		return invalid("it names more than %d products and components", maxProducts)
	}
	c.out = append(c.out, s)
	return nil
}

// ids are those of a vulnerability, each once, without what cannot be one.
func ids(all ...string) []string {
	var out []string
	for _, id := range all[:min(len(all), maxIDs)] {
		if id = identifier(id); id != "" && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// identifier is s if it can be one, else "".
func identifier(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxID || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return ""
	}
	return s
}

// text makes one short line of what people wrote; it is shown in verdicts.
func text(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r) || r == utf8.RuneError:
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// versioned is a purl with the version, if it has none itself; "" when it is no
// purl.
func versioned(purl, version string) string {
	purl = identifier(purl)
	p, err := packageurl.FromString(purl)
	if err != nil {
		return ""
	}
	if version = identifier(version); p.Version == "" && version != "" {
		p.Version = version
		return p.ToString()
	}
	return purl
}

// latest is the later of two times.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// purlVersion is the version in a purl; "" when it has none, or is none.
func purlVersion(purl string) string {
	p, err := packageurl.FromString(purl)
	if err != nil {
		return ""
	}
	return p.Version
}
