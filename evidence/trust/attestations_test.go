package trust_test

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"pratique"
	"pratique/evidence"
	"pratique/evidence/trust"
	"pratique/store"
)

var (
	_ evidence.Registry  = (*shelf)(nil)
	_ store.Attestations = (*memory)(nil)
	_ evidence.Attestors = (*trust.Trust)(nil)
)

var errDown = errors.New("the registry is down")

func down(string, string) error { return errDown }

// scene is an image signed by a key that is trusted.
type scene struct {
	*shelf
	key   crypto.Signer
	image pratique.Ref
	kept  *memory
	cfg   trust.Config
	trust *trust.Trust
}

func newScene(t *testing.T, edit ...func(*trust.Config)) *scene {
	k := ecdsaKey(elliptic.P256())
	c := &scene{shelf: newShelf(), key: k, kept: newMemory(), cfg: keys(map[string]crypto.Signer{"release": k})}
	for _, e := range edit {
		e(&c.cfg)
	}
	c.image = c.shelf.image(t, app, "app")
	c.trust = newTrust(t, c.shelf, c.kept, c.cfg)
	return c
}

func (c *scene) sign(t *testing.T, at pratique.Ref) {
	c.attach(t, at, ".sig", signed(payload(at), signature(c.key, payload(at))))
}

func (c *scene) ask(ctx context.Context, wait bool) (pratique.Attestations, error) {
	return c.trust.Attestations(ctx, c.image, pratique.Image{Digest: c.image.Digest}, wait)
}

// signers asks and says who signed, or the error.
func (c *scene) signers(t *testing.T, wait bool) string {
	t.Helper()
	a, err := c.ask(t.Context(), wait)
	switch {
	case errors.Is(err, pratique.ErrPending):
		return "pending"
	case err != nil:
		return err.Error()
	case a.CheckedAt.IsZero():
		t.Error("no time of the check")
	}
	return strings.Join(by(a), ",")
}

func (c *scene) want(t *testing.T, wait bool, want string) {
	t.Helper()
	if got := c.signers(t, wait); got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestYoungIsBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.sign(t, c.image)
		c.want(t, true, "release")
		asked := c.asks()
		time.Sleep(23 * time.Hour)
		c.want(t, true, "release")
		c.want(t, false, "release")
		if c.asks() != asked {
			t.Error("the registry was asked again")
		}
		// Another Trust over the same memory goes on with it.
		c.trust = newTrust(t, c.shelf, c.kept, c.cfg)
		c.want(t, false, "release")
		if c.asks() != asked {
			t.Error("the registry was asked again after a restart")
		}
	})
}

func TestWithoutWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.sign(t, c.image)
		c.want(t, false, "pending")
		synctest.Wait()
		c.want(t, false, "release")
	})
}

func TestOldIsRechecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.want(t, true, "")
		stamp := c.trust.Stamp()
		c.sign(t, c.image)
		time.Sleep(25 * time.Hour)
		c.want(t, false, "") // what is kept, while the recheck goes on
		synctest.Wait()
		c.want(t, false, "release")
		if c.trust.Stamp() == stamp {
			t.Error("the stamp did not move")
		}

		stamp = c.trust.Stamp()
		time.Sleep(25 * time.Hour)
		c.want(t, true, "release")
		if c.trust.Stamp() != stamp {
			t.Error("the stamp moved, although nothing changed")
		}
	})
}

// An image is signed after it was refused: that is noticed soon, and an image that
// nobody ever signs costs little.
func TestUnsignedIsRecheckedSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.trust.Run(ctx) }()
		c.want(t, true, "")
		time.Sleep(7 * 24 * time.Hour)
		if c.kept.lookups() < 10 || c.kept.lookups() > 25 {
			t.Errorf("%d lookups in a week", c.kept.lookups())
		}
		another := *c
		another.image = c.shelf.image(t, app, "another")
		another.want(t, true, "")
		c.sign(t, another.image)
		stamp := c.trust.Stamp()
		time.Sleep(2*time.Minute + time.Second)
		if c.trust.Stamp() == stamp {
			t.Error("the stamp did not move")
		}
		another.want(t, false, "release")
		cancel()
		<-done
	})
}

func TestRegistryDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.sign(t, c.image)
		c.breaks(down)
		// Nothing is known: an error that says why, never "pending" for ever.
		if _, err := c.ask(t.Context(), true); !errors.Is(err, errDown) || errors.Is(err, pratique.ErrPending) {
			t.Fatalf("got %v", err)
		}
		if _, err := c.ask(t.Context(), false); !errors.Is(err, errDown) || errors.Is(err, pratique.ErrPending) {
			t.Fatalf("got %v", err)
		}
		asked := c.asks()
		c.want(t, true, "signatures of "+c.image.String()+": manifest "+c.image.Digest.String()+": the registry is down")
		if c.asks() != asked {
			t.Error("the registry was asked again at once")
		}
		c.breaks(nil)
		time.Sleep(time.Minute)
		c.want(t, true, "release")

		// Something is known: it is believed on.
		c.breaks(down)
		time.Sleep(100 * time.Hour)
		c.want(t, true, "release")
		c.want(t, false, "release")
		synctest.Wait()
		c.want(t, false, "release")
	})
}

// Every single answer of the registry fails, once each: never is a signature
// taken for absent because of that.
func TestEveryAnswerFails(t *testing.T) {
	c := newScene(t)
	index := c.index(t, app, c.image)
	c.sign(t, index)
	c.attachBundle(t, c.image, keyBundle(c.key, statement(c.image, slsa1, "{}")))
	c.want(t, true, "release")
	answers := c.asked
	for n := range answers {
		for _, first := range []bool{true, false} {
			c := *c
			c.kept = newMemory()
			c.trust = newTrust(t, c.shelf, c.kept, c.cfg)
			now := time.Now()
			if !first {
				// Known before, and old.
				c.want(t, true, "release")
				cfg := c.cfg
				cfg.Now = func() time.Time { return now.Add(25 * time.Hour) }
				c.trust = newTrust(t, c.shelf, c.kept, cfg)
			}
			left := n
			c.breaks(func(string, string) error {
				if left--; left == -1 {
					return errDown
				}
				return nil
			})
			a, err := c.ask(t.Context(), true)
			whole := err == nil && cmp.Equal(by(a), []string{"release"}) && len(a.Provenance) == 1
			soon := err == nil && len(a.Problems) > 0 && now.Sub(a.CheckedAt) > 23*time.Hour // old at once
			if first && !errors.Is(err, errDown) && !whole && !soon {
				t.Errorf("%s failed: got %+v, %v", answers[n], a, err)
			}
			if !first && !whole {
				t.Errorf("%s failed, known before: got %+v, %v", answers[n], a, err)
			}
			c.breaks(nil)
		}
	}
}

func TestPartIsLookedForAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.sign(t, c.image)
		c.breaks(func(what, _ string) error {
			if what == "blob" {
				return errDown
			}
			return nil
		})
		c.want(t, true, "")
		c.breaks(nil)
		time.Sleep(29 * time.Second)
		c.want(t, true, "")
		time.Sleep(time.Second)
		c.want(t, true, "release")
	})
}

func TestOtherIdentitiesVerifyAnew(t *testing.T) {
	c := newScene(t)
	c.sign(t, c.image)
	c.want(t, true, "release")
	before := c.trust.Version()
	c.trust = newTrust(t, c.shelf, c.kept, keys(map[string]crypto.Signer{"other": ecdsaKey(elliptic.P256())}))
	if c.trust.Version() == before {
		t.Error("the version is the same")
	}
	c.want(t, true, "")
	// What was verified for others is not believed on, either.
	c.trust = newTrust(t, c.shelf, c.kept, keys(map[string]crypto.Signer{"third": ecdsaKey(elliptic.P256())}))
	c.breaks(down)
	if _, err := c.ask(t.Context(), true); !errors.Is(err, errDown) {
		t.Errorf("got %v", err)
	}
}

func TestVersionIsOfWhatIsTrusted(t *testing.T) {
	k := ecdsaKey(elliptic.P256())
	id := trust.Identity{Key: publicPEM(k)}
	base := trust.Config{Identities: map[string]trust.Identity{"a": id}}
	v := func(c trust.Config) string { return newTrust(t, newShelf(), newMemory(), c).Version() }
	if v(base) != v(trust.Config{Identities: map[string]trust.Identity{"a": id}, Recheck: time.Hour}) {
		t.Error("it depends on what says nothing of trust")
	}
	for name, c := range map[string]trust.Config{
		"a name":   {Identities: map[string]trust.Identity{"b": id}},
		"one more": {Identities: map[string]trust.Identity{"a": id, "b": id}},
		"a key":    {Identities: map[string]trust.Identity{"a": {Key: publicPEM(ecdsaKey(elliptic.P256()))}}},
		"VEX":      {Identities: base.Identities, SignedBy: []string{"a"}},
		"a root":   {Identities: base.Identities, TrustedRoot: []byte("x")},
	} {
		if v(c) == v(base) {
			t.Errorf("it does not depend on %s", name)
		}
	}
}

func TestNobodyIsTrusted(t *testing.T) {
	c := newScene(t, func(c *trust.Config) { c.Identities = nil })
	c.breaks(down)
	c.want(t, false, "")
	if c.asks() > 0 || c.kept.lookups() > 0 {
		t.Error("something was looked for")
	}
}

func TestOneLookupForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.sign(t, c.image)
		hold := make(chan struct{})
		c.holds(hold)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { c.want(t, true, "release") })
		}
		synctest.Wait()
		close(hold)
		wg.Wait()
		if c.kept.lookups() != 1 {
			t.Errorf("%d lookups", c.kept.lookups())
		}
	})
}

func TestWhoLeavesEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.sign(t, c.image)
		hold := make(chan struct{})
		c.holds(hold)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.ask(ctx, true); !errors.Is(err, pratique.ErrPending) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(hold)
		synctest.Wait()
		c.want(t, false, "release")
	})
}

func TestLookupsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		hold := make(chan struct{})
		c.holds(hold)
		began := time.Now()
		if _, err := c.ask(t.Context(), true); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, pratique.ErrPending) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d != time.Minute {
			t.Errorf("it took %s", d)
		}
	})
}

// A registry that hangs delays nobody for long when there is an older answer.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.sign(t, c.image)
		c.want(t, true, "release")
		time.Sleep(25 * time.Hour)
		hold := make(chan struct{})
		c.holds(hold)
		began := time.Now()
		c.want(t, true, "release")
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("it took %s", d)
		}
		close(hold)
		synctest.Wait()
	})
}

// The image was asked for by digest before its index was known.
func TestIndexBecomesKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.want(t, true, "")
		c.sign(t, c.index(t, app, c.image))
		c.want(t, false, "pending")
		synctest.Wait()
		c.want(t, false, "release")
		// It stays so when the registry does not answer, and another index is there.
		c.breaks(down)
		c.index(t, app, c.image, c.image)
		c.want(t, true, "release")
	})
}

// One digest is in two repositories, and signed in one of them.
func TestTwoRepositories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.sign(t, c.image)
		copied := c.shelf.image(t, pratique.Ref{Registry: "mirror", Repo: "copy/app"}, "app")
		there := *c
		there.image = copied
		there.want(t, true, "")
		c.want(t, true, "release")
		there.want(t, true, "release") // the same door
		time.Sleep(25 * time.Hour)
		there.want(t, true, "release") // rechecked in both
		time.Sleep(25 * time.Hour)
		c.breaks(func(_, name string) error {
			if strings.Contains(name, app.Repository()) {
				return errDown
			}
			return nil
		})
		there.want(t, true, "release") // what was found there is believed on
		c.breaks(nil)
		time.Sleep(25 * time.Hour)
		c.drop(c.image.String()) // it is gone there
		there.want(t, true, "")
	})
}

func TestRecheckWithoutBeingAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.sign(t, c.image)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.trust.Run(ctx) }()
		c.want(t, true, "release")
		stamp := c.trust.Stamp()
		c.drop(pratique.Ref{Registry: app.Registry, Repo: app.Repo, Tag: "sha256-" + c.image.Digest.Encoded() + ".sig"}.String())
		time.Sleep(25 * time.Hour)
		if c.trust.Stamp() == stamp {
			t.Error("the stamp did not move when the signature went away")
		}
		c.want(t, false, "")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene(t)
		c.sign(t, c.image)
		run := func() func() {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- c.trust.Run(ctx) }()
			synctest.Wait()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		// A lookup that is under way is finished, and whoever waits is answered.
		end := run()
		hold := make(chan struct{})
		c.holds(hold)
		answered := make(chan string)
		go func() { answered <- c.signers(t, true) }()
		synctest.Wait()
		time.AfterFunc(time.Second, func() { close(hold) })
		end()
		if got := <-answered; got != "release" {
			t.Errorf("got %q", got)
		}
		// After the end nothing is begun, and what is kept is believed.
		c.want(t, true, "release")
		another := *c
		another.image = c.shelf.image(t, app, "another")
		another.want(t, true, "pending")
		// A lookup that hangs is ended, and is no failure of the registry.
		end = run()
		hold = make(chan struct{})
		c.holds(hold)
		go func() { answered <- another.signers(t, true) }()
		synctest.Wait()
		began := time.Now()
		end()
		if got, took := <-answered, time.Since(began); got != "pending" || took != 5*time.Second {
			t.Errorf("got %q after %s", got, took)
		}
		// Run again, it works again.
		close(hold)
		c.sign(t, another.image)
		end = run()
		another.want(t, true, "release")
		end()
	})
	goleak.VerifyNone(t)
}

func TestStoreFails(t *testing.T) {
	c := newScene(t)
	c.sign(t, c.image)
	c.kept.err = errors.New("disk full")
	if _, err := c.ask(t.Context(), true); err == nil || errors.Is(err, pratique.ErrPending) {
		t.Errorf("got %v", err)
	}
}
