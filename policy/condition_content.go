package policy

import (
	"errors"
	"fmt"
	"slices"

	"pratique"
	"pratique/internal/strictyaml"
)

// secretDocument is a secret condition as written.
type secretDocument struct {
	Severity severityWord `yaml:"severity"` // at least; if missing, any
	IDs      []string     `yaml:"ids"`      // of the rules that find secrets
}

func (d *secretDocument) compile(c *compiler, at place) condition {
	out := &ofFindings{class: secrets, minRank: pratique.Severity(d.Severity).Rank()}
	out.demands = c.globDemand(nil, at, "ids", d.IDs, idChars, func(f *pratique.Finding) string { return f.ID })
	out.word("", "")
	return out
}

// misconfigurationDocument is a misconfiguration condition as written.
type misconfigurationDocument struct {
	Severity severityWord `yaml:"severity"` // at least; if missing, any
	IDs      []string     `yaml:"ids"`      // of checks
	Set      string       `yaml:"set"`      // checks by the name of a benchmark
}

func (d *misconfigurationDocument) compile(c *compiler, at place) condition {
	out := &ofFindings{class: misconfigurations, minRank: pratique.Severity(d.Severity).Rank()}
	out.demands = c.globDemand(nil, at, "ids", d.IDs, idChars, func(f *pratique.Finding) string { return f.ID })
	after := ""
	if c.has(at, "set") {
		if c.has(at, "ids") {
			c.failAt(at, "set", "set and ids name the same thing: write one of them")
		}
		after = " of " + d.Set
		checks, ok := benchmark(d.Set)
		if !ok {
			c.failAt(at, "set", "%s", wantWord("set", d.Set, benchmarks()))
		}
		out.demands = append(out.demands, demand{missing: "the check of a finding", fits: func(_ *evaluation, f *pratique.Finding) truth {
			if f.ID == "" {
				return unknown
			}
			return truthOf(slices.Contains(checks, f.ID))
		}})
	}
	out.word("", after)
	return out
}

// licenseDocument is a license condition as written.
type licenseDocument struct {
	Names      []string       `yaml:"names"`
	Categories []categoryWord `yaml:"categories"`
}

// categoryWord is a category of licenses, in the scanner's words.
type categoryWord string

var categories = []string{"forbidden", "restricted", "reciprocal", "notice", "permissive", "unencumbered", "unknown"}

// UnmarshalText accepts the scanner's words only.
func (w *categoryWord) UnmarshalText(b []byte) error {
	if !slices.Contains(categories, string(b)) {
		return wantWord("category", string(b), categories)
	}
	*w = categoryWord(b)
	return nil
}

func (d *licenseDocument) compile(c *compiler, at place) condition {
	out := &ofFindings{class: licenses}
	// The name of a license is in ID, as the scanner normalised it.
	out.demands = c.globDemand(nil, at, "names", d.Names, idChars+"() ,'\"", func(f *pratique.Finding) string { return f.ID })
	if c.has(at, "categories") {
		if len(d.Categories) == 0 {
			c.failAt(at, "categories", "categories: an empty list fits nothing")
		}
		wanted := make(map[string]truth)
		for _, known := range categories {
			wanted[known] = truthOf(slices.Contains(d.Categories, categoryWord(known)))
		}
		wanted[""] = wanted["unknown"] // a license that nobody has sorted
		out.demands = append(out.demands, demand{missing: "the category of a license", fits: func(_ *evaluation, f *pratique.Finding) truth {
			return wanted[f.Category]
		}})
	}
	out.word("", "")
	return out
}

// wantWord is the error of a word that is not in a list.
func wantWord(what, word string, known []string) error {
	text := fmt.Sprintf("%s %q: want %s", what, word, strictyaml.List(known, "or"))
	return errors.New(text + didYouMean(word, known...))
}

// list is words as a sentence has them.
func list(words []string) string { return strictyaml.List(words, "or") }
