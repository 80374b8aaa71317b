package config

import (
	"path/filepath"
	"time"
)

// base are the defaults before what follows from other settings is filled in.
func base() Config {
	return Config{
		DataDir:  "/var/lib/pratique",
		Registry: Registry{Listen: ":5000", Hold: 25 * time.Second, MaxHeld: 1000, Drain: 30 * time.Second},
		Refusal:  Refusal{Head: HeadBare},
		Admin:    Admin{Listen: "127.0.0.1:5001"},
		Storage:  Storage{Driver: "filesystem"},
		State:    State{Redis: Redis{Prefix: "pratique", Skew: 2 * time.Second}, Failure: FailureServeLast, FailureAge: 24 * time.Hour},
		Cache: Cache{
			TagTTL:       time.Minute,
			StaleIfError: StaleIfError{Semver: 7 * 24 * time.Hour, Latest: time.Hour, Other: 24 * time.Hour},
			MaxBlobSize:  20 * GiB,
			Pins:         []string{},
		},
		Upstreams: map[string]Upstream{
			"docker.io": {URL: "https://registry-1.docker.io"},
		},
		Database: Database{
			Sources: []string{"mirror.gcr.io/aquasec/trivy-db:2", "ghcr.io/aquasecurity/trivy-db:2"},
			Refresh: time.Hour,
			Serve:   true,
		},
		JavaDatabase: JavaDatabase{Sources: []string{"mirror.gcr.io/aquasec/trivy-java-db:1"}},
		Scanner: Scanner{
			Memory:       2 * GiB,
			Timeout:      5 * time.Minute,
			MaxLayerSize: 10 * GiB,
			TempDisk:     4 * GiB,
		},
		Platforms:  []Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}},
		Watch:      5 * time.Second,
		Exceptions: Exceptions{Files: []string{}, MaxDuration: 90 * 24 * time.Hour},
		VEX:        VEX{Files: []string{}, SignedBy: []string{}},
		Exploits:   Exploits{Refresh: 24 * time.Hour},
		Trust:      Trust{Recheck: 24 * time.Hour},
		History:    History{Retention: 90 * 24 * time.Hour},
		Schedules:  map[string]Schedule{"full-pass": {Cron: "30 3 * * 0", Do: DoFullPass}},
		Notify:     Notify{Name: "pratique"},
		Log:        Log{Level: "info", Format: "text"},
	}
}

// Default is the configuration when nobody sets anything.
func Default() Config {
	c := base()
	c.complete()
	return c
}

// complete fills in what follows from other settings.
func (c *Config) complete() {
	if c.Storage.Driver == "filesystem" {
		if _, ok := c.Storage.Parameters["rootdirectory"]; !ok {
			parameters := map[string]any{"rootdirectory": filepath.Join(c.DataDir, "blobs")}
			for k, v := range c.Storage.Parameters {
				parameters[k] = v
			}
			c.Storage.Parameters = parameters
		}
	} else if c.Storage.Spool == "" {
		c.Storage.Spool = filepath.Join(c.DataDir, "spool")
	}
	if c.Storage.Hot.Dir == "" {
		c.Storage.Hot.Dir = filepath.Join(c.DataDir, "hot")
	}
	if c.State.SQLite.Path == "" {
		c.State.SQLite.Path = filepath.Join(c.DataDir, "state.db")
	}
	if c.Database.Path != "" {
		c.Database.Sources = nil
	}
	if c.JavaDatabase.Path != "" {
		c.JavaDatabase.Sources = nil
	}
}

// DatabaseDir is where adopted vulnerability databases are kept.
func (c Config) DatabaseDir() string { return filepath.Join(c.DataDir, "db") }

// JavaDatabaseDir is where the Java database is kept.
func (c Config) JavaDatabaseDir() string { return filepath.Join(c.DataDir, "java-db") }

// TempDir is where workers make their private temporary directories.
func (c Config) TempDir() string { return filepath.Join(c.DataDir, "tmp") }
