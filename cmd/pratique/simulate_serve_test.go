package main

import (
	"encoding/json"
	"strings"
	"testing"

	"pratique/tools/images"
	"pratique/web"
)

// TestPolicySimulateOfTheProduct: what a running server served is what a draft is
// tried on, and trying it changes nothing.
func TestPolicySimulateOfTheProduct(t *testing.T) {
	upstream := startSample(t)
	p := startServe(t, configuration(t, upstream.host, demoDatabase))
	p.ready(t)
	if _, err := p.pull(t, "lab/"+images.Clean); err != nil {
		t.Fatal(err)
	}
	fetched := upstream.asked()
	dir := t.TempDir()
	draft := write(t, dir, "draft.yaml", "name: draft\ndefault: allow\nrules: [{name: none, match: {upstream: [lab]}, always: {}, action: deny}]\n")
	moved := write(t, dir, "moved.yaml", "name: moved\ndefault: allow\nrules: [{name: old, tagMoved: {longerThan: 1d}, action: deny}]\n")
	server := "http://" + p.admin
	var out web.Simulated
	simulated := func(args ...string) int {
		t.Helper()
		got := runCommand(t, server, append([]string{"policy", "simulate", "-o", "json"}, args...)...)
		out = web.Simulated{}
		if err := json.Unmarshal([]byte(got.out), &out); err != nil {
			t.Fatalf("exit %d: %v\n%s%s", got.code, err, got.out, got.errout)
		}
		return got.code
	}
	eventually(t, func() bool { simulated(draft); return out.Pulls > 0 }) // pulls are written down behind the answer
	if code := simulated(draft); code != exitRefused || out.Refused.References == 0 || !strings.HasPrefix(out.Refused.Images[0].Ref, "lab/"+images.Clean) {
		t.Errorf("exit %d, %+v", code, out)
	}
	if code := simulated("../../configs/policies/default.yaml"); code != 0 || out.Same.References == 0 || out.Undecided.References != 0 {
		t.Errorf("the same policy: exit %d, %+v", code, out)
	}
	if code := simulated(moved); code != 0 || out.Refused.References != 0 {
		t.Errorf("a rule about tags: exit %d, %+v", code, out)
	}
	if _, err := p.pull(t, "lab/"+images.Clean); err != nil {
		t.Errorf("after trying a draft: %v", err)
	}
	if n := upstream.asked(); n != fetched {
		t.Errorf("%d blobs were fetched for simulations", n-fetched)
	}
}
