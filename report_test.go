package pratique_test

import (
	"encoding/json"
	"errors"
	"testing"

	"pratique"
)

func TestOutcomeIsDenyUnlessSaid(t *testing.T) {
	for outcome, want := range map[pratique.Outcome]string{
		"": "deny", pratique.OutcomeWarn: "warn", pratique.OutcomeAllow: "allow", "deny": "deny", "Allow": "deny", "nonsense": "deny",
	} {
		if got := outcome.String(); got != want {
			t.Errorf("%q is %s, want %s", string(outcome), got, want)
		}
		b, err := json.Marshal(struct{ O pratique.Outcome }{outcome})
		if err != nil || string(b) != `{"O":"`+want+`"}` {
			t.Errorf("%q is written %s, %v", string(outcome), b, err)
		}
	}
	var v pratique.Verdict
	if err := json.Unmarshal([]byte(`{"id":"x"}`), &v); err != nil || v.Outcome != pratique.OutcomeDeny {
		t.Errorf("a verdict without outcome is %s, %v", v.Outcome, err)
	}
}

func TestOutcomeUnmarshal(t *testing.T) {
	for text, want := range map[string]pratique.Outcome{"deny": pratique.OutcomeDeny, "warn": pratique.OutcomeWarn, "allow": pratique.OutcomeAllow} {
		got := pratique.OutcomeAllow
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %q, %v", text, string(got), err)
		}
	}
	for _, text := range []string{"", "Allow", "allowed", " allow", "permit"} {
		got := pratique.OutcomeDeny
		if err := got.UnmarshalText([]byte(text)); !errors.Is(err, pratique.ErrInvalid) || got != pratique.OutcomeDeny {
			t.Errorf("%q is %q, %v", text, string(got), err)
		}
	}
}

func TestState(t *testing.T) {
	for _, s := range []pratique.State{
		pratique.StateUnknown, pratique.StatePending, pratique.StateScanned, pratique.StateIncomplete, pratique.StateFailed, pratique.StateUnsupported,
	} {
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []pratique.State{"unknown", "clean", "Scanned"} {
		if err := s.Validate(); !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("%q: %v", string(s), err)
		}
	}
	if got := pratique.StateUnknown.String(); got != "unknown" {
		t.Error(got)
	}
}

func TestSeverityRank(t *testing.T) {
	order := []pratique.Severity{pratique.SeverityUnknown, pratique.SeverityLow, pratique.SeverityMedium, pratique.SeverityHigh, pratique.SeverityCritical}
	for i, s := range order {
		if got := s.Rank(); got != i {
			t.Errorf("%s has rank %d, want %d", s, got, i)
		}
	}
}
