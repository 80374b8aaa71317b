package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"reflect"
	"slices"
	"time"

	"pratique"
)

// Canonical is the record's document such that equal facts are equal bytes,
// whichever backend they were dumped from: times in UTC, nothing where there is an
// empty list, lists without an order sorted, and without what a backend numbers as
// it likes (DumpedJob.Turn and Seq, DumpedQueue.Turns).
func (r Record) Canonical() ([]byte, error) {
	switch r.Kind {
	case KindImages:
		return canonical(r, func(d *DumpedImage) {
			slices.SortFunc(d.In, func(a, b DumpedIn) int {
				return cmp.Or(cmp.Compare(a.Registry, b.Registry), cmp.Compare(a.Repo, b.Repo))
			})
		})
	case KindTags:
		return canonical(r, func(d *DumpedTag) {
			slices.SortFunc(d.Spans, func(a, b DumpedSpan) int {
				return cmp.Or(a.FirstAt.Compare(b.FirstAt), cmp.Compare(a.Digest, b.Digest))
			})
		})
	case KindRepositories:
		return canonical[DumpedRepository](r, nil)
	case KindInventories:
		return canonical[DumpedInventory](r, nil)
	case KindComponents:
		return canonical[pratique.Component](r, nil)
	case KindChunks:
		return canonical[DumpedChunk](r, nil)
	case KindFleet:
		return canonical[DumpedFleet](r, nil)
	case KindMatches:
		return canonical[DumpedMatch](r, nil)
	case KindScanned:
		return canonical[DumpedScanned](r, nil)
	case KindReports:
		return canonical[DumpedReport](r, nil)
	default:
		return r.canonicalHistory()
	}
}

func (r Record) canonicalHistory() ([]byte, error) {
	switch r.Kind {
	case KindServed:
		return canonical[DumpedServed](r, nil)
	case KindPulls:
		return canonical(r, func(d *DumpedPulls) { slices.SortStableFunc(d.Pulls, comparePulls) })
	case KindVerdicts:
		return canonical[Judged](r, nil)
	case KindExceptions:
		return canonical[pratique.Exception](r, nil)
	case KindAttestations:
		return canonical[pratique.Attestations](r, nil)
	case KindPushes:
		return canonical[Push](r, nil)
	case KindEvents:
		return canonical(r, func(d *DumpedEvent) {
			slices.SortFunc(d.Deliveries, func(a, b DumpedDelivery) int { return cmp.Compare(a.Sink, b.Sink) })
		})
	case KindMarks:
		return canonical[Mark](r, nil)
	case KindJobs:
		return canonical(r, func(d *DumpedJob) { d.Turn, d.Seq = 0, 0 })
	case KindQueue:
		return canonical(r, func(d *DumpedQueue) { d.Turns = nil })
	case KindRuns:
		return canonical[DumpedRun](r, nil)
	case KindDatabases:
		return canonical[WantedDatabase](r, nil)
	default:
		return nil, fmt.Errorf("%w kind of records %q", pratique.ErrInvalid, string(r.Kind))
	}
}

func comparePulls(a, b Pull) int {
	if c := a.At.Compare(b.At); c != 0 {
		return c
	}
	head := 0
	if a.Head != b.Head {
		head = 1
		if b.Head {
			head = -1
		}
	}
	return cmp.Or(cmp.Compare(a.Ref.String(), b.Ref.String()), cmp.Compare(a.Client, b.Client), cmp.Compare(a.Outcome, b.Outcome), cmp.Compare(a.Verdict, b.Verdict), head)
}

func canonical[T any](r Record, order func(*T)) ([]byte, error) {
	docs, err := Dumped[T]([]Record{r})
	if err != nil {
		return nil, err
	}
	if order != nil {
		order(&docs[0])
	}
	return Normal(docs[0])
}

// Normal is a value as JSON such that equal facts are equal bytes: times in UTC,
// nothing where there is an empty list.
func Normal(v any) ([]byte, error) {
	p := reflect.New(reflect.TypeOf(v))
	p.Elem().Set(reflect.ValueOf(v))
	normalize(p.Elem())
	return json.Marshal(p.Interface())
}

// normalize changes a value in place; maps are made anew.
func normalize(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if t, ok := v.Interface().(time.Time); ok {
			v.Set(reflect.ValueOf(t.UTC().Round(0)))
			return
		}
		for i := range v.NumField() {
			normalize(v.Field(i))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			own := reflect.New(v.Type().Elem())
			own.Elem().Set(v.Elem())
			normalize(own.Elem())
			v.Set(own)
		}
	case reflect.Slice:
		normalizeSlice(v)
	case reflect.Map:
		if v.Len() == 0 {
			v.SetZero()
			return
		}
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		for it := v.MapRange(); it.Next(); {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(it.Value())
			normalize(e)
			out.SetMapIndex(it.Key(), e)
		}
		v.Set(out)
	default:
	}
}

func normalizeSlice(v reflect.Value) {
	if v.Len() == 0 {
		v.SetZero()
		return
	}
	if raw, ok := v.Interface().(json.RawMessage); ok {
		var b bytes.Buffer
		if json.Compact(&b, raw) == nil {
			v.Set(reflect.ValueOf(json.RawMessage(b.Bytes())))
		}
		return
	}
	if k := v.Type().Elem().Kind(); k < reflect.Array || k == reflect.String {
		return
	}
	own := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
	reflect.Copy(own, v)
	for i := range own.Len() {
		normalize(own.Index(i))
	}
	v.Set(own)
}

// Sum is a digest of records that says nothing of their order. The zero Sum is that
// of none.
type Sum struct {
	Records int64
	words   [4]uint64
}

// Add adds a record.
func (s *Sum) Add(r Record) error {
	h, err := r.hash()
	if err != nil {
		return err
	}
	s.Records++
	var carry uint64
	for i := range s.words {
		s.words[i], carry = bits.Add64(s.words[i], binary.LittleEndian.Uint64(h[8*i:]), carry)
	}
	return nil
}

// String is the digest alone.
func (s Sum) String() string {
	var b [32]byte
	for i, w := range s.words {
		binary.LittleEndian.PutUint64(b[8*i:], w)
	}
	return hex.EncodeToString(b[:])
}

func (r Record) hash() ([sha256.Size]byte, error) {
	doc, err := r.Canonical()
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\x00%s\x00", r.Kind, r.Key)
	_, _ = h.Write(doc)
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// SumOf is the sum of what a backend has of a kind; each, if not nil, sees the
// records.
func SumOf(ctx context.Context, d Dumper, kind Kind, each func(Record)) (s Sum, err error) {
	for r, err := range d.Dump(ctx, kind, "") {
		if err == nil {
			err = s.Add(r)
		}
		if err != nil {
			return Sum{}, err
		}
		if each != nil {
			each(r)
		}
	}
	return s, nil
}
