package policy

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	celref "github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// What one evaluation may cost. CEL's own tracking of costs is quadratic in the
// number of findings, so what makes an expression expensive is bounded instead: how
// often its exists, all, filter and map go round, altogether, and how long the
// strings and lists are that it makes. There is no clock in it: the answer would
// depend on the machine.
const (
	maxRounds        = 100_000 // some 100 ms; a look at each finding is one per finding
	maxRoundsFinding = 100     // of what is asked of a single finding, when they are listed
	maxString        = 64 << 10
	maxList          = 100_000
)

// Limits of an expression's source.
const (
	maxExpression = 8 << 10 // characters
	maxNodes      = 4096
	maxDepth      = 64
	maxRegex      = 1000
	maxNested     = 6 // exists, all, filter and map, on or in each other
)

// expressionDocument is an expression condition as written: CEL over the facts
// (see ExpressionSchema) that says true or false.
type expressionDocument string

func (d *expressionDocument) compile(c *compiler, at place) condition {
	x, mistakes := newExpression(string(*d))
	for _, m := range mistakes {
		c.fail(locate(c.source, at.pos, m.line, m.column), "expression: %s", m.text)
	}
	return x
}

// expression is met where its source is true. Whatever keeps it from saying true
// or false (a fact that is not known, a key that is not there, a division by zero,
// its cost) is unknown, which helps nobody.
type expression struct {
	source   string
	schema   *schema
	program  cel.Program
	about    []aboutFinding
	reads    Needs
	findings bool                            // it reads them
	clocks   []func(e *evaluation) time.Time // when what it reads changes by time alone
	kev      bool                            // it reads the list
	epss     bool                            // it reads scores
	// identities are the trusted ones whom it names.
	identities []string
}

// aboutFinding is a part of an expression that asks for one finding: the P of
// findings.exists(f, P) in a place where it makes the whole true.
type aboutFinding struct {
	name    string // f
	program cel.Program
}

func (x *expression) needs() Needs { return x.reads }

func (x *expression) readsFindings() bool { return x.findings }

func (x *expression) variables(e *evaluation) *variables {
	return &variables{schema: x.schema, root: object{e: e}}
}

func (x *expression) meets(e *evaluation) match {
	var m match
	for _, changes := range x.clocks {
		m.changes = earliest(m.changes, changes(e))
	}
	m.met, m.missing = ask(x.program, x.variables(e))
	if m.met != no && m.missing != tooCostly {
		x.collect(e, &m)
	}
	return m
}

// tooCostly is what is missing of an evaluation that was stopped.
const tooCostly = "what the expression says: it was stopped, being too costly"

// ask runs a program; without an answer, it says what is missing. A program looks
// whether its context has ended once, after its last permitted round: one that has
// ended already makes that a limit which is the same everywhere.
func ask(program cel.Program, vars *variables) (truth, string) {
	ended, end := context.WithCancel(context.Background())
	end()
	out, _, err := program.ContextEval(ended, vars)
	switch {
	case errors.Is(err, interpreter.InterruptError{}):
		return unknown, tooCostly
	case err != nil:
		return unknown, "what the expression says: " + oneLine(err.Error())
	case out == types.True:
		return yes, ""
	case out == types.False:
		return no, ""
	}
	u, ok := out.(*types.Unknown)
	if !ok {
		return unknown, "what the expression says"
	}
	var facts []string
	for _, id := range u.IDs() {
		trails, _ := u.GetAttributeTrails(id)
		for _, t := range trails {
			if !slices.Contains(facts, t.Variable()) {
				facts = append(facts, t.Variable())
			}
		}
	}
	slices.Sort(facts)
	return unknown, strings.Join(facts, ", and ")
}

// collect names the findings that the expression is about.
func (x *expression) collect(e *evaluation, m *match) {
	findings := e.counted()
	if len(x.about) == 0 || len(findings) == 0 {
		return
	}
	shape := x.schema.shape("Finding")
	var places []uint64
	for i := range findings {
		f := &findings[i]
		vars := x.variables(e)
		vars.value = &object{shape, e, f}
		for _, a := range x.about {
			vars.local = a.name
			if met, _ := ask(a.program, vars); met != no {
				places = append(places, placeOf(f, i))
				break
			}
		}
	}
	m.findings = worstFirst(findings, places)
	for i := range m.findings {
		f := &m.findings[i]
		m.mark += distinguish(f.ID, f.Package, f.Installed, f.Path)
	}
}

func (x *expression) text(_ *evaluation, m *match) string {
	if n := len(m.findings); n > 0 {
		return strconv.Itoa(n) + [2]string{" finding meets: ", " findings meet: "}[index(n != 1)] + oneLine(x.source)
	}
	if m.met == unknown {
		return "this may hold: " + oneLine(x.source)
	}
	return "this holds: " + oneLine(x.source)
}

func (x *expression) facts(e *evaluation) string {
	switch met, missing := ask(x.program, x.variables(e)); met {
	case yes:
		return "the expression is true"
	case no:
		return "the expression is false"
	default:
		return "not known: " + missing
	}
}

// newExpression compiles a source. With mistakes the expression is of no use.
func newExpression(source string) (*expression, []mistake) {
	x := &expression{source: strings.Join(strings.Fields(source), " "), schema: newSchema()}
	registry, err := types.NewRegistry()
	if err != nil {
		return x, []mistake{{text: err.Error()}}
	}
	known := &provider{Provider: registry, schema: x.schema, missed: make(map[string]*shape)}
	env, err := newEnv(x.schema, registry, known)
	if err != nil {
		return x, []mistake{{text: err.Error()}}
	}
	checked, issues := env.Compile(source)
	if issues.Err() != nil {
		return x, x.explain(issues, known.missed)
	}
	known.missed = nil
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) {
		return x, []mistake{{text: "want true or false, not a " + cel.FormatCELType(t)}}
	}
	tree := checked.NativeRep()
	if found := x.inspect(tree); len(found) > 0 {
		return x, found
	}
	if x.program, err = env.Program(checked, limits(maxRounds)...); err != nil {
		return x, []mistake{{text: oneLine(err.Error())}}
	}
	for _, part := range asksForFinding(tree.Expr(), nil) {
		about := aboutFinding{name: part.AsComprehension().IterVar()}
		sub := ast.NewCheckedAST(ast.NewAST(wanted(part), tree.SourceInfo()), tree.TypeMap(), tree.ReferenceMap())
		if about.program, err = env.PlanProgram(sub, limits(maxRoundsFinding)...); err != nil {
			return x, []mistake{{text: oneLine(err.Error())}}
		}
		x.about = append(x.about, about)
	}
	return x, nil
}

func newEnv(s *schema, registry *types.Registry, known *provider) (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.CustomTypeAdapter(registry), cel.CustomTypeProvider(known),
		cel.ParserExpressionSizeLimit(maxExpression), cel.ExpressionNodeLimit(maxNodes), cel.ParserRecursionLimit(maxDepth),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(),
			cel.ValidateRegexProgramSizeLimit(maxRegex), cel.ValidateComprehensionNestingLimit(maxNested)),
		cel.DefaultUTCTimeZone(true), cel.CrossTypeNumericComparisons(true),
		cel.Function("within", cel.MemberOverload("string_within_string", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(within))),
	}
	for _, v := range s.variables {
		options = append(options, cel.VariableWithDoc(v.name, v.typ, v.doc))
	}
	for i, word := range severityWords[1:] {
		options = append(options, cel.Constant(word, cel.IntType, types.Int(i+1)))
	}
	return cel.NewEnv(options...)
}

// limits are the options of a program that goes round at most so often.
func limits(rounds uint) []cel.ProgramOption {
	return []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize), cel.InterruptCheckFrequency(rounds), cel.CustomDecoratorV2(limitSums)}
}

// limitSums bounds what + makes: strings and lists that double in every round.
func limitSums(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	if call, ok := i.(interpreter.InterpretableCall); ok && call.Function() == operators.Add {
		return limitedSum{call}, nil
	}
	return i, nil
}

type limitedSum struct{ interpreter.InterpretableCall }

// Exec implements interpreter.InterpretableV2.
func (s limitedSum) Exec(frame *interpreter.ExecutionFrame) celref.Val {
	v := s.InterpretableCall.Exec(frame)
	switch v := v.(type) {
	case types.String:
		if len(v) > maxString {
			return types.NewErr("a string of more than %d bytes", maxString)
		}
	case types.Bytes:
		if len(v) > maxString {
			return types.NewErr("more than %d bytes", maxString)
		}
	case traits.Lister:
		if n, ok := v.Size().(types.Int); !ok || n > maxList {
			return types.NewErr("a list of more than %d", maxList)
		}
	}
	return v
}

// Eval implements interpreter.Interpretable.
func (s limitedSum) Eval(vars cel.Activation) celref.Val { return s.Exec(interpreter.AsFrame(vars)) }

// within tells whether an address is in a network.
func within(address, network celref.Val) celref.Val {
	a, okA := address.(types.String)
	n, okN := network.(types.String)
	if !okA || !okN {
		return types.MaybeNoSuchOverloadErr(address)
	}
	addr, err := netip.ParseAddr(string(a))
	if err != nil {
		return types.NewErr("no address: %.50q", string(a))
	}
	prefix, err := netip.ParsePrefix(string(n))
	if err != nil {
		return types.NewErr("no network: %.50q", string(n))
	}
	return types.Bool(prefix.Contains(addr.Unmap()))
}

// asksForFinding finds the findings.exists(…) that alone, or with others, make an
// expression true.
func asksForFinding(e ast.Expr, out []ast.Expr) []ast.Expr {
	switch e.Kind() {
	case ast.CallKind:
		if call := e.AsCall(); call.FunctionName() == operators.LogicalAnd || call.FunctionName() == operators.LogicalOr {
			for _, arg := range call.Args() {
				out = asksForFinding(arg, out)
			}
		}
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		if r := c.IterRange(); r.Kind() == ast.IdentKind && r.AsIdent() == "findings" && wanted(e) != nil {
			return append(out, e)
		}
	default:
	}
	return out
}

// wanted is the P of x.exists(f, P), nil of anything else. The macro makes of it:
// accu = false; for f in x { accu = accu || P }; accu.
func wanted(e ast.Expr) ast.Expr {
	c := e.AsComprehension()
	step := c.LoopStep()
	if c.HasIterVar2() || step.Kind() != ast.CallKind || c.Result().Kind() != ast.IdentKind || c.Result().AsIdent() != c.AccuVar() ||
		c.AccuInit().Kind() != ast.LiteralKind || c.AccuInit().AsLiteral() != types.False {
		return nil
	}
	call := step.AsCall()
	if args := call.Args(); call.FunctionName() == operators.LogicalOr && len(args) == 2 && args[0].Kind() == ast.IdentKind && args[0].AsIdent() == c.AccuVar() {
		return args[1]
	}
	return nil
}
