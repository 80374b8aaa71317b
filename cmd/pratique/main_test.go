package main

import (
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(migrateEnv) != "" {
		after, _ := strconv.Atoi(os.Args[1])
		os.Exit(migrateAndDie(after, os.Args[2], os.Args[3], os.Args[4]))
	}
	// Started by init functions of the storage drivers' cloud SDKs.
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"),
	)
}
