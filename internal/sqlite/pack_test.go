package sqlite

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/store"
)

// fill sets every field of v, however deep, to something that is its own.
func fill(v reflect.Value, n *int) {
	*n++
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(int64(*n), 7).UTC()))
	case v.Kind() == reflect.String:
		v.SetString(fmt.Sprint("text", *n))
	case v.Kind() == reflect.Float64:
		v.SetFloat(float64(*n) / 3)
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic("a field of a kind that is not packed: " + v.Type().String())
	}
}

// TestPackedWhole: no field is forgotten by the documents that are no JSON; a new
// one has to be packed, under another packVersion.
func TestPackedWhole(t *testing.T) {
	docs, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var fs [3]pratique.Finding
	for i := range fs[:2] { // the third is empty
		fill(reflect.ValueOf(&fs[i]).Elem(), &n)
	}
	got, err := docs.unpackFindings(docs.packFindings(fs[:]))
	if d := cmp.Diff(fs[:], got); err != nil || d != "" {
		t.Errorf("findings: %v (-want +got):\n%s", err, d)
	}
	r := record{component: "0123456789abcdef0123456789abcdef", name: "name", ecosystem: "debian"}
	fill(reflect.ValueOf(&r.History).Elem(), &n)
	r.Tracks = append(r.Tracks, store.Track{Vulnerability: pratique.Vulnerability{ID: "usual"}, Phases: []store.Phase{{At: r.First}}})
	doc, err := docs.packRecord(&r)
	if err != nil {
		t.Fatal(err)
	}
	back, err := docs.unpackRecord(doc)
	if d := cmp.Diff(r, *back, cmp.AllowUnexported(record{})); err != nil || d != "" {
		t.Errorf("record: %v (-want +got):\n%s", err, d)
	}
	for i := range doc { // damage is an error, never a shorter list
		if back, err := docs.unpackRecord(doc[:i]); err == nil {
			t.Fatalf("cut at %d of %d: %+v", i, len(doc), back)
		}
	}
	var o pratique.Occurrence
	fill(reflect.ValueOf(&o).Elem(), &n)
	p := newPacker()
	p.occurrence(&o)
	u, err := docs.open(p.b)
	if err != nil {
		t.Fatal(err)
	}
	back2 := u.occurrence()
	back2.Component, back2.Layer = o.Component, o.Layer // the chunk's to say
	if d := cmp.Diff(o, back2); d != "" || u.err() != nil {
		t.Errorf("occurrence: %v (-want +got):\n%s", u.err(), d)
	}
}

// TestJoinsAreBounded: what is kept in memory stays within its limit, and nothing of
// what was dropped is left.
func TestJoinsAreBounded(t *testing.T) {
	j := newJoins(200_000)
	part := func(id int64) *part {
		r := &record{component: "c", name: fmt.Sprint(id), History: store.FirstHistory([]pratique.Vulnerability{{ID: "CVE-1", Title: "t"}}, time.Unix(1, 0))}
		return &part{components: []int64{id, 1000}, held: []holding{{id, r}, {1000, r}}, size: 1000}
	}
	for id := range int64(500) {
		_, gen := j.find(nil, nil)
		j.keep(id+1, part(id), gen)
		if j.size > j.limit {
			t.Fatalf("%d bytes kept, at most %d", j.size, j.limit)
		}
	}
	if n := len(j.parts); n < 50 || n > 250 || len(j.records) != n+1 {
		t.Errorf("%d parts, %d records", n, len(j.records))
	}
	j.forget([]int64{499})
	if j.parts[500] != nil || j.parts[499] == nil {
		t.Error("forgot something else")
	}
	_, gen := j.find(nil, nil)
	j.forget([]int64{1000})
	if len(j.parts) != 0 || len(j.records) != 0 || j.size != 0 {
		t.Errorf("%d parts, %d records, %d bytes of what was forgotten", len(j.parts), len(j.records), j.size)
	}
	j.keep(1, part(1), gen)
	if len(j.parts) != 0 {
		t.Error("what was read before something changed is kept")
	}
}
