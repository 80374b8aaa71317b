package strictyaml

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type colour string

func (c *colour) UnmarshalText(b []byte) error {
	if s := string(b); s != "red" && s != "blue" {
		return fmt.Errorf("%q: want red or blue", s)
	}
	*c = colour(b)
	return nil
}

type inner struct {
	Pos    Pos
	Colour colour        `yaml:"colour"`
	Wait   time.Duration `yaml:"wait"`
}

type document struct {
	Text   string            `yaml:"text"`
	On     bool              `yaml:"on"`
	Switch *bool             `yaml:"switch"`
	Count  int               `yaml:"count"`
	Ratio  float64           `yaml:"ratio"`
	One    *inner            `yaml:"one"`
	Many   []inner           `yaml:"many"`
	Words  []string          `yaml:"words"`
	Table  map[string]inner  `yaml:"table"`
	Any    map[string]any    `yaml:"any"`
	Names  map[string]string `yaml:"names"`
	hidden string
}

func TestDecode(t *testing.T) {
	yes := true
	got := document{Text: "kept", Words: []string{"replaced"}, Table: map[string]inner{"gone": {}}, hidden: "kept"}
	positions, err := Decode("f.yaml", []byte(`
on: true
switch: True
count: -5
ratio: 0.5
one: {colour: red}
many:
  - colour: blue
    wait: 1h30m
  - {wait: 7d}
words: [1.10, yes, 2024-01-01, "null"]
table: {docker.io: {wait: 0s}}
any: {a: 1, b: [true, x], c: {d: 1.5, e: "2"}, f: 2024-01-01}
names: {x: y}
`), &got)
	if err != nil {
		t.Fatal(err)
	}
	want := document{
		Text: "kept", On: true, Switch: &yes, Count: -5, Ratio: 0.5, hidden: "kept",
		One: &inner{Pos: Pos{"f.yaml", 6, 6}, Colour: "red"},
		Many: []inner{
			{Pos: Pos{"f.yaml", 8, 5}, Colour: "blue", Wait: 90 * time.Minute},
			{Pos: Pos{"f.yaml", 10, 5}, Wait: 7 * 24 * time.Hour},
		},
		Words: []string{"1.10", "yes", "2024-01-01", "null"}, // as written
		Table: map[string]inner{"docker.io": {Pos: Pos{"f.yaml", 12, 20}}},
		Any:   map[string]any{"a": 1, "b": []any{true, "x"}, "c": map[string]any{"d": 1.5, "e": "2"}, "f": "2024-01-01"},
		Names: map[string]string{"x": "y"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(document{})); diff != "" {
		t.Error(diff)
	}
	for path, want := range map[string]Pos{"on": {"f.yaml", 2, 5}, "many[1].wait": {"f.yaml", 10, 12}, "table.docker.io.wait": {"f.yaml", 12, 27}} {
		if positions[path] != want {
			t.Errorf("%s is at %v, want %v", path, positions[path], want)
		}
	}
	if _, ok := positions["text"]; ok {
		t.Error("a key that is not there has a position")
	}
}

func TestDecodeNothing(t *testing.T) {
	for _, text := range []string{"", "\n", "# comment\n", "---\n", "--- # x\n"} {
		got := document{Text: "kept"}
		if _, err := Decode("f", []byte(text), &got); err != nil || got.Text != "kept" {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"unknown key", "txt: a", "f.yaml:1:1: unknown key \"txt\"; did you mean `text`?"},
		{"another case", "Text: a", "did you mean `text`?"},
		{"a word cut short", "coun: 1", "did you mean `count`?"},
		{"nothing like it", "zzzzzzzz: a", "known are text, on, switch"},
		{"the position field is no key", "one: {Pos: 1}", `unknown key "Pos"`},
		{"twice", "text: a\ntext: b", `f.yaml:2:1: key "text" is here twice; first in line 1`},
		{"twice in a table", "names: {a: b, 'a': c}", `key "a" is here twice`},
		{"twice in anything", "any: {a: {b: 1, b: 2}}", `key "b" is here twice`},
		{"no value", "text:", "f.yaml:1:6: text: no value; give it one or leave the key out"},
		{"null", "words: [a, ~]", "words[1]: no value"},
		{"null in anything", "any: {a: null}", "any.a: no value"},
		{"alias", "text: &x a\nnames: {y: *x}", "f.yaml:2:12: names.y: aliases are not supported"},
		{"alias in anything", "text: &x a\nany: {y: [*x]}", "any.y[0]: aliases are not supported"},
		{"an alias to itself", "any: &x {y: *x}", "aliases are not supported"},
		{"merge", "one: {<<: {colour: red}}", `unknown key "<<"`},
		{"merge in anything by alias", "one: &x {}\nany: {<<: *x}", "aliases are not supported"},
		{"tag", "text: !!str 1", "text: tags such as !!str are not supported"},
		{"own tag", "text: !include /etc/passwd", "text: tags such as !include are not supported"},
		{"list for a text", "text: [a]", "text: want a single value, not a list"},
		{"text for a mapping", "one: red", "one: want a mapping of colour and wait, not a single value"},
		{"text for a list", "words: a", "words: want a list, not a single value"},
		{"text for a table", "table: a", "table: want a mapping, not a single value"},
		{"a quoted switch", `on: "true"`, `on: want true or false, not "true"`},
		{"yes is not true", "on: yes", `on: want true or false, not "yes"`},
		{"fraction for a count", "count: 1.5", `count: want a whole number, not "1.5"`},
		{"too large a count", "count: 9223372036854775808", "count: want a whole number"},
		{"not a number", "ratio: .nan", `ratio: want a number, not ".nan"`},
		{"NaN", "ratio: nan", `ratio: want a number, not "nan"`},
		{"duration without unit", "one: {wait: 5}", `one.wait: want a duration such as 25s, 10m, 1h30m or 7d, not "5"`},
		{"days beyond reason", "one: {wait: 99999999d}", "one.wait: want a duration"},
		{"own type", "one: {colour: green}", `one.colour: "green": want red or blue`},
		{"a list at the top", "- a", "f.yaml:1:1: want a mapping of"},
		{"a key that is a list", "[a]: b", "a key must be a word"},
		{"two documents", "text: a\n---\ntext: b", "f.yaml:2:1: a second document"},
		{"an empty second document", "text: a\n---\n", "a second document"},
		{"not YAML", "text: [a", "f.yaml:1: not YAML: did not find expected"},
		{"a tab", "one:\n\tcolour: red", "f.yaml:2: not YAML: found character that cannot start any token"},
		{"not UTF-8", "text: \xff", "f.yaml: not YAML:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got document
			positions, err := Decode("f.yaml", []byte(test.text), &got)
			if err == nil || positions != nil {
				t.Fatalf("accepted: %+v", got)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
			var e *Error
			if !errors.As(err, &e) || e.Pos.File != "f.yaml" {
				t.Errorf("%#v has no position", err)
			}
		})
	}
}

func TestDecodeReportsManyMistakesButNotAll(t *testing.T) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "key%d: 1\n", i)
	}
	var got document
	_, err := Decode("f", []byte(text.String()), &got)
	if lines := strings.Split(err.Error(), "\n"); len(lines) != maxErrors+1 || lines[maxErrors] != "f: and more" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	if _, err := Decode("f", make([]byte, MaxSize+1), &got); err == nil {
		t.Error("a document without end is read")
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"registry", "storage", "state", "javaDatabase"}
	for word, want := range map[string]string{
		"registyr":     "; did you mean `registry`?",
		"REGISTRY":     "; did you mean `registry`?",
		"stat":         "; did you mean `state`?",
		"javadatabase": "; did you mean `javaDatabase`?",
		"x":            "; known are registry, storage, state and javaDatabase",
	} {
		if got := Suggest(word, known); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
	if got := Suggest("x", nil); got != "; no key is known here" {
		t.Error(got)
	}
	if got := Suggest(strings.Repeat("x", 1<<20), known); !strings.HasPrefix(got, "; known are") {
		t.Error(got)
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"same", "same", 0}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("%q to %q is %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("one: {colour: red, wait: 7d}\nany: {a: [1, {b: c}]}\nmany: [{}]"))
	f.Add([]byte("a: &a [*a]\n? [x]\n: y"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got document
		positions, err := Decode("f", data, &got)
		if (err == nil) != (positions != nil) {
			t.Fatalf("%v, %v", positions, err)
		}
	})
}
