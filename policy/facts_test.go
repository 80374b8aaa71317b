package policy

import (
	"flag"
	"time"

	"github.com/opencontainers/go-digest"
)

var update = flag.Bool("update", false, "rewrite the wanted parts of testdata/*.txtar, and the manual of expressions")

// Update is for the tests outside of the package.
var Update = update

var (
	imageDigest = digest.FromString("image")
	testNow     = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
)
