//go:build e2e && bench

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The line to the upstream in cold pulls.
const lineRate = 40 << 20

// coldRounds of measurements that take seconds by themselves.
const coldRounds = 3

// many measures one blob and twenty clients who have none of it.
func (b *bench) many() {
	const clients = 20
	t := b.t
	var direct, last, gated []float64
	img := b.upstream.push(t, "bench/many", 1, 200<<20, false)
	layer := img.layers[0]
	b.upstream.limit(lineRate)
	for range coldRounds { // each with empty caches
		begun := time.Now()
		if _, _, err := fetch(http.DefaultClient, "http://"+b.upstream.Addr+"/v2/"+img.repo+"/blobs/"+layer); err != nil {
			t.Fatal(err)
		}
		copyFile(t, filepath.Join(b.upstream.dir, layer), filepath.Join(workdir(t, "copy"), "blob"))
		direct = append(direct, time.Since(begun).Seconds())
		before, sent := b.upstream.asked(layer)

		// A rule lets this repository through before its scan: else the scan, which
		// reads behind the same transfer, would have brought the blob in.
		p := b.startPratique("log: {level: warn}\npolicies: [" + b.unscanned() + "]")
		base := "http://" + p.Registry + "/v2/docker.io/" + img.repo
		mustServe(t, base+"/manifests/1.0")
		last = append(last, together(t, clients, base+"/blobs/"+layer, img.sizes[0]))
		if gets, bytes := b.upstream.asked(layer); gets-before != 1 || bytes-sent != img.sizes[0] {
			t.Errorf("%d upstream GETs of %d bytes, want 1 of %d", gets-before, bytes-sent, img.sizes[0])
		}
		p.Stop()

		p = b.startPratique("log: {level: warn}")
		base = "http://" + p.Registry + "/v2/docker.io/" + img.repo
		begun = time.Now()
		mustServe(t, base+"/manifests/1.0")
		together(t, clients, base+"/blobs/"+layer, img.sizes[0])
		gated = append(gated, time.Since(begun).Seconds())
		p.Stop()
	}
	b.upstream.remove(t, img)
	b.printf("### Twenty clients, one cold blob of 200 MiB, 40 MiB/s upstream\n\nMedians of %d rounds. In each, the upstream saw exactly one GET and the blob's bytes once.\n\n", coldRounds)
	b.printf("| | seconds | ratio |\n|---|---|---|\n")
	b.printf("| one direct download, and a local copy | %.2f | |\n", median(direct))
	b.printf("| the last of 20 clients (manifest let through before its scan by a rule) | %.2f | **%.2f** |\n", median(last), median(last)/median(direct))
	b.printf("| the same with the default policy: the manifest is held until the scan is done, then 20 clients | %.2f | %.2f |\n\n", median(gated), median(gated)/median(direct))
}

// together fetches url with n clients at once and returns when the last is done,
// in seconds.
func together(t *testing.T, n int, url string, size int64) float64 {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, n)
	begun := time.Now()
	for i := range n {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			_, got, err := fetch(client, url)
			if err == nil && got != size {
				err = fmt.Errorf("%d of %d bytes", got, size)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	took := time.Since(begun).Seconds()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return took
}

// pull measures an image of six layers that nobody has yet.
func (b *bench) pull() {
	t := b.t
	var ours, theirs []float64
	img := b.upstream.push(t, "bench/pull", 6, 50<<20, true)
	b.upstream.limit(lineRate)
	for range coldRounds {
		p := b.startPratique("log: {level: warn}")
		ours = append(ours, pullImage(t, "http://"+p.Registry+"/v2/docker.io/"+img.repo, img))
		p.Stop()
		addr := b.startDistributionProxy(b.upstream.Addr)
		theirs = append(theirs, pullImage(t, "http://"+addr+"/v2/"+img.repo, img))
		b.distribution.stop()
	}
	b.upstream.remove(t, img)
	b.printf("### Cold pull of an image of six layers, 300 MiB, 40 MiB/s upstream\n\nThree layers at a time, as containerd does; medians of %d rounds in turn, each with empty caches.\n\n", coldRounds)
	b.printf("| | seconds | ratio |\n|---|---|---|\n")
	b.printf("| distribution's proxy, nothing scanned | %.2f | |\n", median(theirs))
	b.printf("| Pratique: held until every layer is scanned and the verdict is made | %.2f | **%.2f** |\n\n", median(ours), median(ours)/median(theirs))
}

// pullImage pulls like containerd: manifest, config, then three layers at a time.
func pullImage(t *testing.T, base string, img benchImage) float64 {
	t.Helper()
	begun := time.Now()
	mustServe(t, base+"/manifests/1.0")
	mustServe(t, base+"/blobs/"+img.config)
	var wg sync.WaitGroup
	errs := make([]error, len(img.layers))
	places := make(chan struct{}, 3)
	for i, d := range img.layers {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			_, n, err := fetch(http.DefaultClient, base+"/blobs/"+d)
			if err == nil && n != img.sizes[i] {
				err = fmt.Errorf("%d of %d bytes", n, img.sizes[i])
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return time.Since(begun).Seconds()
}

// memory measures an idle server, and one that a great layer goes through.
func (b *bench) memory() {
	t := b.t
	b.upstream.limit(0)
	img := b.upstream.push(t, "bench/great", 1, 1<<30, false)
	p := b.startPratique("log: {level: warn}")
	time.Sleep(3 * time.Second)
	idle := rss(t, p.server)
	most := idle
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			most = max(most, rss(t, p.server))
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	base := "http://" + p.Registry + "/v2/docker.io/" + img.repo
	pullImage(t, base, img)
	close(done)
	wg.Wait()
	p.Stop()
	b.upstream.remove(t, img)
	b.printf("### Memory of the server process (RSS)\n\n| | MiB |\n|---|---|\n| idle, with the demonstration's database | %.0f |\n", float64(idle)/(1<<20))
	b.printf("| more while a layer of 1 GiB is fetched, scanned and served, at most | %.0f |\n\n", float64(most-idle)/(1<<20))
}

// remove makes room on the disk.
func (u *benchUpstream) remove(t *testing.T, img benchImage) {
	t.Helper()
	for _, d := range img.layers {
		if err := os.Remove(filepath.Join(u.dir, d)); err != nil {
			t.Fatal(err)
		}
	}
}

// fetch reads an answer to its end and returns its status and length.
func fetch(client *http.Client, url string) (int, int64, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, 0, err
	}
	req.Header.Set("Accept", accept)
	res, err := client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = res.Body.Close() }()
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return res.StatusCode, n, err
}

// rss is a process's resident memory in bytes.
func rss(t *testing.T, p *process) int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Error(err)
		return 0
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	field, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kib, err := strconv.ParseInt(field, 10, 64)
	if err != nil {
		t.Error(err)
	}
	return kib << 10
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
