package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"pratique/internal/redis"
	"pratique/internal/sqlite"
	"pratique/store"
)

// state is where a fleet is: DIR/state.db, or a Redis with documents in DIR/storage.
type state interface { //nolint:interfacebloat // what fill and update use of it
	store.Catalog
	store.Tags
	store.Pulls
	store.Inventories
	store.Components
	store.Reports
	store.Fleet
	store.Near
	Close() error
}

// work is what a Redis did so far.
type work struct {
	Commands int     // those inside scripts too
	CPU      float64 // seconds of its process
	Bytes    int     // that it holds now
}

func openState(ctx context.Context, dir, url string) (state, error) {
	if url == "" {
		return sqlite.Open(ctx, filepath.Join(dir, "state.db"))
	}
	quiet := slog.New(slog.DiscardHandler)
	blobs, err := store.OpenBlobs(ctx, store.BlobsConfig{Parameters: map[string]any{"rootdirectory": filepath.Join(dir, "storage")}, Log: quiet})
	if err != nil {
		return nil, err
	}
	db, err := redis.Open(ctx, redis.Config{URL: url, Documents: blobs, Timeout: time.Minute, Log: quiet})
	if err != nil {
		return nil, errors.Join(err, blobs.Close())
	}
	return shared{db, blobs}, nil
}

// shared is a state in Redis with the store of its documents.
type shared struct {
	*redis.DB
	blobs *store.Blobs
}

func (s shared) Close() error { return errors.Join(s.DB.Close(), s.blobs.Close()) }

// workOf asks a Redis, alone at this address, what it did. Of no Redis it is nothing.
func workOf(ctx context.Context, url string) (w work, err error) {
	if url == "" {
		return w, nil
	}
	options, err := goredis.ParseURL(url)
	if err != nil {
		return w, err
	}
	c := goredis.NewClient(options)
	defer func() { err = errors.Join(err, c.Close()) }()
	info, err := c.InfoMap(ctx, "memory", "commandstats", "cpu").Result()
	if err != nil {
		return w, err
	}
	if w.Bytes, err = strconv.Atoi(info["Memory"]["used_memory"]); err != nil {
		return w, err
	}
	for _, stats := range info["Commandstats"] {
		for field := range strings.SplitSeq(stats, ",") {
			if value, ok := strings.CutPrefix(field, "calls="); ok {
				n, err := strconv.Atoi(value)
				if err != nil {
					return w, err
				}
				w.Commands += n
			}
		}
	}
	for _, name := range []string{"used_cpu_user", "used_cpu_sys"} {
		n, err := strconv.ParseFloat(info["CPU"][name], 64)
		if err != nil {
			return w, err
		}
		w.CPU += n
	}
	return w, nil
}

// worked is seconds, with what Redis did meanwhile.
func worked(ctx context.Context, url string, f func() error) (took float64, w work, err error) {
	before, err := workOf(ctx, url)
	if err != nil {
		return 0, w, err
	}
	if took, err = seconds(f); err != nil {
		return took, w, err
	}
	w, err = workOf(ctx, url)
	return took, work{w.Commands - before.Commands, w.CPU - before.CPU, w.Bytes}, err
}
