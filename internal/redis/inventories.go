package redis

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

var _ store.Inventories = (*DB)(nil)

// inventoryFolder holds inventories: ANALYZER/DIGEST in store.Documents.
const inventoryFolder = "inventories"

// inventoryName is the document of an inventory. What a name may not have in it is @
// and two hexadecimal digits.
func inventoryName(d digest.Digest, analyzer string) string {
	return inventoryFolder + "/" + escaped(analyzer) + "/" + escaped(string(d))
}

// elementSize is how long an element of a name gets: file systems know no longer ones.
const elementSize = 200

func escaped(text string) string {
	var b strings.Builder
	n := 0
	for i := range len(text) {
		c := text[i]
		part := "@" + fmt.Sprintf("%02x", c)
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == ':' || c == '.' && n > 0 {
			part = string(rune(c))
		}
		if n += len(part); n > elementSize {
			b.WriteByte('/')
			n = len(part)
			if c == '.' {
				part = "@2e"
			}
		}
		b.WriteString(part)
	}
	if b.Len() == 0 {
		return "@" // an element is never empty
	}
	return b.String()
}

// inventoryOf undoes inventoryName.
func inventoryOf(name string) (d digest.Digest, analyzer string, err error) {
	name, ok := strings.CutPrefix(name, inventoryFolder+"/")
	i := strings.LastIndexByte(name, '/')
	if !ok || i < 0 {
		return "", "", fmt.Errorf("document %q is no inventory", name)
	}
	text, err1 := unescaped(name[i+1:])
	analyzer, err2 := unescaped(name[:i])
	return digest.Digest(text), analyzer, errors.Join(err1, err2)
}

func unescaped(text string) (string, error) {
	var b strings.Builder
	text = strings.ReplaceAll(text, "/", "")
	for i := 0; i < len(text); i++ {
		if text[i] != '@' || len(text) == 1 {
			b.WriteByte(text[i])
			continue
		}
		if i+3 > len(text) {
			return "", fmt.Errorf("name %q of a document is cut short", text)
		}
		c, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
		if err != nil {
			return "", err
		}
		b.WriteByte(byte(c))
		i += 2
	}
	if b.String() == "@" && text == "@" {
		return "", nil
	}
	return b.String(), nil
}

// Inventory implements store.Inventories.
func (db *DB) Inventory(ctx context.Context, d digest.Digest, analyzer string) (pratique.Inventory, error) {
	var inv pratique.Inventory
	doc, err := db.inventory(ctx, inventoryName(d, analyzer))
	if err == nil {
		err = db.Decode(doc, &inv)
	}
	if err != nil {
		return pratique.Inventory{}, annotate(err, "inventory of %s", d)
	}
	return inv, nil
}

func (db *DB) inventory(ctx context.Context, name string) ([]byte, error) {
	if doc := db.inventories.find(name); doc != nil {
		return doc, nil
	}
	doc, err := db.docs.Document(ctx, name)
	if err == nil {
		db.inventories.keep(name, doc)
	}
	return doc, err
}

// PutInventory implements store.Inventories. Two that write at once write the same:
// the same bytes and analyzers give the same inventory.
func (db *DB) PutInventory(ctx context.Context, d digest.Digest, analyzer string, inv pratique.Inventory) error {
	name := inventoryName(d, analyzer)
	_, err := db.inventory(ctx, name)
	if isMissing(err) {
		var doc []byte
		if doc, err = db.Encode(inv); err == nil {
			err = db.docs.PutDocument(ctx, name, doc)
		}
	}
	return annotate(err, "inventory of %s", d)
}

// inventoriesSize is how many bytes of inventories are kept in memory, as stored.
const inventoriesSize = 16 << 20

// documents are inventories that were read lately. They never change. The zero value
// is ready.
type documents struct {
	mu     sync.Mutex
	size   int
	recent list.List // of document, the one used last in front
	byName map[string]*list.Element
}

type document struct {
	name string
	doc  []byte
}

func (m *documents) find(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byName[name]
	if e == nil {
		return nil
	}
	m.recent.MoveToFront(e)
	return e.Value.(document).doc
}

func (m *documents) keep(name string, doc []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byName == nil {
		m.byName = make(map[string]*list.Element)
	}
	if m.byName[name] != nil || len(doc) > inventoriesSize/8 || len(doc) == 0 {
		return
	}
	m.byName[name] = m.recent.PushFront(document{name, doc})
	for m.size += len(doc); m.size > inventoriesSize; {
		old := m.recent.Remove(m.recent.Back()).(document)
		delete(m.byName, old.name)
		m.size -= len(old.doc)
	}
}
