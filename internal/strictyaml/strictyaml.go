// Package strictyaml reads YAML that people write by hand into Go structs and
// refuses whatever it does not understand: an unknown or repeated key, a value
// of another type, an empty value, an alias. Every refusal names file, line and
// column and, for a misspelt key, the one that was probably meant.
//
// It knows nothing of what it reads: the configuration and the policies are
// described by their own structs with `yaml:"name"` tags. It imports no other
// package of this module, so that both may use it.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// MaxSize bounds a document, in bytes.
const MaxSize = 4 << 20

// maxErrors bounds how many mistakes one reading reports.
const maxErrors = 20

// Pos is a place in a document.
type Pos struct {
	File   string
	Line   int
	Column int
}

// String is file:line:column, as editors and compilers write it; parts that are
// not known are left out.
func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Error is one mistake in a document.
type Error struct {
	Pos     Pos
	Path    string // of keys, "registry.listen"; may be empty
	Message string
}

func (e *Error) Error() string {
	s := e.Pos.String()
	if s != "" {
		s += ": "
	}
	if e.Path != "" {
		s += e.Path + ": "
	}
	return s + e.Message
}

// Positions tells where each key's value stands, by path ("registry.listen",
// "rules[2].name"). A key that the document does not hold is absent.
type Positions map[string]Pos

// Decode reads the one document in data into out, a pointer to a struct. What
// the document does not mention keeps its value; a map or list that it does
// mention is replaced whole. A field of type Pos is filled with the place of
// its struct. An empty document changes nothing. The error joins every mistake
// found, each an *Error, in order of appearance.
func Decode(file string, data []byte, out any) (Positions, error) {
	d := &decoder{file: file, positions: Positions{}}
	if len(data) > MaxSize {
		return nil, d.mistake(nil, "", "%d bytes, at most %d are read", len(data), MaxSize)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return d.positions, nil
	case err != nil:
		return nil, d.syntax(err)
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, d.mistake(&second, "", "a second document; one file holds one")
	case !errors.Is(err, io.EOF):
		return nil, d.syntax(err)
	}
	root := &doc
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		root = doc.Content[0]
	}
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" && root.Value == "" {
		return d.positions, nil // nothing but comments
	}
	d.value(root, reflect.ValueOf(out).Elem(), "")
	if len(d.errs) > 0 {
		return nil, errors.Join(d.errs...)
	}
	return d.positions, nil
}

type decoder struct {
	file      string
	positions Positions
	errs      []error
}

func (d *decoder) pos(n *yaml.Node) Pos {
	if n == nil {
		return Pos{File: d.file}
	}
	return Pos{File: d.file, Line: n.Line, Column: n.Column}
}

func (d *decoder) mistake(n *yaml.Node, path, format string, args ...any) error {
	return &Error{Pos: d.pos(n), Path: path, Message: fmt.Sprintf(format, args...)}
}

// fail notes a mistake and lets the reading go on, to find the others.
func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	switch {
	case len(d.errs) < maxErrors:
		d.errs = append(d.errs, d.mistake(n, path, format, args...))
	case len(d.errs) == maxErrors:
		d.errs = append(d.errs, &Error{Pos: Pos{File: d.file}, Message: "and more"})
	}
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func (d *decoder) syntax(err error) error {
	e := &Error{Pos: Pos{File: d.file}, Message: err.Error()}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		e.Pos.Line, _ = strconv.Atoi(m[1]) // no line stays 0, which is left out
		e.Message = "not YAML: " + m[2]
	}
	return e
}

// value reads n into v, reporting what does not fit.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if !d.plain(n, path) {
		return
	}
	d.positions[path] = d.pos(n)
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
		return
	}
	if isScalar(v) {
		if n.Kind != yaml.ScalarNode {
			d.fail(n, path, "want %s, not a %s", describe(v.Type()), kindName(n))
			return
		}
		if err := assignNode(v, n); err != nil {
			d.fail(n, path, "%s", err)
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.object(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.Map:
		d.table(n, v, path)
	case reflect.Interface:
		v.Set(reflect.ValueOf(d.any(n, path)))
	default:
		panic("strictyaml: unsupported type " + v.Type().String())
	}
}

// plain refuses what makes YAML surprising.
func (d *decoder) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		d.fail(n, path, "aliases are not supported; write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n, path, "tags such as %s are not supported", n.Tag)
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		d.fail(n, path, "no value; give it one or leave the key out")
	default:
		return true
	}
	return false
}

// pairs calls each for the keys of a mapping, reporting repeated ones.
func (d *decoder) pairs(n *yaml.Node, path, want string, each func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "want %s, not a %s", want, kindName(n))
		return
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			d.fail(key, path, "a key must be a word")
			continue
		}
		if line, ok := seen[key.Value]; ok {
			d.fail(key, path, "key %q is here twice; first in line %d", key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		each(key, n.Content[i+1])
	}
}

func (d *decoder) object(n *yaml.Node, v reflect.Value, path string) {
	fields := Fields(v.Type())
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	for i := range v.NumField() {
		if v.Field(i).Type() == reflect.TypeFor[Pos]() {
			v.Field(i).Set(reflect.ValueOf(d.pos(n)))
		}
	}
	want := "a mapping of " + List(names, "and")
	if len(names) == 0 {
		want = "{}, which has no keys"
	}
	d.pairs(n, path, want, func(key, value *yaml.Node) {
		i := slices.Index(names, key.Value)
		if i < 0 {
			d.fail(key, path, "unknown key %q%s", key.Value, Suggest(key.Value, names))
			return
		}
		d.value(value, v.Field(fields[i].Index), Join(path, key.Value))
	})
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "want a list, not a %s", kindName(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		d.value(c, out.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(out)
}

func (d *decoder) table(n *yaml.Node, v reflect.Value, path string) {
	out := reflect.MakeMap(v.Type())
	d.pairs(n, path, "a mapping", func(key, value *yaml.Node) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(value, item, Join(path, key.Value))
		out.SetMapIndex(reflect.ValueOf(key.Value).Convert(v.Type().Key()), item)
	})
	v.Set(out)
}

// any reads a value whose shape is not ours to know, such as the parameters of
// a storage driver. It returns an untyped empty string for what was refused.
func (d *decoder) any(n *yaml.Node, path string) any {
	if !d.plain(n, path) {
		return ""
	}
	switch n.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		d.pairs(n, path, "a mapping", func(key, value *yaml.Node) {
			out[key.Value] = d.any(value, Join(path, key.Value))
		})
		return out
	case yaml.SequenceNode:
		out := []any{}
		for i, c := range n.Content {
			out = append(out, d.any(c, fmt.Sprintf("%s[%d]", path, i)))
		}
		return out
	default:
		return anyScalar(n)
	}
}

func anyScalar(n *yaml.Node) any {
	switch n.ShortTag() {
	case "!!int", "!!bool", "!!float":
		var out any
		if err := n.Decode(&out); err == nil {
			return out
		}
	}
	return n.Value
}

// Field is one key that a struct accepts.
type Field struct {
	Name  string
	Index int
}

// Fields lists the keys of a struct type, in order.
func Fields(t reflect.Type) []Field {
	var out []Field
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" && name != "-" {
			out = append(out, Field{Name: name, Index: i})
		}
	}
	return out
}

// Join makes the path of a key below path.
func Join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func describe(t reflect.Type) string {
	switch {
	case isDuration(t):
		return "a duration such as 25s"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int, t.Kind() == reflect.Float64:
		return "a number"
	}
	return "a single value"
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "mapping"
	case yaml.SequenceNode:
		return "list"
	default:
		return "single value"
	}
}
