package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestGenerations builds two days from a few sources: the later knows more, an
// archive that says the same is left alone, and another is not.
func TestGenerations(t *testing.T) {
	dir := t.TempDir()
	o := options{
		advisories: "../../testdata/advisories",
		sources:    "npm-ghsa-selected,npm-retirejs,php,debian-dsa",
		packages:   "../../testdata/database/packages.txt",
		asof:       "2026-02-01",
		tar:        filepath.Join(dir, "db.tar.gz"),
		oci:        filepath.Join(dir, "layout"),
		tag:        "2",
	}
	build := func() map[string]int {
		t.Helper()
		when, err := o.when()
		if err != nil {
			t.Fatal(err)
		}
		o.out = ""
		counts, err := o.build(when)
		if err != nil {
			t.Fatal(err)
		}
		return counts
	}
	before := build()
	first, err := os.Stat(o.tar)
	if err != nil {
		t.Fatal(err)
	}
	if again := build(); again["advisories"] != before["advisories"] || before["advisories"] == 0 {
		t.Errorf("%d advisories, then %d", before["advisories"], again["advisories"])
	}
	second, err := os.Stat(o.tar)
	if err != nil {
		t.Fatal(err)
	}
	if !second.ModTime().Equal(first.ModTime()) {
		t.Error("an archive that says the same was written again")
	}
	o.asof, o.updated = "", "2026-11-22T06:00:00Z"
	after := build()
	if after["advisories"] <= before["advisories"] {
		t.Errorf("%d advisories in February, %d in November", before["advisories"], after["advisories"])
	}
	third, err := os.Stat(o.tar)
	if err != nil {
		t.Fatal(err)
	}
	if third.ModTime().Equal(first.ModTime()) {
		t.Error("an archive that says something else was kept")
	}
	if _, err := os.Stat(filepath.Join(o.oci, "index.json")); err != nil {
		t.Error(err)
	}
}
