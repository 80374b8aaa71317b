package web_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pratique/web"
)

type fakeCache struct{ fail error }

func (f fakeCache) Status(context.Context) (web.CacheStatus, error) {
	return web.CacheStatus{Bytes: 5, OldestUse: &now}, f.fail
}

func (f fakeCache) MakeRoom(_ context.Context, to int64, dry bool) (web.CacheEvicted, error) {
	return web.CacheEvicted{DryRun: dry, KeptBytes: to}, f.fail
}

func (f fakeCache) Pins(context.Context) ([]web.CachePin, error) { return nil, f.fail }

func TestCache(t *testing.T) {
	works, fails := fakeCache{}, fakeCache{errors.New("boom")}
	for _, tt := range []struct {
		request string
		cache   web.Cache
		status  int
		body    string
	}{
		{"GET /api/v1/cache", works, 200, `"bytes":5,"maxBytes":0,"unusedForSeconds":0,"pinnedBytes":0,"otherBytes":0,"oldestUse":"2026-11-23T12:00:00Z","refetchedBytes":0,"last":null`},
		{"GET /api/v1/cache", fails, 500, ""},
		{"GET /api/v1/cache", nil, 503, "not available"},
		{"POST /api/v1/cache/evict", works, 200, `{"dryRun":false,"blobs":0,"bytes":0,"keptBytes":-1,"overBytes":0,"images":[],"more":0}`},
		{"POST /api/v1/cache/evict?to=7&dryRun=true", works, 200, `{"dryRun":true,"blobs":0,"bytes":0,"keptBytes":7,`},
		{"POST /api/v1/cache/evict?to=-1", works, 400, "to is no number of bytes"},
		{"POST /api/v1/cache/evict?to=1GiB", works, 400, "to is no number of bytes"},
		{"POST /api/v1/cache/evict?dryRun=perhaps", works, 400, "dryRun is neither"},
		{"GET /api/v1/cache/evict", works, 405, ""},
		{"POST /api/v1/cache/evict", fails, 500, ""},
		{"POST /api/v1/cache/evict", nil, 503, "not available"},
		{"GET /api/v1/cache/pins", works, 200, `{"pins":[]}`},
		{"GET /api/v1/cache/pins", fails, 500, ""},
		{"GET /api/v1/cache/pins", nil, 503, "not available"},
	} {
		t.Run(fmt.Sprint(tt.request, tt.cache), func(t *testing.T) {
			method, path, _ := strings.Cut(tt.request, " ")
			rec := httptest.NewRecorder()
			web.New(web.Config{Cache: tt.cache}).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, http.NoBody))
			body := rec.Body.String()
			compact := strings.NewReplacer("\n", "", " ", "").Replace(body)
			if rec.Code != tt.status || !strings.Contains(body, tt.body) && !strings.Contains(compact, tt.body) {
				t.Errorf("%d %s, want %d %s", rec.Code, body, tt.status, tt.body)
			}
		})
	}
}
