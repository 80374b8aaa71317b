package upstream

import (
	"net/http"
	"strings"
)

// challenge is one WWW-Authenticate of RFC 9110, section 11.6.1.
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// pickChallenge returns the first bearer or else the first basic challenge of a
// 401; ok is false when there is neither.
func pickChallenge(h http.Header) (c challenge, ok bool) {
	var basic *challenge
	for _, v := range h.Values("WWW-Authenticate") {
		for _, c := range parseChallenges(v) {
			switch c.scheme {
			case "bearer":
				return c, true
			case "basic":
				if basic == nil {
					basic = &c
				}
			}
		}
	}
	if basic == nil {
		return challenge{}, false
	}
	return *basic, true
}

// parseChallenges reads a list such as
//
//	Bearer realm="https://…",service="x", Basic realm="y"
//
// as far as it makes sense.
func parseChallenges(s string) []challenge {
	var out []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := token(s)
		if word == "" {
			return out
		}
		rest = strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(rest, "=") || len(out) == 0 {
			out = append(out, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
			s = rest
			continue
		}
		value, after, ok := paramValue(strings.TrimLeft(rest[1:], " \t"))
		if !ok {
			return out
		}
		out[len(out)-1].params[strings.ToLower(word)] = value
		s = after
	}
}

func token(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t,=\"")
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

func paramValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, " \t,")
		if i < 0 {
			return s, "", true
		}
		return s[:i], s[i:], true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case '"':
			return b.String(), s[i+1:], true
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}
