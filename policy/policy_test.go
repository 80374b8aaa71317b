package policy

import (
	"testing"

	"pratique"
	"pratique/configs"
)

func TestDefaultPolicyLoads(t *testing.T) {
	s, err := Load(File{Name: "default.yaml", Data: configs.DefaultPolicy})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Decide(Facts{}); got.Outcome != pratique.OutcomeDeny || got.Reasons[0].Rule != "not-scanned" {
		t.Errorf("no facts at all: %+v", got)
	}
}
