package storetest

import (
	"context"
	"iter"
	"slices"
	"strings"
	"sync"

	"pratique"
	"pratique/store"
)

// Documents are store.Documents in memory, for tests of what uses them.
type Documents struct {
	mu   sync.Mutex
	docs map[string][]byte
	// Fail, if not nil, is asked before each operation for its error.
	Fail func(operation, name string) error
}

var _ store.Documents = (*Documents)(nil)

func (d *Documents) begin(operation, name string) error {
	if d.Fail != nil {
		if err := d.Fail(operation, name); err != nil {
			return err
		}
	}
	d.mu.Lock()
	return nil
}

// Document implements store.Documents.
func (d *Documents) Document(_ context.Context, name string) ([]byte, error) {
	if err := d.begin("get", name); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	doc, ok := d.docs[name]
	if !ok {
		return nil, pratique.ErrNotFound
	}
	return slices.Clone(doc), nil
}

// PutDocument implements store.Documents.
func (d *Documents) PutDocument(_ context.Context, name string, doc []byte) error {
	if err := d.begin("put", name); err != nil {
		return err
	}
	defer d.mu.Unlock()
	if d.docs == nil {
		d.docs = make(map[string][]byte)
	}
	d.docs[name] = slices.Clone(doc)
	return nil
}

// DeleteDocument implements store.Documents.
func (d *Documents) DeleteDocument(_ context.Context, name string) error {
	if err := d.begin("delete", name); err != nil {
		return err
	}
	defer d.mu.Unlock()
	delete(d.docs, name)
	return nil
}

// DocumentNames implements store.Documents.
func (d *Documents) DocumentNames(_ context.Context, folder string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := d.begin("list", folder); err != nil {
			yield("", err)
			return
		}
		var names []string
		for name := range d.docs {
			if folder == "" || strings.HasPrefix(name, folder+"/") {
				names = append(names, name)
			}
		}
		d.mu.Unlock()
		for _, name := range names {
			if !yield(name, nil) {
				return
			}
		}
	}
}
