package proxy

import (
	"net/netip"
	"testing"
)

// TestExplain: every image that was judged is explained, with the policies that
// judged it, and the decision is Check's.
func TestExplain(t *testing.T) {
	w := newWorld(t)
	bad, good := w.image(t, app, "", "bad"), w.image(t, app, "", "good")
	w.critical(bad)
	w.clean(good)
	idx := w.index(t, app, "1", at(bad, amd64), at(good, arm64))
	g := w.gate(GateConfig{})
	d, rules, err := g.Explain(t.Context(), ref(app, "1"), netip.Addr{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	checked, err := g.Check(t.Context(), ref(app, "1"), netip.Addr{}, 0)
	if err != nil || d.Verdict.ID != checked.Verdict.ID || d.Image.Digest != idx.Digest {
		t.Errorf("explained %s, checked %s, %v", d.Verdict.ID, checked.Verdict.ID, err)
	}
	if len(rules) != 2 {
		t.Fatalf("%d images are explained, want 2", len(rules))
	}
	for _, x := range rules[bad.Digest] {
		if x.Rule == "critical" && (x.Met != "yes" || x.Effect != "denies") {
			t.Errorf("%+v", x)
		}
	}
	for _, x := range rules[good.Digest] {
		if x.Rule == "critical" && (x.Met != "no" || x.Effect != "") {
			t.Errorf("%+v", x)
		}
	}
	w.policies = &scripted{version: "1", decide: always("allow")}
	if _, rules, err := w.gate(GateConfig{}).Explain(t.Context(), ref(app, "1"), netip.Addr{}, 0); err != nil || len(rules) != 0 {
		t.Errorf("policies that do not explain: %v, %v", rules, err)
	}
}
