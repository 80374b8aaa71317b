package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"pratique"
)

// What a parent puts into a child's environment: Settings, and its process id.
const (
	settingsVariable = "PRATIQUE_WORKER"
	parentVariable   = "PRATIQUE_WORKER_PARENT"
)

// Handlers is what a child does. Key, Layer and Config are those of
// scanner.Analyzer.
type Handlers interface {
	Key() string
	Layer(ctx context.Context, d pratique.Descriptor, r io.Reader) (pratique.Inventory, error)
	Config(ctx context.Context, raw []byte, os pratique.OS) (pratique.Inventory, error)
}

// ReadSettings returns what the parent asks of this process; false when no
// parent started it.
func ReadSettings() (Settings, bool, error) {
	v, ok := os.LookupEnv(settingsVariable)
	if !ok {
		return Settings{}, false, nil
	}
	var s Settings
	if err := json.Unmarshal([]byte(v), &s); err != nil {
		return Settings{}, true, fmt.Errorf("reading %s: %w", settingsVariable, err)
	}
	return s, true, nil
}

// Serve is the life of a child: it limits and confines itself, makes the
// handlers, greets the parent and answers. Everything before the greeting
// happens while the child is a spare. An error has been told to the parent
// when it could be.
func Serve(ctx context.Context, s Settings, in io.Reader, out io.Writer, handlers func(Settings) (Handlers, error)) error {
	h, err := prepare(s, handlers)
	if err != nil {
		return errors.Join(err, writeFrame(out, Hello{Error: err.Error()}))
	}
	if err := writeFrame(out, Hello{Key: h.Key()}); err != nil {
		return err
	}
	for {
		err := answer(ctx, s.Kind, h, in, out)
		switch {
		case errors.Is(err, io.EOF):
			return nil // the parent is done with this child
		case err != nil:
			return err
		case s.Kind == KindLayer:
			return nil
		}
	}
}

func prepare(s Settings, handlers func(Settings) (Handlers, error)) (Handlers, error) {
	if err := limit(s); err != nil {
		return nil, err
	}
	if s.Memory > 0 {
		debug.SetMemoryLimit(s.Memory * 3 / 4)
	}
	if err := confine(); err != nil {
		return nil, err
	}
	return handlers(s)
}

func answer(ctx context.Context, kind Kind, h Handlers, in io.Reader, out io.Writer) error {
	var q Request
	if err := readFrame(in, maxRequest, &q); err != nil {
		return err
	}
	var (
		reply Reply
		err   error
	)
	if kind == KindConfig {
		reply.Inventory, err = h.Config(ctx, q.Config, q.OS)
	} else {
		reply.Inventory, err = h.Layer(ctx, q.Descriptor, in)
	}
	if err != nil {
		reply = Reply{Error: err.Error()}
	}
	return writeFrame(out, reply)
}
