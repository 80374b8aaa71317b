package packed

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
	docs, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var fs [3]pratique.Finding
	for i := range fs[:2] { // the third is empty
		fill(reflect.ValueOf(&fs[i]).Elem(), &n)
	}
	got, err := docs.UnpackFindings(docs.PackFindings(fs[:], 4096))
	if d := cmp.Diff(fs[:], got); err != nil || d != "" {
		t.Errorf("findings: %v (-want +got):\n%s", err, d)
	}
	r := Record{Component: "0123456789abcdef0123456789abcdef", Name: "name", Ecosystem: "debian"}
	fill(reflect.ValueOf(&r.History).Elem(), &n)
	r.Tracks = append(r.Tracks, store.Track{Vulnerability: pratique.Vulnerability{ID: "usual"}, Phases: []store.Phase{{At: r.First}}})
	doc, err := docs.PackRecord(&r, 4096)
	if err != nil {
		t.Fatal(err)
	}
	back, err := docs.UnpackRecord(doc)
	if d := cmp.Diff(r, *back); err != nil || d != "" {
		t.Errorf("record: %v (-want +got):\n%s", err, d)
	}
	for i := range doc { // damage is an error, never a shorter list
		if back, err := docs.UnpackRecord(doc[:i]); err == nil {
			t.Fatalf("cut at %d of %d: %+v", i, len(doc), back)
		}
	}
	var o pratique.Occurrence
	fill(reflect.ValueOf(&o).Elem(), &n)
	p := NewPacker()
	p.Occurrence(&o)
	u, err := docs.Unpack(p.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	back2 := u.Occurrence()
	back2.Component, back2.Layer = o.Component, o.Layer // the chunk's to say
	if d := cmp.Diff(o, back2); d != "" || u.Err() != nil {
		t.Errorf("occurrence: %v (-want +got):\n%s", u.Err(), d)
	}
}

// TestMemoryIsBounded: what is kept in memory stays within its limit, and nothing of
// what was dropped is left.
func TestMemoryIsBounded(t *testing.T) {
	j := NewMemory[int64, int64](200_000)
	part := func(id int64) *Part[int64] {
		r := &Record{Component: "c", Name: fmt.Sprint(id), History: store.FirstHistory([]pratique.Vulnerability{{ID: "CVE-1", Title: "t"}}, time.Unix(1, 0))}
		return &Part[int64]{Components: []int64{id, 1000}, held: []holding[int64]{{id, r}, {1000, r}}, size: 1000}
	}
	for id := range int64(500) {
		_, gen := j.Find(nil, nil)
		j.Keep(id+1, part(id), gen)
		if j.size > j.limit {
			t.Fatalf("%d bytes kept, at most %d", j.size, j.limit)
		}
	}
	if n := len(j.parts); n < 50 || n > 250 || len(j.records) != n+1 {
		t.Errorf("%d parts, %d records", n, len(j.records))
	}
	j.Forget(func(r int64) bool { return r == 499 })
	if j.parts[500] != nil || j.parts[499] == nil {
		t.Error("forgot something else")
	}
	_, gen := j.Find(nil, nil)
	j.Forget(func(r int64) bool { return r == 1000 })
	if len(j.parts) != 0 || len(j.records) != 0 || j.size != 0 {
		t.Errorf("%d parts, %d records, %d bytes of what was forgotten", len(j.parts), len(j.records), j.size)
	}
	j.Keep(1, part(1), gen)
	if len(j.parts) != 0 {
		t.Error("what was read before something changed is kept")
	}
}
