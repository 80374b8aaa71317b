package vex

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"pratique"
)

// FuzzDecode: whatever a document holds, reading it ends, in statements that can be
// shown and that name something, or in an error that says whose fault it is.
func FuzzDecode(f *testing.F) {
	names, err := filepath.Glob("testdata/trivy/*.json")
	if err != nil || len(names) == 0 {
		f.Fatal(err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	for _, text := range []string{
		`{"@context":"https://openvex.dev/ns","statements":[null]}`,
		`{"bomFormat":"CycloneDX","specVersion":"1.6","metadata":{"component":null},"components":[{"components":null}],"vulnerabilities":[{"analysis":{"state":"resolved"},"affects":[{}]}]}`,
		`{"document":{"csaf_version":"2.0"},"product_tree":{"branches":[{"branches":[{}]}],"relationships":[{}]},"vulnerabilities":[{"cve":"C","product_status":{"fixed":[""]}}]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := decode(raw)
		var ss []pratique.Statement
		if err == nil {
			all := make(boms)
			if b, ok := doc.(*bom); ok {
				err = all.add("x", b)
			}
			if err == nil {
				ss, err = statements(doc, all)
			}
		}
		if err != nil && !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("error %v does not wrap ErrInvalid", err)
		}
		_, _ = ParseOpenVEX(raw)
		for _, s := range ss {
			if len(s.IDs) == 0 || len(s.Products) == 0 || s.Status == "" {
				t.Errorf("it says nothing, or of everything: %+v", s)
			}
			for _, p := range s.Products {
				if p.ID == "" {
					t.Errorf("a product without a name: %+v", s)
				}
			}
			if strings.ContainsFunc(s.Impact+s.Justification+s.Document, unicode.IsControl) || len(s.Impact) > maxText+3 {
				t.Errorf("cannot be shown: %+v", s)
			}
		}
	})
}
