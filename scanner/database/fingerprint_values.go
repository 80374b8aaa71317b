package database

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// readCPEs reads the names of Red Hat's CPEs. Advisories and repositories hold
// their positions in that list, which move whenever one is added.
func (p *printer) readCPEs(maps *bolt.Bucket) error {
	p.cpes = make(map[string]string)
	if maps == nil {
		return nil
	}
	names := maps.Bucket([]byte("cpe"))
	if names == nil {
		return nil
	}
	taken := make(map[string]bool)
	return names.ForEach(func(k, v []byte) error {
		name := string(v)
		if taken[name] { // two positions are two CPEs to a detector, whatever their names
			name += "#" + string(k)
		}
		taken[name] = true
		p.cpes[string(k)] = name
		return nil
	})
}

// cpeMaps prints which CPEs Red Hat's repositories and builds stand for.
func (p *printer) cpeMaps(maps *bolt.Bucket) error {
	if maps == nil {
		return nil
	}
	return maps.ForEachBucket(func(kind []byte) error {
		if string(kind) == "cpe" {
			return nil // read by no detector
		}
		p.w.section(sectionCPEs, string(kind))
		return p.values(maps.Bucket(kind), func(_, v []byte) uint64 {
			if list, rest, ok := p.nameList(v); ok && len(rest) == 0 {
				v = list
			}
			return p.sum(v)
		})
	})
}

// affected is how an entry of a Red Hat advisory begins its list of positions. In
// JSON no string holds it: a quote inside of one is escaped.
var affected = []byte(`"Affected":[`)

// nameCPEs replaces the positions in an advisory by names.
func (p *printer) nameCPEs(v []byte) []byte {
	if !bytes.Contains(v, affected) {
		return v
	}
	var out []byte
	for {
		i := bytes.Index(v, affected)
		if i < 0 {
			return append(out, v...)
		}
		at := i + len(affected) - 1
		list, rest, ok := p.nameList(v[at:])
		if !ok {
			return append(out, v...)
		}
		out = append(append(out, v[:at]...), list...)
		v = rest
	}
}

// nameList replaces the positions in the JSON list that v begins with by names in
// order, and returns what follows the list.
func (p *printer) nameList(v []byte) (list, rest []byte, ok bool) {
	end := bytes.IndexByte(v, ']')
	if len(v) == 0 || v[0] != '[' || end < 0 {
		return nil, nil, false
	}
	var names []string
	for _, position := range strings.Split(string(v[1:end]), ",") {
		position = strings.TrimSpace(position)
		name, known := p.cpes[position]
		if !known {
			name = "#" + position
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Appendf(nil, "%q", names), v[end+1:], true
}

// unread are the parts of a vulnerability record that no finding tells, some of
// which move every day. Everything else counts, known or not; match.records reads
// less than that.
func unread(field string) bool {
	switch field {
	case "Description", "CweIDs", "PublishedDate", "LastModifiedDate":
		return true
	}
	return false
}

// byID are the beginnings of ids from which a finding's URL is made; of others it is
// one of the record's references. Source: trivy's pkg/vulnerability, getPrimaryURL;
// a test asks it.
func byID() []string { return []string{"CVE-", "RUSTSEC-", "GHSA-", "TEMP-"} }

// record hashes what a vulnerability record decides of findings.
func (p *printer) record(id, v []byte) uint64 {
	references := !slices.ContainsFunc(byID(), func(prefix string) bool { return bytes.HasPrefix(id, []byte(prefix)) })
	p.entry.Reset()
	whole := eachField(v, func(key, value []byte) {
		if !unread(string(key)) && (references || string(key) != "References") {
			p.add(key, value)
		}
	})
	if !whole {
		return p.sum(v)
	}
	return p.done()
}

// eachField yields the fields of a JSON object, both as they are written. It reports
// whether v is one, as far as it looks: enough for hashes, whose worst is to differ
// once too often.
func eachField(v []byte, yield func(key, value []byte)) bool {
	s := fieldScanner{v: v}
	if !s.eat('{') {
		return false
	}
	if s.eat('}') {
		return s.rest() == 0
	}
	for {
		key, ok := s.value()
		if !ok || len(key) < 2 || key[0] != '"' || !s.eat(':') {
			return false
		}
		value, ok := s.value()
		if !ok {
			return false
		}
		yield(key[1:len(key)-1], value)
		if s.eat('}') {
			return s.rest() == 0
		}
		if !s.eat(',') {
			return false
		}
	}
}

type fieldScanner struct {
	v  []byte
	at int
}

func (s *fieldScanner) space() {
	for s.at < len(s.v) && (s.v[s.at] == ' ' || s.v[s.at] == '\n' || s.v[s.at] == '\t' || s.v[s.at] == '\r') {
		s.at++
	}
}

func (s *fieldScanner) rest() int {
	s.space()
	return len(s.v) - s.at
}

func (s *fieldScanner) eat(c byte) bool {
	s.space()
	if s.at < len(s.v) && s.v[s.at] == c {
		s.at++
		return true
	}
	return false
}

// value passes one value and returns its bytes.
func (s *fieldScanner) value() ([]byte, bool) {
	s.space()
	start, depth := s.at, 0
	for s.at < len(s.v) {
		switch c := s.v[s.at]; c {
		case '"':
			if !s.text() {
				return nil, false
			}
			if depth == 0 {
				return s.v[start:s.at], true
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return s.v[start:s.at], s.at > start
			}
			if depth--; depth == 0 {
				s.at++
				return s.v[start:s.at], true
			}
		case ',', ':':
			if depth == 0 {
				return s.v[start:s.at], s.at > start
			}
		}
		s.at++
	}
	return nil, false
}

// text passes a string.
func (s *fieldScanner) text() bool {
	for s.at++; s.at < len(s.v); s.at++ {
		switch s.v[s.at] {
		case '\\':
			s.at++
		case '"':
			s.at++
			return true
		}
	}
	return false
}
