package policy

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"

	"pratique/internal/strictyaml"
)

// mistake is one in an expression, at a line and column of its source, from 1;
// line 0 is the whole.
type mistake struct {
	line, column int
	text         string
}

// maxMistakes bounds how many one expression reports.
const maxMistakes = 5

var (
	undeclared = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	undefined  = regexp.MustCompile(`^undefined field '([^']*)'`)
)

// inOtherWords are what CEL says so that only its authors understand it.
var inOtherWords = map[string]string{
	"invalid matches argument":            "want a regular expression (RE2)",
	"invalid timestamp argument":          `want a time such as timestamp("2026-01-31T00:00:00Z")`,
	"invalid duration argument":           `want a duration such as duration("720h"); there are no days`,
	"comprehension exceeds nesting limit": "at most 6 of exists, all, filter and map may stand on or in each other",
}

// explain words what CEL says of a source, and quotes what there is instead.
func (x *expression) explain(issues *cel.Issues, missed map[string]*shape) []mistake {
	var out []mistake
	for _, e := range issues.Errors() {
		text, _, _ := strings.Cut(e.Message, " expecting {")
		m := mistake{line: e.Location.Line(), column: e.Location.Column() + 1, text: oneLine(text)}
		if found := undeclared.FindStringSubmatch(e.Message); found != nil {
			m.text = x.noVariable(found[1])
		} else if found := undefined.FindStringSubmatch(e.Message); found != nil {
			m.text = noField(found[1], missed[found[1]])
		} else if strings.Contains(e.Message, "'(string, int)'") || strings.Contains(e.Message, "'(int, string)'") {
			m.text += "; a severity is compared as f.rank >= HIGH"
		} else if words, ok := inOtherWords[e.Message]; ok {
			m.text = words
		}
		if out = append(out, m); len(out) == maxMistakes {
			break
		}
	}
	return out
}

// names are those of the variables.
func (x *expression) names() []string {
	out := make([]string, len(x.schema.variables))
	for i, v := range x.schema.variables {
		out[i] = v.name
	}
	return out
}

// functions and macros that expressions are made of, for suggestions.
var functions = []string{"size", "matches", "startsWith", "endsWith", "contains", "exists", "exists_one", "all", "filter", "map", "has", "duration", "timestamp", "within"}

func (x *expression) noVariable(name string) string {
	if slices.Contains(functions, name) {
		return name + " is not written like that: it is findings.exists(f, f.kev), has(served.last), ref.tag.startsWith(\"v\")"
	}
	known := slices.Concat(x.names(), severityWords[1:], functions)
	return fmt.Sprintf("there is no %q", name) + instead(didYouMean(name, known...), "variables are", x.names())
}

func noField(name string, s *shape) string {
	if s == nil {
		return fmt.Sprintf("there is no field %q", name)
	}
	return fmt.Sprintf("%s has no field %q", s.name, name) + instead(didYouMean(name, s.names()...), "its fields are", s.names())
}

// instead is a suggestion and all that there is.
func instead(hint, what string, known []string) string {
	if hint == "" {
		return "; " + what + " " + strictyaml.List(known, "and")
	}
	return hint + " (" + what + " " + strictyaml.List(known, "and") + ")"
}

// inspect notes what a checked expression reads, and finds the mistakes that its
// types do not show: one that reads nothing, and words that a fact never has.
func (x *expression) inspect(tree *ast.AST) []mistake {
	var out []mistake
	reads := false
	fail := func(e ast.Expr, format string, args ...any) {
		at := tree.SourceInfo().GetStartLocation(e.ID())
		if len(out) < maxMistakes {
			out = append(out, mistake{at.Line(), at.Column() + 1, fmt.Sprintf(format, args...)})
		}
	}
	fieldOf := func(e ast.Expr) *field {
		if e.Kind() != ast.SelectKind {
			return nil
		}
		sel := e.AsSelect()
		if s := x.schema.shape(tree.GetType(sel.Operand().ID()).TypeName()); s != nil {
			return s.field(sel.FieldName())
		}
		return nil
	}
	ast.PreOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.IdentKind:
			if v := x.schema.variable(e.AsIdent()); v != nil {
				reads = true
				x.findings = x.findings || v.name == "findings"
				x.note(v)
			}
		case ast.SelectKind:
			if f := fieldOf(e); f != nil {
				x.note(f)
				x.kev = x.kev || f.name == "kev"
				x.epss = x.epss || f.name == "epss"
			}
		case ast.StructKind:
			fail(e, "facts are not made: %s{…}", e.AsStruct().TypeName())
		case ast.CallKind:
			call := e.AsCall()
			if args := call.Args(); len(args) == 2 {
				for i, arg := range args {
					f := fieldOf(arg)
					switch {
					case f == nil:
					case f.words != nil:
						neverEqual(call.FunctionName(), f, args[1-i], fail)
					case f.name == "by": // who is trusted, in a signature or provenance
						for _, name := range literals(args[1-i]) {
							x.identities = append(x.identities, string(name.AsLiteral().(types.String)))
						}
					}
				}
			}
		default:
		}
	}))
	if !reads {
		out = append(out, mistake{text: "it reads no fact, so it is always the same; variables are " + strictyaml.List(x.names(), "and")})
	}
	return out
}

// note remembers what an expression reads.
func (x *expression) note(f *field) {
	x.reads |= f.needs
	if f.changes != nil {
		x.clocks = append(x.clocks, f.changes)
	}
}

// neverEqual refuses to compare a field with a word that it never has.
func neverEqual(function string, f *field, other ast.Expr, fail func(ast.Expr, string, ...any)) {
	switch function {
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		if f.name == "severity" {
			fail(other, "severities as words have no order: write f.rank >= HIGH")
		}
		return
	case operators.Equals, operators.NotEquals, operators.In:
	default:
		return
	}
	for _, c := range literals(other) {
		if word := string(c.AsLiteral().(types.String)); !slices.Contains(f.words, word) {
			fail(c, "%s is never %q%s", f.name, word, instead(didYouMean(word, f.words...), "it is one of", f.words))
		}
	}
}

// literals are the strings that e is, or is a list of, as far as they are written
// there.
func literals(e ast.Expr) []ast.Expr {
	all := []ast.Expr{e}
	if e.Kind() == ast.ListKind {
		all = e.AsList().Elements()
	}
	return slices.DeleteFunc(slices.Clone(all), func(e ast.Expr) bool {
		if e.Kind() != ast.LiteralKind {
			return true
		}
		_, ok := e.AsLiteral().(types.String)
		return !ok
	})
}

// locate finds the place in a YAML file of a line and column within the scalar
// that begins at pos. Where a scalar is folded, the beginning is the answer.
func locate(file []byte, pos strictyaml.Pos, line, column int) strictyaml.Pos {
	lines := bytes.Split(file, []byte("\n"))
	if line < 1 || pos.Line < 1 || pos.Line > len(lines) || pos.Column < 1 {
		return pos
	}
	first := runesFrom(lines[pos.Line-1], pos.Column-1)
	if len(first) == 0 {
		return pos
	}
	switch first[0] {
	case '|':
		at := pos.Line + line
		for i := pos.Line; i < len(lines); i++ { // the indentation is that of the first line that has text
			text := bytes.TrimLeft(lines[i], " ")
			if len(text) > 0 && at <= len(lines) {
				return strictyaml.Pos{File: pos.File, Line: at, Column: len(lines[i]) - len(text) + column}
			}
		}
		return pos
	case '>':
		return pos
	case '\'', '"':
		return quoted(first, pos, line, column)
	}
	if line > 1 || column > len(first) {
		return pos
	}
	return strictyaml.Pos{File: pos.File, Line: pos.Line, Column: pos.Column + column - 1}
}

// quoted counts characters between quotes, of which an escape is one.
func quoted(text []rune, pos strictyaml.Pos, line, column int) strictyaml.Pos {
	quote, at := text[0], 1
	for n := 1; n < column && at < len(text); n++ {
		switch {
		case quote == '\'' && text[at] == '\'', quote == '"' && text[at] == '\\':
			at += 2
		default:
			at++
		}
	}
	if line > 1 || at >= len(text) {
		return pos
	}
	return strictyaml.Pos{File: pos.File, Line: pos.Line, Column: pos.Column + at}
}

func runesFrom(line []byte, n int) []rune {
	for range n {
		_, size := utf8.DecodeRune(line)
		if size == 0 {
			return nil
		}
		line = line[size:]
	}
	return []rune(string(line))
}
