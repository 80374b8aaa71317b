package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// errClosed: the pool was closed.
var errClosed = errors.New("analyzer pool closed")

// Pool starts, watches and ends the children. It implements scanner.Analyzer.
// All methods may be called concurrently.
type Pool struct {
	cfg     Config
	key     string
	metrics metrics
	temp    tempDir

	slots    slots // one token per layer under analysis
	spares   chan *child
	configs  chan struct{} // held by the one who talks to the resident child
	closed   chan struct{}
	closing  sync.Once // sets closeErr
	closeErr error
	running  sync.WaitGroup

	// mu guards stopped: nothing is added to running once it is set.
	mu      sync.Mutex
	stopped bool

	// Owned by the holder of configs.
	resident *child
	answered int
	idle     *time.Timer
}

// NewPool starts one child, which says what it is: its key is the pool's. ctx
// bounds the start alone.
func NewPool(ctx context.Context, c Config) (*Pool, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Pool{
		cfg:     c,
		slots:   newSlots(c.Workers),
		spares:  make(chan *child, max(c.Spares, 1)),
		configs: make(chan struct{}, 1),
		closed:  make(chan struct{}),
	}
	if p.metrics, err = newMetrics(c.Metrics); err != nil {
		return nil, err
	}
	if p.temp, err = makeTempDir(c.TempDir); err != nil {
		return nil, err
	}
	p.cfg.TempDir = p.temp.path
	first, err := start(p.cfg, KindLayer, ctx.Done())
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx), p.temp.remove())
	}
	p.key = first.hello.Key
	if c.Spares == 0 {
		first.end()
	} else {
		p.spares <- first
	}
	p.refill()
	return p, nil
}

// Key implements scanner.Analyzer.
func (p *Pool) Key() string { return p.key }

// Close ends all children and waits until they are gone. Calls under way fail.
func (p *Pool) Close() error {
	p.closing.Do(func() { p.closeErr = p.shut() })
	return p.closeErr
}

func (p *Pool) shut() error {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	close(p.closed)
	p.running.Wait()
	for {
		select {
		case ch := <-p.spares:
			ch.end()
			continue
		default:
		}
		break
	}
	p.configs <- struct{}{}
	p.retire()
	<-p.configs
	return p.temp.remove()
}

// enter counts a call or a goroutine of the pool; leave must follow.
func (p *Pool) enter() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return errClosed
	}
	p.running.Add(1)
	return nil
}

func (p *Pool) leave() { p.running.Done() }

// refill starts spares in the background until there are enough. A failure is
// logged; the next layer that finds no spare starts a child itself and reports.
func (p *Pool) refill() {
	if p.cfg.Spares == 0 || p.enter() != nil {
		return
	}
	go func() {
		defer p.leave()
		for len(p.spares) < p.cfg.Spares {
			ch, err := p.start(KindLayer)
			if err != nil {
				if !errors.Is(err, errClosed) {
					p.cfg.Log.Error("starting a spare analyzer failed", "error", err)
				}
				return
			}
			select {
			case p.spares <- ch:
			default:
				ch.end()
				return
			}
		}
	}()
}

// start makes a child and checks that it is the program the pool was made with.
func (p *Pool) start(kind Kind) (*child, error) {
	ch, err := start(p.cfg, kind, p.closed)
	if err != nil {
		return nil, err
	}
	if ch.hello.Key != p.key {
		ch.end()
		return nil, fmt.Errorf("the analyzer %s changed while running: key %q, was %q; restart Pratique", p.cfg.Path, ch.hello.Key, p.key)
	}
	return ch, nil
}

func (p *Pool) take() (*child, error) {
	defer p.refill()
	for {
		select {
		case ch := <-p.spares:
			if ch.dead() {
				p.metrics.deaths.WithLabelValues(deathIdle).Inc()
				ch.end()
				continue
			}
			return ch, nil
		default:
			return p.start(KindLayer)
		}
	}
}

// Layer implements scanner.Analyzer: a child of its own for the layer, ended
// afterwards whatever happened. When it returns early, one Read of r may still
// be under way for a moment; closing r ends it.
func (p *Pool) Layer(ctx context.Context, d pratique.Descriptor, r io.Reader) (pratique.Inventory, error) {
	if err := p.enter(); err != nil {
		return pratique.Inventory{}, err
	}
	defer p.leave()
	leave, err := p.slots.enter(ctx, p.closed)
	if err != nil {
		return pratique.Inventory{}, err
	}
	defer leave()
	p.metrics.busy.Inc()
	defer p.metrics.busy.Dec()
	ch, err := p.take()
	if err != nil {
		return pratique.Inventory{}, err
	}
	defer ch.end()

	began := time.Now()
	inv, err := p.ask(ctx, ch, Request{Descriptor: d}, r)
	if err != nil {
		return pratique.Inventory{}, fmt.Errorf("analysing layer %s: %w", d.Digest, err)
	}
	p.metrics.seconds.WithLabelValues(string(KindLayer)).Observe(time.Since(began).Seconds())
	return p.checked(inv, d.Digest), nil
}

// Config implements scanner.Analyzer. One resident child answers, because the
// checks take a second to compile.
func (p *Pool) Config(ctx context.Context, raw []byte, os pratique.OS) (pratique.Inventory, error) {
	d := digest.FromBytes(raw)
	if len(raw) > pratique.MaxConfigSize {
		return p.failed(d, fmt.Sprintf("image config of %d bytes, at most %d are analysed", len(raw), pratique.MaxConfigSize)), nil
	}
	if err := p.enter(); err != nil {
		return pratique.Inventory{}, err
	}
	defer p.leave()
	select {
	case p.configs <- struct{}{}:
		defer func() { <-p.configs }()
	case <-ctx.Done():
		return pratique.Inventory{}, context.Cause(ctx)
	case <-p.closed:
		return pratique.Inventory{}, errClosed
	}
	if p.resident == nil || p.resident.dead() {
		p.retire()
		ch, err := p.start(KindConfig)
		if err != nil {
			return pratique.Inventory{}, err
		}
		p.resident = ch
	}
	began := time.Now()
	inv, err := p.ask(ctx, p.resident, Request{Config: raw, OS: os}, nil)
	p.answered++
	if err != nil || inv.State() == pratique.StateFailed || p.answered >= p.cfg.ConfigAnswers {
		p.retire()
	} else {
		p.rest()
	}
	if err != nil {
		return pratique.Inventory{}, fmt.Errorf("analysing image config %s: %w", d, err)
	}
	p.metrics.seconds.WithLabelValues(string(KindConfig)).Observe(time.Since(began).Seconds())
	return p.checked(inv, d), nil
}

// rest sets the alarm that ends the resident child when nobody needs it. The
// caller holds configs.
func (p *Pool) rest() {
	if p.idle != nil {
		p.idle.Stop()
	}
	ch := p.resident
	p.idle = time.AfterFunc(p.cfg.ConfigIdle, func() {
		if p.enter() != nil {
			return
		}
		defer p.leave()
		select {
		case p.configs <- struct{}{}:
			if p.resident == ch && p.idle != nil {
				p.retire()
			}
			<-p.configs
		default: // somebody uses it
		}
	})
}

// retire ends the resident child. The caller holds configs.
func (p *Pool) retire() {
	if p.idle != nil {
		p.idle.Stop()
		p.idle = nil
	}
	if p.resident != nil {
		p.resident.end()
	}
	p.resident, p.answered = nil, 0
}

// checked holds a child's answer to what every inventory promises.
func (p *Pool) checked(inv pratique.Inventory, d digest.Digest) pratique.Inventory {
	if inv.Analyzer != p.key || inv.Layer != d {
		return p.failed(d, fmt.Sprintf("the worker answered for %q by %q", inv.Layer, inv.Analyzer))
	}
	return inv
}

// failed is the inventory of content that could not be analysed.
func (p *Pool) failed(d digest.Digest, message string) pratique.Inventory {
	return pratique.Inventory{Layer: d, Analyzer: p.key,
		Problems: []pratique.Problem{{Layer: d, Source: "worker", Message: message, Fatal: true}}}
}
