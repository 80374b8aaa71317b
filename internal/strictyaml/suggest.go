package strictyaml

import (
	"strings"
)

// Suggest is "; did you mean …?" when one of the known words is close to word,
// else the list of what is known when that is short.
func Suggest(word string, known []string) string {
	best, score := "", len(word)/3+2
	for _, k := range known {
		a, b := strings.ToLower(word), strings.ToLower(k)
		d := distance(a, b)
		if len(a) > 2 && strings.HasPrefix(b, a) {
			d = 1 // a word cut short
		}
		if d < score {
			best, score = k, d
		}
	}
	switch {
	case best != "":
		return "; did you mean `" + best + "`?"
	case len(known) == 0:
		return "; no key is known here"
	case len(known) <= 16:
		return "; known are " + List(known, "and")
	}
	return ""
}

// List joins words as a sentence does, with conjunction before the last one:
// "a, b or c".
func List(words []string, conjunction string) string {
	switch len(words) {
	case 0:
		return "nothing"
	case 1:
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + conjunction + " " + words[len(words)-1]
}

// distance is Levenshtein's, over bytes; words longer than 64 bytes are far
// from everything.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
