package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/internal/config"
	"pratique/scanner/database"
	"pratique/scanner/worker"
)

// analyzers is the worker pool in use. A pool is made for one Java database; when
// another one is adopted, a pool that knows it takes over and the former ends
// after the layers that it is reading. It implements scanner.Analyzer: a scan
// that meets both pools fails on the differing keys and is tried again.
type analyzers struct {
	cfg config.Config
	log *slog.Logger
	reg prometheus.Registerer

	java    *database.Database // set by start
	ending  sync.WaitGroup     // former pools
	current struct {
		sync.RWMutex
		*pool
	}
}

// pool is one generation.
type pool struct {
	*worker.Pool
	calls   sync.WaitGroup // entered under analyzers.current's lock
	metrics *withdrawable
}

func newAnalyzers(cfg config.Config, log *slog.Logger, reg prometheus.Registerer) *analyzers {
	return &analyzers{cfg: cfg, log: log, reg: reg}
}

// start makes the first pool, with the Java database that an earlier run kept.
// That there is none, or that it is damaged, is no reason not to start: jars are
// identified by their own metadata then, until one is fetched.
func (a *analyzers) start(ctx context.Context, java *database.Database) error {
	if err := prepareTemp(a.cfg.TempDir()); err != nil {
		return fmt.Errorf("dataDir: %w", err)
	}
	a.java = java
	_ = java.Open(ctx) // says why in the log
	dir, kept := java.Dir()
	p, err := a.make(ctx, dir)
	if err != nil && kept {
		a.log.ErrorContext(ctx, "workers do not start with the Java database, starting without", "error", err)
		p, err = a.make(ctx, "")
	}
	if err != nil {
		return fmt.Errorf("the analyzer does not start: %w; put pratique-analyzer beside pratique, or name it with scanner.analyzer or %s", err, config.EnvAnalyzer)
	}
	a.current.pool = p
	return nil
}

// prepareTemp makes the directory for temporary files and removes what a process
// that was killed left in it. The state's lock says that no other one uses it.
func prepareTemp(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, pattern := range []string{"pratique-worker-*", "pratique-import-*"} {
		left, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// make starts a pool with the Java database in dir; none if dir is empty.
func (a *analyzers) make(ctx context.Context, dir string) (*pool, error) {
	s := a.cfg.Scanner
	metrics := &withdrawable{Registerer: a.reg}
	p, err := worker.NewPool(ctx, worker.Config{
		Path:         s.Analyzer,
		Workers:      s.Workers,
		Memory:       int64(s.Memory),
		Timeout:      s.Timeout,
		Uncompressed: int64(s.MaxLayerSize),
		TempDisk:     int64(s.TempDisk),
		TempDir:      a.cfg.TempDir(),
		Options:      worker.Options{JavaDB: dir, Misconfigurations: s.Misconfigurations, Licenses: s.Licenses},
		Log:          a.log,
		Metrics:      metrics,
	})
	if err != nil {
		metrics.withdraw()
		return nil, err
	}
	return &pool{Pool: p, metrics: metrics}, nil
}

// javaChanged makes the next pool. When that fails the standing one goes on.
func (a *analyzers) javaChanged(_, _ pratique.Engine) {
	a.current.RLock()
	old := a.current.pool
	a.current.RUnlock()
	old.metrics.withdraw()
	dir, _ := a.java.Dir()
	next, err := a.make(context.Background(), dir) // bounded by the pool's own start
	if err != nil {
		old.metrics.restore()
		a.log.Error("no workers for the new Java database, the standing ones go on", "error", err)
		return
	}
	a.current.Lock()
	a.current.pool = next
	a.current.Unlock()
	a.ending.Go(func() {
		old.calls.Wait()
		_ = old.Close()
	})
}

// enter pins the pool in use; leave must follow.
func (a *analyzers) enter() *pool {
	a.current.RLock()
	defer a.current.RUnlock()
	a.current.calls.Add(1)
	return a.current.pool
}

func (p *pool) leave() { p.calls.Done() }

// Key implements scanner.Analyzer.
func (a *analyzers) Key() string {
	a.current.RLock()
	defer a.current.RUnlock()
	return a.current.Key()
}

// Layer implements scanner.Analyzer.
func (a *analyzers) Layer(ctx context.Context, d pratique.Descriptor, r io.Reader) (pratique.Inventory, error) {
	p := a.enter()
	defer p.leave()
	return p.Layer(ctx, d, r)
}

// Config implements scanner.Analyzer.
func (a *analyzers) Config(ctx context.Context, raw []byte, os pratique.OS) (pratique.Inventory, error) {
	p := a.enter()
	defer p.leave()
	return p.Config(ctx, raw, os)
}

// ready reports whether workers can be started.
func (a *analyzers) ready() error {
	if path := a.cfg.Scanner.Analyzer; path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return fmt.Errorf("analyzer program: %w", err)
		}
	}
	return nil
}

// Close ends all pools; nothing makes another after it.
func (a *analyzers) Close() error {
	err := a.current.Close()
	a.ending.Wait()
	return err
}

// withdrawable registers a pool's metrics so that the next pool can register
// its own under the same names.
type withdrawable struct {
	prometheus.Registerer
	registered []prometheus.Collector
}

func (w *withdrawable) Register(c prometheus.Collector) error {
	if err := w.Registerer.Register(c); err != nil {
		return err
	}
	w.registered = append(w.registered, c)
	return nil
}

func (w *withdrawable) withdraw() {
	for _, c := range w.registered {
		w.Unregister(c)
	}
}

func (w *withdrawable) restore() {
	for _, c := range w.registered {
		_ = w.Registerer.Register(c) // was registered before under this name
	}
}
