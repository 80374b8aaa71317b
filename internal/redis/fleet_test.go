package redis

import (
	"os"
	"strconv"
	"testing"

	"pratique/store/storetest"
)

func TestFleetContracts(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		for name, suite := range map[string]func(t *testing.T){
			"Inventories": func(t *testing.T) { storetest.Inventories(t, fresh(url)) },
			"Components":  func(t *testing.T) { storetest.Components(t, fresh(url)) },
			"Reports":     func(t *testing.T) { storetest.Reports(t, fresh(url)) },
			"Fleet":       func(t *testing.T) { storetest.Fleet(t, fresh(url)) },
			"Near":        func(t *testing.T) { storetest.Near(t, fresh(url)) },
			"Fence":       func(t *testing.T) { storetest.Fence(t, fresh(url)) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				suite(t)
			})
		}
	})
}

// TestLives replays random lives of fleets against reports made one by one;
// PRATIQUE_LIVES is how many.
func TestLives(t *testing.T) {
	rounds := 6
	if n, err := strconv.Atoi(os.Getenv("PRATIQUE_LIVES")); err == nil {
		rounds = n
	}
	modes(t, func(t *testing.T, url string) { storetest.Lives(t, fresh(url), rounds) })
}
