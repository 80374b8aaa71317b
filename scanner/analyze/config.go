//go:build goexperiment.jsonv2

package analyze

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// configPath is what findings in an image config have for a path: it is no file
// of the image.
const configPath = "image config"

// historyFile is the file that Trivy makes of a config's history.
const historyFile = "Dockerfile"

// Config checks an image config: the embedded Dockerfile checks on its history,
// and secrets in environment, labels and history. The error is nil; what the
// config causes is in the inventory's problems.
func (a *Analyzer) Config(ctx context.Context, raw []byte, os pratique.OS) (pratique.Inventory, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log.take()
	inv := pratique.Inventory{Layer: digest.FromBytes(raw), Size: int64(len(raw)), Analyzer: a.key}
	fail := func(source string, err error) (pratique.Inventory, error) {
		inv.Problems = []pratique.Problem{{Layer: inv.Layer, Source: source, Message: printable(err.Error()), Fatal: true}}
		return inv, nil
	}
	group, err := a.misconf()
	if err != nil {
		return fail("misconfiguration", err)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return fail("config", fmt.Errorf("image config: %w", err))
	}
	a.log.take()
	family := ftypes.OS{Family: ftypes.OSType(os.Family), Name: os.Name, Extended: os.Extended}
	result := group.AnalyzeImageConfig(ctx, family, config)
	problems := a.log.take()
	if result.Misconfiguration == nil && len(problems) > 0 && joinLines(config) {
		again := group.AnalyzeImageConfig(ctx, family, config)
		if again.Misconfiguration != nil {
			result.Misconfiguration, problems = again.Misconfiguration, nil
		}
		problems = append(problems, a.log.take()...)
	}
	if result.Misconfiguration != nil {
		result.Misconfiguration.FilePath = configPath
		inv.Misconfigurations = misconfigurations(*result.Misconfiguration)
	}
	if result.Secret != nil {
		result.Secret.FilePath = configPath
		inv.Secrets = secrets(*result.Secret)
	}
	inv.Problems = problems
	for i := range inv.Problems {
		inv.Problems[i].Layer = inv.Layer
	}
	return inv, nil
}

// joinLines puts every step of the history on one line, and reports whether one
// was not. BuildKit records here-documents with their line breaks, which Trivy
// reads as further instructions and gives up.
func joinLines(c *v1.ConfigFile) bool {
	joined := false
	for i, h := range c.History {
		if one := strings.Join(strings.FieldsFunc(h.CreatedBy, func(r rune) bool { return r == '\n' || r == '\r' }), " "); one != h.CreatedBy {
			c.History[i].CreatedBy, joined = one, true
		}
	}
	return joined
}
