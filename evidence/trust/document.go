package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// object reads one level of a JSON object. Names count exactly as they are
// written, and one that comes twice is an error: which of both counts would be
// the reader's choice, and readers differ.
func object(raw []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errors.New("no JSON object"), err)
	}
	out := make(map[string]json.RawMessage)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("no JSON object: %w", err)
		}
		name, ok := t.(string)
		if !ok {
			return nil, errors.New("no JSON object")
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("the key %.40q comes twice", name)
		}
		if len(out) == maxKeys {
			return nil, fmt.Errorf("more than %d keys in one object", maxKeys)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("no JSON object: %w", err)
		}
		out[name] = v
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("no JSON object: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return out, nil
}

// within returns what stands under the names, one object inside the other; nil
// when one of them is not there, or is no object.
func within(raw []byte, names ...string) (json.RawMessage, error) {
	for _, name := range names {
		if raw = bytes.TrimLeft(raw, " \t\r\n"); len(raw) == 0 || raw[0] != '{' {
			return nil, nil
		}
		o, err := object(raw)
		if err != nil {
			return nil, err
		}
		raw = o[name]
	}
	return raw, nil
}

// text returns the string that stands under the names; "" when there is none.
func text(raw []byte, names ...string) (string, error) {
	v, err := within(raw, names...)
	if err != nil || len(v) == 0 || v[0] != '"' {
		return "", err
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return "", err
	}
	if len(s) > maxText {
		return "", fmt.Errorf("%s is longer than %d bytes", names[len(names)-1], maxText)
	}
	return s, nil
}

// list returns the elements of the array under the names, up to most; none when
// there is no array. More says that there are more.
func list(raw []byte, most int, names ...string) (out []json.RawMessage, more bool, err error) {
	v, err := within(raw, names...)
	if err != nil || len(v) == 0 || v[0] != '[' {
		return nil, false, err
	}
	dec := json.NewDecoder(bytes.NewReader(v))
	if _, err := dec.Token(); err != nil {
		return nil, false, fmt.Errorf("no JSON array: %w", err)
	}
	for dec.More() {
		if len(out) == most {
			return out, true, nil
		}
		var e json.RawMessage
		if err := dec.Decode(&e); err != nil {
			return nil, false, fmt.Errorf("no JSON array: %w", err)
		}
		out = append(out, e)
	}
	return out, false, nil
}

// Bounds of what is read: what is hostile is small in the registry and large here.
const (
	maxKeys = 4096 // of one object
	maxText = 4096 // bytes of a string that is taken over
)
