package policy

import (
	"testing"

	"pratique"
)

// TestAnImageIsNoChartForSayingSo: artifactType is what a manifest calls itself.
// One that clients would run is not let through by a rule for charts, nor does it
// get past one for images.
func TestAnImageIsNoChartForSayingSo(t *testing.T) {
	const chart = "application/vnd.cncf.helm.config.v1+json"
	lenient := load(t, `
name: p
default: deny
rules:
  - {name: charts, match: {artifactType: [application/vnd.cncf.helm.*]}, always: {}, action: allow}
  - {name: unread, match: {artifactType: [application/vnd.cncf.helm.*]}, lifts: [unscanned, incomplete, scanFailed], action: exempt, message: charts are not scanned}`)
	expressed := load(t, `
name: p
default: deny
rules:
  - {name: charts, expression: 'image.artifactType.startsWith("application/vnd.cncf.helm")', action: allow}`)
	strict := load(t, `
name: p
default: allow
rules:
  - {name: images, match: {artifactType: [application/vnd.oci.image.*]}, always: {}, action: deny}
  - {name: charts, match: {artifactType: [application/vnd.cncf.helm.*]}, always: {}, action: deny}`)
	layers := []pratique.Descriptor{{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip"}}
	config := pratique.Descriptor{MediaType: pratique.MediaTypeImageConfig}
	image := pratique.Image{Digest: imageDigest, Kind: pratique.KindImage, Config: config, Layers: layers, ArtifactType: chart}
	honest := pratique.Image{
		Digest: imageDigest, Kind: pratique.KindArtifact, Config: pratique.Descriptor{MediaType: chart},
		Layers: []pratique.Descriptor{{MediaType: "application/vnd.cncf.helm.chart.content.v1.tar+gzip"}},
	}
	if !image.Runnable() || honest.Runnable() {
		t.Fatal("the one runs, the other does not")
	}
	for name, tc := range map[string]struct {
		set   *Set
		image pratique.Image
		state pratique.State
		want  pratique.Outcome
	}{
		"image as a chart":              {lenient, image, pratique.StateScanned, pratique.OutcomeDeny},
		"image as a chart, not scanned": {lenient, image, pratique.StateUnknown, pratique.OutcomeDeny},
		"image as a chart, expression":  {expressed, image, pratique.StateScanned, pratique.OutcomeDeny},
		"chart":                         {lenient, honest, pratique.StateUnsupported, pratique.OutcomeAllow},
		"image past a rule for images":  {strict, image, pratique.StateScanned, pratique.OutcomeDeny},
		"chart where charts are denied": {strict, honest, pratique.StateUnsupported, pratique.OutcomeDeny},
	} {
		f := scanned()
		f.Now, f.Image, f.Report.State = testNow, tc.image, tc.state
		if v := tc.set.Decide(f); v.Outcome != tc.want {
			t.Errorf("%s: %s, want %s: %+v", name, v.Outcome, tc.want, v.Reasons)
		}
	}
}
