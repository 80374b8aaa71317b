// Package simulate replays recorded pulls against draft policies: what would be
// refused that is served today, and the reverse.
//
// It asks two gates about each distinct thing that was pulled and compares. It
// decides nothing itself, fetches no image and opens no scan: a gate is told to
// decide by what stands now, and what cannot be decided so is listed as undecided,
// never counted as either.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Gate decides by what stands now. Implemented by proxy.Gate.
type Gate interface {
	// StandingFor decides on an image or artifact that is here, for a client: nothing
	// is fetched, waited for or scanned. What cannot be decided so is an error
	// wrapping pratique.ErrPending. Safe for concurrent use.
	StandingFor(ctx context.Context, ref pratique.Ref, img pratique.Image, client netip.Addr) (pratique.Decision, error)
}

// Manifests are those that are here. Part of store.Catalog.
type Manifests interface {
	Image(ctx context.Context, d digest.Digest) (pratique.Image, error)
}

// Pulls are those recorded. Part of store.PullLog.
type Pulls interface {
	Pulls(ctx context.Context, since time.Time) iter.Seq2[store.Pull, error]
}

// Defaults of Config.
const (
	defaultMaxReferences = 200_000
	defaultMaxListed     = 1000
	defaultMaxClients    = 20
)

// Config is what Run may be told.
type Config struct {
	// Today decides as clients are answered now, Draft as they would be.
	Today, Draft Gate
	// ByClient asks for each client: set it when policies of either side read
	// clients.
	ByClient bool
	// Platforms whose images make an index worth serving. If empty, all.
	Platforms []pratique.Platform
	// MaxReferences are told apart at most; more are an error. If zero, 200,000.
	MaxReferences int
	// MaxListed changes are listed of each sort; all are counted. If zero, 1000.
	MaxListed int
	// MaxClients are listed of each change. If zero, 20.
	MaxClients int
}

// ErrTooMany means that so many distinct references were pulled that they are not
// compared.
var ErrTooMany = errors.New("too many distinct references")

// Result is what a simulation found.
type Result struct {
	Since time.Time `json:"since"`
	Pulls int       `json:"pulls"` // looked at
	// References are how many distinct ones were pulled, by name and digest, and
	// where policies read clients, by client.
	References int `json:"references"`
	// Refused would be, and are served today; Served the reverse. Undecided could not
	// be compared: Reasons say why. Each lists those pulled most first.
	Refused   Changes `json:"refused"`
	Served    Changes `json:"served"`
	Undecided Changes `json:"undecided"`
	// Warned are served either way, with a warning only by the draft.
	Warned Count `json:"warned"`
	// Same are what nothing changes for, or warnings at most.
	Same Count `json:"same"`
}

// Count tells how much is behind a line.
type Count struct {
	References int `json:"references"`
	Pulls      int `json:"pulls"`
	Clients    int `json:"clients"`
}

// Changes of one sort.
type Changes struct {
	Count
	Images []Change `json:"images"` // at most Config.MaxListed
}

// Change is one reference that would be answered otherwise.
type Change struct {
	Ref      string        `json:"ref"`    // as it was pulled
	Digest   digest.Digest `json:"digest"` // that it named then
	Pulls    int           `json:"pulls"`
	LastPull time.Time     `json:"lastPull"`
	// Clients that pulled it most, and how many there are in all.
	Clients    []Client `json:"clients"`
	AllClients int      `json:"allClients"`
	// Reasons of the refusal, POLICY/RULE: MESSAGE, or why nothing can be said.
	Reasons []string `json:"reasons"`
}

// Client is one that pulled.
type Client struct {
	Address string `json:"address"`
	Pulls   int    `json:"pulls"`
}

// key tells pulls apart whose verdicts may differ.
type key struct {
	ref    pratique.Ref
	client string // empty unless Config.ByClient
}

// tallied is what was pulled under one key.
type tallied struct {
	key
	pulls   int
	last    time.Time
	clients map[string]int

	today, draft outcome
}

// Run replays the pulls since a time. An error that is neither ErrTooMany nor the
// store's is ctx's.
func Run(ctx context.Context, pulls Pulls, manifests Manifests, since time.Time, cfg Config) (Result, error) {
	if cfg.MaxReferences == 0 {
		cfg.MaxReferences = defaultMaxReferences
	}
	if cfg.MaxListed == 0 {
		cfg.MaxListed = defaultMaxListed
	}
	if cfg.MaxClients == 0 {
		cfg.MaxClients = defaultMaxClients
	}
	out := Result{Since: since}
	all, err := tally(ctx, pulls, since, cfg)
	if err != nil {
		return out, err
	}
	s := &simulation{Config: cfg, manifests: manifests}
	if err := s.decide(ctx, all); err != nil {
		return out, err
	}
	s.sum(all, &out)
	return out, nil
}

// tally gathers the pulls by what tells verdicts apart.
func tally(ctx context.Context, pulls Pulls, since time.Time, cfg Config) ([]*tallied, error) {
	known := make(map[key]*tallied)
	for p, err := range pulls.Pulls(ctx, since) {
		if err != nil {
			return nil, err
		}
		k := key{ref: p.Ref}
		if cfg.ByClient {
			k.client = p.Client
		}
		t := known[k]
		if t == nil {
			if len(known) >= cfg.MaxReferences {
				return nil, fmt.Errorf("%w: more than %d", ErrTooMany, cfg.MaxReferences)
			}
			t = &tallied{key: k, clients: make(map[string]int)}
			known[k] = t
		}
		t.pulls++
		t.clients[p.Client]++
		if p.At.After(t.last) {
			t.last = p.At
		}
	}
	out := make([]*tallied, 0, len(known))
	for _, t := range known {
		out = append(out, t)
	}
	// Equal manifests one after another: who keeps the last reports reads each once.
	slices.SortFunc(out, func(a, b *tallied) int {
		if c := strings.Compare(string(a.ref.Digest), string(b.ref.Digest)); c != 0 {
			return c
		}
		if c := strings.Compare(a.ref.String(), b.ref.String()); c != 0 {
			return c
		}
		return strings.Compare(a.client, b.client)
	})
	return out, nil
}

type simulation struct {
	Config
	manifests Manifests
}

// decide asks both gates about everything, over all cores.
func (s *simulation) decide(ctx context.Context, all []*tallied) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan *tallied)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for t := range work {
				if err := s.ask(ctx, t); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, t := range all {
		if ctx.Err() != nil {
			break
		}
		work <- t
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// sum sorts what was decided.
func (s *simulation) sum(all []*tallied, out *Result) {
	sorts := map[*Count]map[string]bool{}
	count := func(c *Count, t *tallied) {
		c.References++
		c.Pulls += t.pulls
		if sorts[c] == nil {
			sorts[c] = make(map[string]bool)
		}
		for client := range t.clients {
			sorts[c][client] = true
		}
	}
	list := func(c *Changes, t *tallied, reasons []string) {
		count(&c.Count, t)
		c.Images = append(c.Images, s.change(t, reasons))
	}
	for _, t := range all {
		out.References++
		out.Pulls += t.pulls
		switch {
		case t.today.unknown != "":
			list(&out.Undecided, t, []string{"today: " + t.today.unknown})
		case t.draft.unknown != "":
			list(&out.Undecided, t, []string{"draft: " + t.draft.unknown})
		case t.today.served && !t.draft.served:
			list(&out.Refused, t, t.draft.reasons)
		case !t.today.served && t.draft.served:
			list(&out.Served, t, t.today.reasons)
		default:
			count(&out.Same, t)
			if t.draft.served && t.draft.warned && !t.today.warned {
				count(&out.Warned, t)
			}
		}
	}
	for c, clients := range sorts {
		c.Clients = len(clients)
	}
	for _, c := range []*Changes{&out.Refused, &out.Served, &out.Undecided} {
		c.Images = merged(c.Images, s.MaxClients)
		if len(c.Images) > s.MaxListed {
			c.Images = c.Images[:s.MaxListed]
		}
	}
}

// change tells of one reference, with all its clients.
func (s *simulation) change(t *tallied, reasons []string) Change {
	c := Change{Digest: t.ref.Digest, Pulls: t.pulls, LastPull: t.last, Reasons: reasons}
	ref := t.ref
	if ref.Tag != "" {
		ref.Digest = ""
	}
	c.Ref = ref.String()
	for address, n := range t.clients {
		c.Clients = append(c.Clients, Client{address, n})
	}
	return c
}

// merged puts the clients of one reference together, where they were asked for
// apart, and orders: what was pulled most comes first.
func merged(in []Change, maxClients int) []Change {
	type id struct {
		ref     string
		digest  digest.Digest
		reasons string
	}
	at := make(map[id]int, len(in))
	out := make([]Change, 0, len(in))
	for _, c := range in {
		k := id{c.Ref, c.Digest, strings.Join(c.Reasons, "\n")}
		i, ok := at[k]
		if !ok {
			at[k] = len(out)
			out = append(out, c)
			continue
		}
		out[i].Pulls += c.Pulls
		out[i].Clients = append(out[i].Clients, c.Clients...)
		if c.LastPull.After(out[i].LastPull) {
			out[i].LastPull = c.LastPull
		}
	}
	for i := range out {
		c := &out[i]
		c.AllClients = len(c.Clients)
		slices.SortFunc(c.Clients, func(a, b Client) int {
			if a.Pulls != b.Pulls {
				return b.Pulls - a.Pulls
			}
			return strings.Compare(a.Address, b.Address)
		})
		c.Clients = c.Clients[:min(len(c.Clients), maxClients)]
	}
	slices.SortStableFunc(out, func(a, b Change) int {
		if a.Pulls != b.Pulls {
			return b.Pulls - a.Pulls
		}
		return strings.Compare(a.Ref, b.Ref)
	})
	return out
}
