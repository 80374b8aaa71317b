package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scanner/database"
	"pratique/store"
)

// TestAgreement: what replicas agree on is in the state as it was said, who waits
// hears of it, and the first one is not older than what reports were made with.
func TestAgreement(t *testing.T) {
	state, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	ctx := t.Context()
	at := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	wanted := func(sequence int64, cause string, updated time.Time) database.Wanted {
		t.Helper()
		var w database.Wanted // its entries are read from JSON only
		raw := fmt.Sprintf(`{"sequence":%d,"cause":%q,"by":"a","at":%q,"current":{"digest":%q,"updatedAt":%q,"archive":%q,"size":7}}`,
			sequence, cause, at.Format(time.RFC3339), digest.FromString(cause), updated.Format(time.RFC3339), digest.FromString("archive"))
		if err := json.Unmarshal([]byte(raw), &w); err != nil {
			t.Fatal(err)
		}
		return w
	}
	engine := pratique.Engine{Version: "v0.74.0", Database: digest.FromString("used"), DatabaseAt: at}
	if err := errors.Join(state.Begin(ctx, engine), state.Advance(ctx, engine, at)); err != nil {
		t.Fatal(err)
	}
	a := sharing(database.Config{}, store.VulnerabilityDatabase, state, nil, "a").Shared
	if _, err := a.Wanted(ctx); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("nothing yet: %v", err)
	}
	for _, cause := range []string{"kept", "source"} {
		if err := a.Want(ctx, 0, wanted(1, cause, at.Add(-time.Hour))); !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("%s, an older one: %v", cause, err)
		}
	}
	told, end := a.Told()
	defer end()
	first := wanted(1, "import", at.Add(-time.Hour)) // an operator may
	if err := a.Want(ctx, 0, first); err != nil {
		t.Fatal(err)
	}
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Error("nobody is told")
	}
	got, err := a.Wanted(ctx)
	if diff := cmp.Diff(first, got, cmpopts.IgnoreUnexported(database.Entry{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got.Current.Digest != first.Current.Digest || !got.ByOperator() {
		t.Errorf("%+v", got)
	}
	if err := a.Want(ctx, 0, wanted(1, "source", at.Add(time.Hour))); !errors.Is(err, database.ErrOvertaken) {
		t.Errorf("who comes later: %v", err)
	}
	// It is a fence for what scans say.
	if err := state.Begin(ctx, pratique.Engine{Version: "v0.74.0", Database: digest.FromString("other"), DatabaseAt: at.Add(time.Hour)}); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("another database is begun: %v", err)
	}
	java := sharing(database.Config{}, javaKind, state, nil, "a").Shared
	if err := java.Want(ctx, 0, wanted(1, "kept", at.Add(-time.Hour))); err != nil {
		t.Errorf("the other kind: %v", err)
	}
	// What is not what it says is an error, and not something to follow.
	doc, err := json.Marshal(wanted(2, "source", at))
	if err == nil {
		err = state.PutWantedDatabase(ctx, store.VulnerabilityDatabase, 1, store.WantedDatabase{Database: digest.FromString("x"), Version: 2, Doc: doc})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Wanted(ctx); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("a record that contradicts itself: %v", err)
	}
}
