// Package series reads tags as versions: which tags of a repository are older and
// newer versions of the same thing, and how far they are apart.
//
// Tags follow no standard. What is read here is what publishers commonly write:
// semantic versions, versions with one to any number of parts, calendar versions,
// build counters, variants and the versions of what an image is made on. What is
// not sure to be a version is none: a tag without a series is never called
// outdated. The package is pure and keeps nothing.
package series

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"pratique"
)

// Version is a tag read as a version. The zero Version is in a series of its own
// that nothing else is in.
type Version struct {
	tag    string
	key    string   // the tag without what may move
	main   []string // numbers without leading zeros, any length
	pre    *prerelease
	moving []moving // versions after the main one
}

// prerelease is how far a version is from its release.
type prerelease struct {
	rank    int
	numbers []string
}

// moving is a version after the main one.
type moving struct {
	numbers []string
	kind    kind
}

// kind says what a step of a moving version means for the whole tag.
type kind int

const (
	other        kind = iota // a choice of its own: php8.2 and php8.3 are two products
	distribution             // what the image is made on; moves along with the main version
	counter                  // a build of the same content
)

// Parse reads a tag; false if it is in no series.
func Parse(tag string) (Version, bool) {
	if len(tag) > maxTag || hashed(tag) {
		return Version{}, false
	}
	ts := scan(tag)
	at := mainAt(ts)
	if at < 0 {
		return Version{}, false
	}
	v := Version{tag: tag, main: ts[at].numbers}
	if len(v.main) == 1 && len(v.main[0]) >= minHash {
		return Version{}, false // a hash of digits alone, a time, a build: nobody knows
	}
	var key strings.Builder
	for _, t := range ts[:at] {
		if t.kind == word && unordered(t.text) {
			return Version{}, false
		}
		key.WriteString(t.text) // a version before the main one never moves
	}
	if ts[at].style == "" && isYear(v.main[0]) {
		key.WriteString("year")
	}
	key.WriteString(ts[at].shape())
	v.suffix(ts, at, &key)
	v.key = key.String()
	return v, true
}

// suffix reads what follows the main version.
func (v *Version) suffix(ts []token, at int, key *strings.Builder) {
	for i := at + 1; i < len(ts); i++ {
		if v.pre == nil {
			if pre, n := prereleaseAt(ts, i, at); n > 0 {
				v.pre = &pre
				i += n - 1
				continue
			}
		}
		if ts[i].kind != number {
			key.WriteString(ts[i].text)
			continue
		}
		key.WriteString(ts[i].shape())
		v.moving = append(v.moving, moving{ts[i].numbers, kindOf(ts, i)})
	}
}

// Tag is what was parsed.
func (v Version) Tag() string { return v.tag }

// Series is the same word for all versions of one series: the words, their
// places, and how many parts each version has.
func (v Version) Series() string { return v.key }

// Prerelease reports whether the version is one before a release.
func (v Version) Prerelease() bool { return v.pre != nil }

// Precision is the number of parts of the version.
func (v Version) Precision() int { return len(v.main) }

// Compare orders the versions of one series: negative when v is older than w. What
// differs in spelling alone (2024.01, 2024.1) is the same version.
func (v Version) Compare(w Version) int {
	if c := compareNumbers(v.main, w.main); c != 0 {
		return c
	}
	if c := v.pre.compare(w.pre); c != 0 {
		return c
	}
	return slices.CompareFunc(v.moving, w.moving, func(a, b moving) int { return compareNumbers(a.numbers, b.numbers) })
}

// Newer reports whether w is a newer version of v's series, and how far away. A
// prerelease is newer only than prereleases: who is on a release did not ask for
// one.
//
// The level is that of the first part of the main version that differs: the first
// is major, the second minor, any other patch; by years and months for calendar
// versions. Where only what follows differs, or a choice in it (php8.2, php8.3),
// its level counts: 1.27.3-alpine3.21 is minor after 1.27.3-alpine3.20, but
// 1.27.4-alpine3.21 patch. Build counters and prereleases are patch.
func Newer(v, w Version) (pratique.Level, bool) {
	if v.key != w.key || w.pre != nil && v.pre == nil || v.Compare(w) >= 0 {
		return "", false
	}
	part := 2 // of the main version, or any later one
	at, moved := firstDifference(v.main, w.main)
	if moved {
		part = min(part, at)
	}
	for i, m := range v.moving {
		at, differ := firstDifference(m.numbers, w.moving[i].numbers)
		if differ && (m.kind == other || m.kind == distribution && !moved && v.pre.compare(w.pre) == 0) {
			part = min(part, at)
		}
	}
	switch part {
	case 0:
		return pratique.LevelMajor, true
	case 1:
		return pratique.LevelMinor, true
	}
	return pratique.LevelPatch, true
}

// compare orders prereleases; a release (nil) comes after all of them.
func (p *prerelease) compare(q *prerelease) int {
	switch {
	case p == nil && q == nil:
		return 0
	case p == nil:
		return 1
	case q == nil:
		return -1
	}
	if c := cmp.Compare(p.rank, q.rank); c != 0 {
		return c
	}
	return compareNumbers(p.numbers, q.numbers)
}

// compareNumbers orders lists of numbers; a list that is the beginning of another
// comes first.
func compareNumbers(a, b []string) int { return slices.CompareFunc(a, b, compareDigits) }

// compareDigits orders numbers without leading zeros, of any length.
func compareDigits(a, b string) int {
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	return cmp.Compare(a, b)
}

func firstDifference(a, b []string) (int, bool) {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i, true
		}
	}
	return 0, len(a) != len(b)
}

// shape stands for a version in the key: its style and number of parts. No tag
// holds a '#'.
func (t token) shape() string { return "#" + t.style + strconv.Itoa(len(t.numbers)) }
