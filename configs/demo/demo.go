// Package demo holds the small vulnerability database that ships with Pratique,
// for `make run` and first steps without a network. NOTICE.md names its sources
// and their licenses.
package demo

// dbbuild leaves an archive alone that says what the advisories say.
//
//go:generate go run ../../tools/dbbuild -advisories ../../testdata/advisories -sources go-vulndb,pypa,alma,bitnami,debian-changelog -packages ../../testdata/database/packages.txt -updated 2026-11-22T06:00:00Z -tar trivy-db.tar.gz
