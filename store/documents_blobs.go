package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/klauspost/compress/zstd"

	"pratique"
)

var _ Documents = (*Blobs)(nil)

// documentsPath is the folder of all documents in the driver's name space.
const documentsPath = "/documents"

// documentEnd ends the last element of a document's path. No element that is
// escaped holds it, so a document and a folder of the same name are two things.
const documentEnd = "_z"

// Bounds of a document's name: file systems take 255 bytes in an element, object
// stores 1,024 in a key.
const (
	maxDocumentElement = 240
	maxDocumentPath    = 800
)

// maxDocument bounds a document when it is decompressed, against damaged storage.
const maxDocument = 1 << 30

// escape makes an element of the characters that all drivers take.
func escape(element string) string {
	return strings.NewReplacer("_", "__", ":", "_c", "@", "_a").Replace(element)
}

func unescape(path string) string {
	return strings.NewReplacer("__", "_", "_c", ":", "_a", "@").Replace(path)
}

// documentFolder is the path of a folder of documents; "" is the one of all.
func documentFolder(name string) (string, error) {
	if name == "" {
		return documentsPath, nil
	}
	var b strings.Builder
	b.WriteString(documentsPath)
	for element := range strings.SplitSeq(name, "/") {
		escaped := escape(element)
		if element == "" || element == "." || element == ".." || len(escaped) > maxDocumentElement ||
			strings.IndexFunc(element, notOfDocument) >= 0 {
			return "", fmt.Errorf("%w name of a document: %q", pratique.ErrInvalid, name)
		}
		b.WriteString("/" + escaped)
	}
	if b.Len() > maxDocumentPath {
		return "", fmt.Errorf("%w name of a document: %d bytes", pratique.ErrInvalid, len(name))
	}
	return b.String(), nil
}

// documentPath is the path of a document in the driver's name space.
func documentPath(name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("%w name of a document: it is empty", pratique.ErrInvalid)
	}
	p, err := documentFolder(name)
	return p + documentEnd, err
}

func notOfDocument(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	return !letter && (r < '0' || r > '9') && !strings.ContainsRune(".-_:@", r)
}

// documentName is the name of which p is the path; ok is false for what is no
// document.
func documentName(p string) (name string, ok bool) {
	p, inside := strings.CutPrefix(p, documentsPath+"/")
	p, whole := strings.CutSuffix(p, documentEnd)
	return unescape(p), inside && whole
}

// documentCodec compresses documents. Both halves are safe for concurrent use.
type documentCodec struct {
	once sync.Once
	enc  *zstd.Encoder
	dec  *zstd.Decoder
	err  error
}

func (c *documentCodec) ready() error {
	c.once.Do(func() {
		c.enc, c.err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if c.err == nil {
			c.dec, c.err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxDocument))
		}
	})
	return c.err
}

// wrapDocument names the document and turns the drivers' ways of saying "not there"
// into ErrNotFound.
func wrapDocument(name string, err error) error {
	var gone storagedriver.PathNotFoundError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &gone), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("document %s: %w", name, pratique.ErrNotFound)
	}
	return fmt.Errorf("document %s: %w", name, err)
}

// Document implements Documents. A frame carries a checksum: what the storage
// changed is an error.
func (b *Blobs) Document(ctx context.Context, name string) ([]byte, error) {
	p, err := documentPath(name)
	if err != nil {
		return nil, err
	}
	if err := b.codec.ready(); err != nil {
		return nil, wrapDocument(name, err)
	}
	var frame []byte
	if b.root != "" {
		frame, err = os.ReadFile(filepath.Join(b.root, p))
	} else {
		frame, err = b.driver.GetContent(ctx, p)
	}
	if err != nil {
		return nil, wrapDocument(name, err)
	}
	if len(frame) == 0 { // a frame of nothing has a header
		return nil, wrapDocument(name, ErrMismatch)
	}
	doc, err := b.codec.dec.DecodeAll(frame, nil)
	if err != nil {
		return nil, fmt.Errorf("document %s as read from storage: %w: %w", name, ErrMismatch, err)
	}
	return doc, nil
}

// PutDocument implements Documents. A reader, and whoever comes after a crash,
// finds the old document or the new one.
func (b *Blobs) PutDocument(ctx context.Context, name string, doc []byte) error {
	p, err := documentPath(name)
	if err != nil {
		return err
	}
	if err := b.codec.ready(); err != nil {
		return wrapDocument(name, err)
	}
	frame := b.codec.enc.EncodeAll(doc, nil)
	if b.root != "" {
		return wrapDocument(name, b.replaceFile(filepath.Join(b.root, p), frame))
	}
	return wrapDocument(name, b.driver.PutContent(ctx, p, frame))
}

// replaceFile makes final hold raw, durably. A crash before the rename leaves a
// spool file, which the next start removes; after it, the bytes were synced before
// they had the name.
func (b *Blobs) replaceFile(final string, raw []byte) error {
	f, err := b.spool.create("document")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // no longer there when all went well
	_, err = f.Write(raw)
	if err == nil {
		err = b.steps.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	dir := filepath.Dir(final)
	if err := b.steps.makeDir(dir); err != nil {
		return err
	}
	if err := b.steps.rename(f.Name(), final); err != nil {
		return err
	}
	return b.steps.syncDir(dir)
}

// DeleteDocument implements Documents.
func (b *Blobs) DeleteDocument(ctx context.Context, name string) error {
	p, err := documentPath(name)
	if err != nil {
		return err
	}
	if b.root != "" {
		err = os.Remove(filepath.Join(b.root, p))
	} else {
		err = b.driver.Delete(ctx, p)
	}
	if err = wrapDocument(name, err); errors.Is(err, pratique.ErrNotFound) {
		return nil
	} else if err != nil || b.root == "" {
		return err
	}
	return wrapDocument(name, b.steps.syncDir(filepath.Dir(filepath.Join(b.root, p))))
}

// errEnough ends a walk whose caller has what he wanted.
var errEnough = errors.New("enough")

// DocumentNames implements Documents. Documents that come or go meanwhile may be
// seen or not.
func (b *Blobs) DocumentNames(ctx context.Context, folder string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		from, err := documentFolder(folder)
		if err != nil {
			yield("", err)
			return
		}
		var failed error // the drivers wrap errors without a way back
		err = b.driver.Walk(ctx, from, func(info storagedriver.FileInfo) error {
			if failed = ctx.Err(); failed != nil || info.IsDir() {
				return failed
			}
			name, ok := documentName(path.Clean(info.Path()))
			if ok && !yield(name, nil) {
				failed = errEnough
			}
			return failed
		})
		if failed != nil {
			err = failed
		}
		var gone storagedriver.PathNotFoundError
		if err == nil || errors.Is(err, errEnough) || errors.As(err, &gone) && gone.Path == from {
			return
		}
		yield("", fmt.Errorf("documents: %w", err))
	}
}
