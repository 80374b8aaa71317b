package proxy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pratique/store"
)

// standing was confirmed once.
type standing struct{ at time.Time }

func (s standing) Confirmed() time.Time { return s.at }

// An object store that fails under the state is not the state that is away: what else
// is asked of it goes on.
func TestObjectsAreNotTheState(t *testing.T) {
	objects := fmt.Errorf("link app: %w", errors.Join(store.ErrUnreachable, store.ErrObjects, errors.New("503")))
	state := fmt.Errorf("link app: %w", store.ErrUnreachable)
	for _, mode := range []FailureMode{FailureServeLast, FailureRefuse} {
		g := &Gate{cfg: GateConfig{Failure: mode}, reach: &reach{state: standing{time.Now().Add(time.Hour)}}}
		for _, c := range []struct {
			err   error
			cause string
			away  bool
		}{{objects, "storage.driver", false}, {state, "state.failure: " + string(mode), true}} {
			g.reach.lost.Store(0)
			var e *Error
			if err := g.failed(c.err); !errors.As(err, &e) || e.Status() != 503 || e.RetryAfter == 0 || !strings.Contains(e.Message, c.cause) {
				t.Errorf("%s: %v is answered with %v", mode, c.err, err)
			}
			if away := g.reach.lost.Load() != 0; away != c.away {
				t.Errorf("%s: %v counts as a state that is away: %v", mode, c.err, away)
			}
		}
		cache := &Cache{reach: g.reach}
		g.reach.lost.Store(0)
		if err := cache.state(objects); !strings.Contains(err.Error(), "storage.driver") || g.reach.lost.Load() != 0 {
			t.Errorf("%s: the cache answers %v", mode, err)
		}
	}
	if e := asError(objects); !strings.Contains(e.Message, "storage.driver") {
		t.Errorf("the server answers %v", e)
	}
}
