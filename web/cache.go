package web

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// Cache is what the cache keeps, and how it makes room.
type Cache interface {
	Status(ctx context.Context) (CacheStatus, error)
	// MakeRoom brings the cache to its limits, or to another number of bytes for once,
	// if that is not negative. With dry it only says what would go.
	MakeRoom(ctx context.Context, to int64, dry bool) (CacheEvicted, error)
	Pins(ctx context.Context) ([]CachePin, error)
}

// CacheStatus is what GET /api/v1/cache answers.
type CacheStatus struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
	// MaxBytes is cache.maxSize; 0 is no limit.
	MaxBytes int64 `json:"maxBytes"`
	// UnusedFor is cache.unusedFor in seconds; 0 is for ever.
	UnusedFor int64 `json:"unusedForSeconds"`
	// PinnedBytes are those of images that cache.pins keep, OtherBytes those of
	// manifests and of what no manifest names. Neither goes to make room.
	PinnedBytes int64 `json:"pinnedBytes"`
	OtherBytes  int64 `json:"otherBytes"`
	// OldestUse is when that was used which would go next; null when nothing may go.
	OldestUse *time.Time `json:"oldestUse"`
	// RefetchedBytes were removed since the start and fetched again.
	RefetchedBytes int64 `json:"refetchedBytes"`
	// Last is the last eviction since the start that had something to do, or null.
	Last *CacheEviction `json:"last"`
}

// CacheEviction is how an eviction went.
type CacheEviction struct {
	At    time.Time `json:"at"`
	Took  float64   `json:"seconds"`
	Blobs int       `json:"blobs"`
	Bytes int64     `json:"bytes"`
	// UnusedSince is the most recent use of what went; null when nothing did.
	UnusedSince *time.Time `json:"unusedSince"`
	// OverBytes are more than was to stay.
	OverBytes int64  `json:"overBytes"`
	Error     string `json:"error"`
}

// CacheEvicted is what POST /api/v1/cache/evict answers.
type CacheEvicted struct {
	DryRun    bool  `json:"dryRun"`
	Blobs     int   `json:"blobs"`
	Bytes     int64 `json:"bytes"`
	KeptBytes int64 `json:"keptBytes"`
	OverBytes int64 `json:"overBytes"` // more than was to stay
	// Images are those that lost blobs, the first to go first; at most 1000.
	Images []CacheEvictedImage `json:"images"`
	More   int                 `json:"more"` // images that are not listed
}

// CacheEvictedImage is one image that lost blobs, or would.
type CacheEvictedImage struct {
	Ref    string        `json:"ref"` // with digest
	Digest digest.Digest `json:"digest"`
	Blobs  int           `json:"blobs"`
	Bytes  int64         `json:"bytes"`
	UsedAt time.Time     `json:"usedAt"`
	Reason string        `json:"reason"` // size: least recently used; unused: for longer than cache.unusedFor
}

// CachePin is what one of cache.pins keeps.
type CachePin struct {
	Pin   string `json:"pin"`
	Blobs int    `json:"blobs"`
	Bytes int64  `json:"bytes"`
}

// CachePins is what GET /api/v1/cache/pins answers.
type CachePins struct {
	Pins []CachePin `json:"pins"`
}

// MaxEvictedImages is how many images an answer lists.
const MaxEvictedImages = 1000

// cacheStatus answers GET /api/v1/cache.
func (s *server) cacheStatus(w http.ResponseWriter, r *http.Request) error {
	if s.Cache == nil {
		return unavailable("the cache")
	}
	out, err := s.Cache.Status(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// cacheEvict answers POST /api/v1/cache/evict?dryRun=true&to=BYTES.
func (s *server) cacheEvict(w http.ResponseWriter, r *http.Request) error {
	if s.Cache == nil {
		return unavailable("the cache")
	}
	query := r.URL.Query()
	to, dry := int64(-1), false
	var err error
	if text := query.Get("dryRun"); text != "" {
		if dry, err = strconv.ParseBool(text); err != nil {
			return badRequest("dryRun is neither true nor false: "+text, "write dryRun=true to see what would go")
		}
	}
	if text := query.Get("to"); text != "" {
		if to, err = strconv.ParseInt(text, 10, 64); err != nil || to < 0 {
			return badRequest("to is no number of bytes: "+text, fmt.Sprintf("write to=%d for 10 GiB", 10<<30))
		}
	}
	out, err := s.Cache.MakeRoom(r.Context(), to, dry)
	if err != nil {
		return err
	}
	if out.Images == nil {
		out.Images = []CacheEvictedImage{}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// cachePins answers GET /api/v1/cache/pins.
func (s *server) cachePins(w http.ResponseWriter, r *http.Request) error {
	if s.Cache == nil {
		return unavailable("the cache")
	}
	pins, err := s.Cache.Pins(r.Context())
	if err != nil {
		return err
	}
	if pins == nil {
		pins = []CachePin{}
	}
	writeJSON(w, http.StatusOK, CachePins{Pins: pins})
	return nil
}
