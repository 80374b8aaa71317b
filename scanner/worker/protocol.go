// Package worker runs the analyzer in child processes that are made to die.
//
// Trivy's analyzers hold files in memory, unpack archives into each other,
// ignore deadlines and panic. So a layer meets only a process of its own, with
// limits on memory, time, temporary disk, file size and output, and without
// network, which the parent kills as a group. Pool is the parent and implements
// scanner.Analyzer; Serve is the child's side, linked into
// cmd/pratique-analyzer together with scanner/analyze. This package knows
// nothing of Trivy.
//
// The protocol: the child writes a Hello frame when it is ready. The parent
// writes one Request frame; for a layer the layer's bytes follow until the pipe
// is closed. The child answers with one Reply frame. A child for layers answers
// once; one for configs answers until its input is closed.
package worker

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"pratique"
)

// Kind is what a child answers for.
type Kind string

// Kinds of children.
const (
	KindLayer  Kind = "layer"
	KindConfig Kind = "config"
)

// Settings is what the parent tells a child in its environment. Sizes are in
// bytes; zero is no limit.
type Settings struct {
	Kind Kind `json:"kind"`
	// Memory is the soft limit of the Go heap; the hard one (RLIMIT_DATA) is
	// twice that, because Go maps its heap in large steps.
	Memory int64 `json:"memory"`
	// FileSize limits each file the child writes.
	FileSize int64 `json:"fileSize"`
	// OpenFiles limits file descriptors.
	OpenFiles int64 `json:"openFiles"`
	// Uncompressed limits a layer's uncompressed bytes.
	Uncompressed int64 `json:"uncompressed"`
	// Options of the analyzer.
	Options Options `json:"options"`
}

// Options choose what is analysed beyond packages, secrets and the checks of
// the image config. They are part of the analyzer's key.
type Options struct {
	// JavaDB is a directory with Trivy's Java index (trivy-java.db and
	// metadata.json). If empty, jars are identified by their own metadata alone.
	JavaDB string `json:"javaDB,omitempty"`
	// Misconfigurations also checks configuration files inside layers.
	Misconfigurations bool `json:"misconfigurations,omitempty"`
	// Licenses also looks for licences in files inside layers.
	Licenses bool `json:"licenses,omitempty"`
}

// Hello is the child's first frame.
type Hello struct {
	// Key names analyzer versions and options.
	Key string `json:"key,omitempty"`
	// Error says why the child cannot work.
	Error string `json:"error,omitempty"`
}

// Request asks for one analysis.
type Request struct {
	// Descriptor of the layer whose bytes follow.
	Descriptor pratique.Descriptor `json:"descriptor,omitzero"`
	// Config is an image config's raw JSON.
	Config []byte      `json:"config,omitempty"`
	OS     pratique.OS `json:"os,omitzero"`
}

// Reply answers a Request.
type Reply struct {
	Inventory pratique.Inventory `json:"inventory"`
	// Error: the child could not do its work, through no fault of the content.
	Error string `json:"error,omitempty"`
}

// maxRequest bounds a request frame; a config is at most
// pratique.MaxConfigSize, which base64 makes a third larger.
const maxRequest = 2 * pratique.MaxConfigSize

// errFrameSize: the other side announced more than this side reads.
type errFrameSize struct{ size, limit int64 }

func (e errFrameSize) Error() string {
	return fmt.Sprintf("message of %d bytes, at most %d are read", e.size, e.limit)
}

func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a message: %w", err)
	}
	// One write, so that a small frame is never seen in part.
	if _, err = w.Write(append(binary.BigEndian.AppendUint64(nil, uint64(len(b))), b...)); err != nil {
		return fmt.Errorf("writing a message: %w", err)
	}
	return nil
}

func readFrame(r io.Reader, limit int64, v any) error {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("reading a message: %w", err)
	}
	size := binary.BigEndian.Uint64(head[:])
	if size > uint64(limit) {
		return errFrameSize{int64(min(size, 1<<62)), limit}
	}
	// Grow with what arrives: the announced size is not to be believed.
	b, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err != nil {
		return fmt.Errorf("reading a message: %w", err)
	}
	if int64(len(b)) != int64(size) {
		return fmt.Errorf("reading a message: %w", io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decoding a message: %w", err)
	}
	return nil
}
