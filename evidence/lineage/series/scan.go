package series

import (
	"regexp"
	"strings"
)

const (
	maxTag  = 128 // OCI distribution-spec 1.1
	minHash = 7   // git's shortest abbreviation
)

// A token is a part of a tag.
type token struct {
	kind    tokenKind
	text    string
	numbers []string // of a number: its parts without leading zeros
	style   string   // of a date: how it is written
}

type tokenKind int

const (
	separator tokenKind = iota
	word
	number
)

var (
	// 2024-10-01, 2024_10_01 and 2024-10.
	dashed = regexp.MustCompile(`^((?:19|20)[0-9]{2})([-_])(0[1-9]|1[0-2])(?:([-_])(0[1-9]|[12][0-9]|3[01]))?(?:$|[^0-9.])`)
	// 20241001, and with the time: 202410011230, 20241001123059.
	compact = regexp.MustCompile(`^((?:19|20)[0-9]{2})(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])((?:[01][0-9]|2[0-3])[0-5][0-9](?:[0-5][0-9])?)?$`)

	year = regexp.MustCompile(`^(?:19|20)[0-9]{2}$`)
	hex  = regexp.MustCompile(`^g?[0-9a-f]{7,64}$`)
)

// scan cuts a tag into separators, words and versions.
func scan(tag string) []token {
	var ts []token
	for rest := tag; rest != ""; {
		t := next(rest, ts)
		ts = append(ts, t)
		rest = rest[len(t.text):]
	}
	return ts
}

// next reads the first token of s, which follows those in before.
func next(s string, before []token) token {
	fresh := len(before) == 0 || before[len(before)-1].kind == separator
	if fresh {
		if n := fixed(s); n > 0 && (len(before) > 0 || !isDigit(s[0])) {
			return token{kind: word, text: s[:n]}
		}
	}
	if len(s) >= 7 && (s[4] == '-' || s[4] == '_') && (fresh || isV(before, len(before)-1)) {
		if m := dashed.FindStringSubmatch(s); m != nil {
			return date(m)
		}
	}
	switch {
	case isDigit(s[0]):
		return numeric(s[:dotted(s)])
	case isAlnum(s[0]):
		return token{kind: word, text: s[:run(s, isLetter)]}
	}
	return token{kind: separator, text: s[:1]}
}

// fixed is the length of the name that s begins with if that is one with digits in
// it that are no version: of a platform (a variant for armv7 is no newer armv6),
// of the Windows host that an image needs, or one that a counter follows at once.
func fixed(s string) int {
	if strings.HasPrefix(s, "k3s") {
		return len("k3s")
	}
	if strings.HasPrefix(s, "rke2") {
		return len("rke2")
	}
	n := run(s, isAlnum)
	name := strings.ToLower(s[:n])
	switch name {
	case "x86":
		if n+3 <= len(s) && (s[n] == '_' || s[n] == '-') && s[n+1:n+1+run(s[n+1:], isAlnum)] == "64" {
			return n + 3
		}
		return n
	case "x64", "amd64", "i386", "i586", "i686", "386", "arm64", "arm64v8", "arm32v5", "arm32v6", "arm32v7", "arm32v8", "armv5", "armv6", "armv7", "armv8",
		"armv6l", "armv7l", "armv8l", "armhf", "aarch64", "s390x", "ppc64le", "ppc64el", "mips64", "mips64le", "mips64el", "riscv64", "loong64",
		"win32", "win64", "k8s":
		return n
	case "nanoserver", "windowsservercore":
		if n < len(s) && s[n] == '-' {
			if digits := run(s[n+1:], isDigit); digits >= 4 && digits == run(s[n+1:], isAlnum) {
				return n + 1 + digits
			}
		}
	}
	if strings.HasPrefix(name, "ltsc") && n == len("ltsc2022") && run(name[4:], isDigit) == 4 {
		return n
	}
	return 0
}

// run is how many bytes at the beginning of s are in a class.
func run(s string, in func(byte) bool) int {
	n := 0
	for n < len(s) && in(s[n]) {
		n++
	}
	return n
}

// dotted is the length of the numbers with dots between them that s begins with.
func dotted(s string) int {
	n := 0
	for n < len(s) && (isDigit(s[n]) || s[n] == '.' && n+1 < len(s) && isDigit(s[n+1])) {
		n++
	}
	return n
}

// date is a token of a date with separators; m are the submatches of dashed.
func date(m []string) token {
	t := token{kind: number, text: m[1] + m[2] + m[3], style: "date" + m[2], numbers: []string{m[1], trim(m[3])}}
	if m[5] != "" {
		t.text += m[4] + m[5]
		t.style += m[4]
		t.numbers = append(t.numbers, trim(m[5]))
	}
	return t
}

// numeric is a token of numbers with dots between them, the first of which may be
// a date.
func numeric(s string) token {
	t := token{kind: number, text: s}
	parts := strings.Split(s, ".")
	if len(parts[0]) >= 8 {
		parts = t.compact(parts)
	}
	for _, p := range parts {
		t.numbers = append(t.numbers, trim(p))
	}
	return t
}

// compact reads the first part if it is a date, and returns the others.
func (t *token) compact(parts []string) []string {
	if m := compact.FindStringSubmatch(parts[0]); m != nil {
		t.style = "date"
		t.numbers = []string{m[1], trim(m[2]), trim(m[3])}
		if m[4] != "" {
			t.style = "time"
			if len(m[4]) == 4 {
				t.style = "minute"
			}
			t.numbers = append(t.numbers, trim(m[4]))
		}
		return parts[1:]
	}
	return parts
}

// mainAt finds the version that the tag is about: the first that stands alone or
// behind a v, because what is attached to a word is that word's (pg16-v0.2.1);
// else the first. -1 if there is none.
func mainAt(ts []token) int {
	first := -1
	for i, t := range ts {
		if t.kind != number {
			continue
		}
		if alone(ts, i) {
			return i
		}
		if first < 0 {
			first = i
		}
	}
	return first
}

func alone(ts []token, i int) bool { return i == 0 || ts[i-1].kind == separator || isV(ts, i-1) }

// isV reports whether token i is a v before a version.
func isV(ts []token, i int) bool {
	return strings.EqualFold(ts[i].text, "v") && (i == 0 || ts[i-1].kind == separator)
}

// hashed reports whether a part of the tag is the hash of a commit or of content:
// such tags come in no order.
func hashed(tag string) bool {
	if len(tag) < minHash {
		return false
	}
	for p := range strings.FieldsFuncSeq(tag, func(r rune) bool { return r == '-' || r == '_' || r == '.' }) {
		if len(p) >= minHash && hex.MatchString(p) && strings.ContainsAny(p, "0123456789") && strings.ContainsAny(p, "abcdef") {
			return true
		}
	}
	return false
}

// unordered tells words before numbers that name something else than versions.
func unordered(w string) bool {
	switch strings.ToLower(w) {
	case "sha", "commit", "git", "pr", "mr", "pull":
		return true
	}
	return false
}

// prereleaseAt reads a prerelease at token i, with the separator before it; main
// is where the main version is. n is the number of tokens read, 0 if there is
// none.
func prereleaseAt(ts []token, i, main int) (p prerelease, n int) {
	at := i
	if ts[at].kind == separator {
		at++
	}
	if at >= len(ts) || ts[at].kind != word {
		return prerelease{}, 0
	}
	name := strings.ToLower(ts[at].text)
	end, numbered := at+1, false
	if end < len(ts) && ts[end].kind == number {
		p.numbers, numbered = ts[end].numbers, true
		end++
	} else if end+1 < len(ts) && ts[end].kind == separator && ts[end+1].kind == number {
		p.numbers, numbered = ts[end+1].numbers, true
		end += 2
	}
	attached := at == main+1
	switch name {
	case "snapshot":
		p.rank = 1
	case "dev":
		// Without a number it is a variant: the image with a shell and tools in it.
		if !numbered {
			return prerelease{}, 0
		}
		p.rank = 1
	case "alpha":
		p.rank = 2
	case "beta":
		p.rank = 3
	case "a", "b":
		if !attached || !numbered {
			return prerelease{}, 0
		}
		p.rank = 2 + int(name[0]-'a')
	case "m", "milestone":
		if !numbered {
			return prerelease{}, 0
		}
		p.rank = 4
	case "pre", "preview", "ea":
		p.rank = 5
	case "rc", "cr":
		p.rank = 6
	default:
		return prerelease{}, 0
	}
	return p, end - i
}

// kindOf tells what the version at token i is one of, by the word before it.
func kindOf(ts []token, i int) kind {
	t := ts[i]
	owner := ""
	if ts[i-1].kind == word {
		owner = ts[i-1].text
	} else if i > 1 && ts[i-2].kind == word {
		owner = ts[i-2].text
	}
	switch strings.ToLower(owner) {
	case "alpine", "debian", "deb", "ubuntu", "ubi", "rhel", "el", "centos", "stream", "fedora", "fc", "rocky", "rockylinux", "almalinux",
		"alma", "amazonlinux", "amzn", "al", "oracle", "oraclelinux", "ol", "sles", "sle", "suse", "leap", "bci", "photon", "azurelinux", "mariner", "distroless", "wolfi":
		return distribution
	case "r", "rev", "p", "patch", "b", "build", "u", "update", "cu", "ls", "gke", "eksbuild", "k3s", "post", "hotfix", "sp", "t", "z":
		return counter
	}
	if t.style != "" || len(t.numbers) == 1 && owner == "" {
		return counter
	}
	if owner == "" {
		for _, n := range t.numbers { // 9.4-1214.1726694543, but not 16-3.4
			if len(n) >= 3 {
				return counter
			}
		}
	}
	return other
}

func isYear(s string) bool { return year.MatchString(s) }

// trim takes leading zeros away.
func trim(s string) string {
	if s = strings.TrimLeft(s, "0"); s == "" {
		return "0"
	}
	return s
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

func isLetter(b byte) bool { return 'a' <= b|0x20 && b|0x20 <= 'z' }

func isAlnum(b byte) bool { return isDigit(b) || isLetter(b) }
