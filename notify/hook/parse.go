package hook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"pratique"
)

// message is an authentic call.
type message struct {
	receiver *Receiver
	header   http.Header
	body     []byte
}

// event is one thing that a payload tells.
type event struct {
	id      string // of the sender's; "": it has none
	ref     pratique.Ref
	deleted bool
	ignored bool  // it is no push, or of another registry
	err     error // it names no image that can be
}

// about is what the event is about, whatever the digest that a tag is said to name.
func (e event) about() string {
	ref := e.ref
	if ref.Tag != "" {
		ref.Digest = ""
	}
	return ref.String()
}

// parser reads a payload. Fields that are not known are left alone; an error says
// that it is no payload of this type at all.
type parser func(*message) ([]event, error)

func parserOf(t Type) (parser, error) {
	parsers := map[Type]parser{
		DockerHub: dockerHub, Harbor: harbor, GHCR: ghcr, Quay: quay, JFrog: jfrog,
		Distribution: distribution, GitLab: distribution, ACR: distribution,
		ECR: ecr, ArtifactRegistry: artifactRegistry, CloudEvents: cloudEvents,
	}
	if p, ok := parsers[t]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("type %q of payloads is not known", t)
}

// ignored is an event that is no push.
func ignored() []event { return []event{{ignored: true}} }

// push makes the event that a payload words as repository, tag and digest. A digest
// that is none is left out where there is a tag: which one the tag names is asked
// for anyway.
func (m *message) push(id, repo, tag, digest string, deleted bool) event {
	if m.receiver.Type == DockerHub && repo != "" && !strings.Contains(repo, "/") {
		repo = "library/" + repo // official images, as they are named on the wire
	}
	if strings.HasPrefix(tag, "sha256:") || strings.HasPrefix(tag, "sha256__") { // no tag, says Harbor; and JFrog
		if digest == "" {
			digest = "sha256:" + tag[len("sha256:"):]
			if strings.HasPrefix(tag, "sha256__") {
				digest = "sha256:" + tag[len("sha256__"):]
			}
		}
		tag = ""
	}
	e := event{id: id, deleted: deleted, ref: pratique.Ref{Registry: m.receiver.Upstream, Repo: repo, Tag: tag}}
	if d, err := pratique.ParseDigest(digest); err == nil {
		e.ref.Digest = d
	}
	switch {
	case !pratique.ValidRepo(repo):
		e.err = errors.New("no name of a repository")
	case tag != "" && !pratique.ValidTag(tag):
		e.err = errors.New("no tag")
	case tag == "" && e.ref.Digest == "":
		e.err = errors.New("neither tag nor digest")
	}
	return e
}

// ours reports whether host is the registry that this hook is for. It is asked where
// one sender speaks for several registries; nothing is dialled either way.
func (r *Receiver) ours(host string) bool {
	host = strings.ToLower(host)
	return host == r.Upstream || slices.Contains(r.Hosts, host)
}

// Limits of what is parsed.
const maxDepth = 32

// checkJSON reports why a body is not read: it is no JSON, nests too deep, or has a
// key twice, which two readers would understand in two ways.
func checkJSON(body []byte) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	type level struct {
		keys map[string]bool // nil: an array
		key  bool            // a key is next
	}
	var stack []level
	for values := 0; ; {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) && values == 1 && len(stack) == 0 {
			return nil
		}
		if err != nil {
			return errors.New("it is not well-formed")
		}
		if len(stack) == 0 {
			if values++; values > 1 {
				return errors.New("more follows its end")
			}
		}
		if d, ok := tok.(json.Delim); ok && (d == '}' || d == ']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if n := len(stack); n > 0 && stack[n-1].keys != nil {
			top := &stack[n-1]
			if top.key {
				k, _ := tok.(string)
				if top.keys[k] {
					return errors.New("it has a key twice")
				}
				top.keys[k], top.key = true, false
				continue
			}
			top.key = true // after this value
		}
		switch tok {
		case json.Delim('{'):
			stack = append(stack, level{keys: map[string]bool{}, key: true})
		case json.Delim('['):
			stack = append(stack, level{})
		}
		if len(stack) > maxDepth {
			return errors.New("it nests too deep")
		}
	}
}

// decode reads JSON into v. The text of an error does not repeat the payload.
func decode(body []byte, v any) error {
	err := json.Unmarshal(body, v)
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		value, _, _ := strings.Cut(kind.Value, " ") // without the number
		return fmt.Errorf("%.60s is of the kind %s", kind.Field, value)
	}
	if err != nil {
		return errors.New("not well-formed")
	}
	return nil
}
