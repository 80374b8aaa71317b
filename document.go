package pratique

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxDocumentDepth is how deep a manifest may nest; real ones need six.
const maxDocumentDepth = 32

// manifestKeys are the keys that give a manifest its meaning.
var manifestKeys = []string{
	"schemaVersion", "mediaType", "artifactType", "config", "layers", "blobs", "manifests", "subject", "annotations",
	"fsLayers", "history", "signatures", "digest", "size", "urls", "data", "platform", "os", "architecture", "variant",
	"os.version", "os.features", "features",
}

// checkDocument refuses JSON that two clients would read in two ways: a key that
// is there twice (Go takes the last, others the first), a key that differs from
// a known one in case only (Go's encoding/json takes it for the known one, others
// do not see it), invalid UTF-8 (replaced, or refused). Each would let a client
// run another image than the one that was scanned.
func checkDocument(raw []byte) error {
	if !utf8.Valid(raw) {
		return errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var open []*level
	for {
		token, err := dec.Token()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		var in *level
		if len(open) > 0 {
			in = open[len(open)-1]
		}
		switch delim, _ := token.(json.Delim); delim {
		case '}', ']':
			open = open[:len(open)-1]
			continue
		case '{', '[':
			if len(open) == maxDocumentDepth {
				return fmt.Errorf("nests deeper than %d", maxDocumentDepth)
			}
			next := in.enter(delim == '{')
			open = append(open, next)
			continue
		}
		if in != nil {
			if err := in.scalar(token); err != nil {
				return err
			}
		}
	}
}

// level is one object or array that is being read.
type level struct {
	object bool
	free   bool // its keys are the author's own
	value  bool // what comes next is the value of key
	key    string
	seen   map[string]bool
}

// enter begins an object or array that is a value in l; l is nil at the top.
func (l *level) enter(object bool) *level {
	next := &level{object: object}
	if object {
		next.seen = make(map[string]bool)
	}
	if l != nil {
		next.free = l.free || l.object && l.key == "annotations"
		l.value = false
	}
	return next
}

// scalar takes a key, or a value that is neither object nor array.
func (l *level) scalar(token json.Token) error {
	if !l.object || l.value {
		l.value = false
		return nil
	}
	key, ok := token.(string)
	if !ok {
		return errors.New("a key that is no string")
	}
	l.key, l.value = key, true
	if l.seen[key] {
		return fmt.Errorf("key %q is there twice", key)
	}
	l.seen[key] = true
	if l.free {
		return nil
	}
	for _, known := range manifestKeys {
		if key != known && strings.EqualFold(key, known) {
			return fmt.Errorf("key %q: clients disagree whether it is %q", key, known)
		}
	}
	return nil
}
