package policy

import (
	"fmt"
	"hash/fnv"
	"reflect"
	"slices"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	celref "github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// field is one thing that an expression may read.
type field struct {
	name, doc string
	typ       *cel.Type
	words     []string // the only values that it can have; nil = any
	needs     Needs
	// changes is the next moment at which time alone changes it; nil = never.
	changes func(e *evaluation) time.Time
	// get reads it. A fact that is not known is what notKnown returns, never a zero
	// value, so that CEL's own logic carries it: what does not depend on it is
	// decided all the same.
	get func(o *object) any
}

// shape is a type of object.
type shape struct {
	name, doc string
	fields    []*field
	typ       *cel.Type
	known     map[string]*types.FieldType
}

func newShape(name, doc string, fields ...*field) *shape {
	s := &shape{name: name, doc: doc, fields: fields, typ: cel.ObjectType(name, traits.FieldTesterType, traits.IndexerType)}
	s.known = make(map[string]*types.FieldType, len(fields))
	for _, f := range fields {
		s.known[f.name] = &types.FieldType{Type: f.typ, GetFrom: f.getFrom, IsSet: f.isSet}
	}
	return s
}

// getFrom implements ref.FieldGetter.
func (f *field) getFrom(target any) (any, error) {
	switch v := target.(type) {
	case *object:
		return f.get(v), nil
	case *types.Unknown: // a field of what is not known
		return v, nil
	}
	return nil, fmt.Errorf("no such field: %s", f.name)
}

// isSet implements ref.FieldTester: has(x.y) asks whether y is known and not
// empty.
func (f *field) isSet(target any) bool {
	v, err := f.getFrom(target)
	if err != nil {
		return false
	}
	switch v := v.(type) {
	case *types.Unknown:
		return false
	case traits.Sizer:
		return v.Size() != types.IntZero
	}
	return !reflect.ValueOf(v).IsZero()
}

// names of the fields, in order.
func (s *shape) names() []string {
	out := make([]string, len(s.fields))
	for i, f := range s.fields {
		out[i] = f.name
	}
	return out
}

func (s *shape) field(name string) *field {
	for _, f := range s.fields {
		if f.name == name {
			return f
		}
	}
	return nil
}

// object is a value of a shape: what an expression sees of a fact.
type object struct {
	shape *shape
	e     *evaluation
	of    any
}

// notKnown is the value of a fact that is not known; fact says which.
func notKnown(fact string) any {
	h := fnv.New32a()
	_, _ = h.Write([]byte(fact)) // a hash does not fail
	return types.NewUnknown(int64(h.Sum32()), types.NewAttributeTrail(fact))
}

// moment is a time; of the zero time it is not known.
func (o *object) moment(t time.Time, fact string) any {
	if t.IsZero() {
		return notKnown(fact)
	}
	return t
}

// ConvertToNative implements celref.Val.
func (o *object) ConvertToNative(typeDesc reflect.Type) (any, error) {
	return nil, fmt.Errorf("%s does not convert to %v", o.shape.name, typeDesc)
}

// ConvertToType implements celref.Val.
func (o *object) ConvertToType(t celref.Type) celref.Val {
	if t == types.TypeType {
		return o.shape.typ
	}
	return types.NewErr("%s does not convert to %s", o.shape.name, t.TypeName())
}

// Equal implements celref.Val: objects are the facts themselves.
func (o *object) Equal(other celref.Val) celref.Val {
	p, ok := other.(*object)
	return types.Bool(ok && p.shape == o.shape && p.of == o.of)
}

// Type implements celref.Val.
func (o *object) Type() celref.Type { return o.shape.typ }

// Value implements celref.Val.
func (o *object) Value() any { return o }

// Get implements traits.Indexer, for values whose type is found out late.
func (o *object) Get(index celref.Val) celref.Val {
	if name, ok := index.(types.String); ok {
		if f := o.shape.field(string(name)); f != nil {
			return types.DefaultTypeAdapter.NativeToValue(f.get(o))
		}
	}
	return types.NewErr("no such field: %v", index.Value())
}

// IsSet implements traits.FieldTester.
func (o *object) IsSet(index celref.Val) celref.Val {
	if name, ok := index.(types.String); ok {
		if f := o.shape.field(string(name)); f != nil {
			return types.Bool(f.isSet(o))
		}
	}
	return types.NewErr("no such field: %v", index.Value())
}

// objects is a list of n values of a shape.
func objects(e *evaluation, s *shape, n int, of func(i int) any) any {
	all, vals := make([]object, n), make([]celref.Val, n)
	for i := range all {
		all[i] = object{s, e, of(i)}
		vals[i] = &all[i]
	}
	return types.NewRefValList(types.DefaultTypeAdapter, vals)
}

// stringList is a list of strings.
func stringList(in []string) any { return types.NewStringList(types.DefaultTypeAdapter, in) }

func stringMap(in map[string]string) any {
	return types.NewStringStringMap(types.DefaultTypeAdapter, in)
}

// provider tells CEL the shapes, beside its own types.
type provider struct {
	types.Provider
	schema *schema
	// missed notes fields that were asked for and are none, with their shapes; nil
	// once the expression is compiled.
	missed map[string]*shape
}

// FindStructType implements types.Provider.
func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if s := p.schema.shape(name); s != nil {
		return types.NewTypeTypeWithParam(s.typ), true
	}
	return p.Provider.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	if s := p.schema.shape(name); s != nil {
		return s.names(), true
	}
	return p.Provider.FindStructFieldNames(name)
}

// FindStructFieldType implements types.Provider.
func (p *provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	s := p.schema.shape(name)
	if s == nil {
		return p.Provider.FindStructFieldType(name, field)
	}
	t, ok := s.known[field]
	if !ok && p.missed != nil {
		p.missed[field] = s
	}
	return t, ok
}

// NewValue implements types.Provider.
func (p *provider) NewValue(name string, fields map[string]celref.Val) celref.Val {
	if p.schema.shape(name) != nil {
		return types.NewErr("facts are not made: %s", name)
	}
	return p.Provider.NewValue(name, fields)
}

// variables are what the names of an expression stand for, in one evaluation.
type variables struct {
	schema *schema
	root   object
	// local is a name that hides the others, for the part of an expression that is
	// about one finding.
	local string
	value celref.Val
}

// ResolveName implements cel.Activation.
func (v *variables) ResolveName(name string) (any, bool) {
	if v.local != "" && name == v.local {
		return v.value, true
	}
	i := slices.IndexFunc(v.schema.variables, func(f *field) bool { return f.name == name })
	if i < 0 {
		return nil, false
	}
	return v.schema.variables[i].get(&v.root), true
}

// Parent implements cel.Activation.
func (*variables) Parent() cel.Activation { return nil }
