package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pratique/tools/images"
	"pratique/web"
)

// counted is the value of a metric without labels.
func (p *product) counted(t *testing.T, metric string) float64 {
	t.Helper()
	_, body := get(t, "http://"+p.admin+"/metrics")
	m := regexp.MustCompile(`(?m)^` + metric + ` (\S+)$`).FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no metric %s", metric)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestEvictedImageIsPulledAgain: what was removed costs its bytes, and no analysis;
// what is pinned stays; verdicts do not depend on either.
func TestEvictedImageIsPulledAgain(t *testing.T) {
	upstream := startSample(t)
	file := configuration(t, upstream.host, demoDatabase)
	extra := "\ncache: {maxSize: 10GiB, unusedFor: 30d, pins: ['lab/" + strings.Replace(images.MultiArch, ":", ":*", 1) + "', 'lab/nothing/**']}\n"
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(extra)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p := startServe(t, file)
	p.ready(t)
	server := "http://" + p.admin
	pull := func(image string) {
		t.Helper()
		if _, err := p.pull(t, "lab/"+image); err != nil {
			t.Fatal(err)
		}
	}
	pull(images.Clean)
	pull(images.MultiArch)
	if _, err := p.pull(t, "lab/"+images.Vulnerable); !refused(err) {
		t.Fatalf("%v", err)
	}
	analyses := p.counted(t, "pratique_scanner_analyses_total")

	var plan, done web.CacheEvicted
	evict := func(out *web.CacheEvicted, args ...string) {
		t.Helper()
		r := runCommand(t, server, append([]string{"cache", "evict", "-o", "json"}, args...)...)
		if r.code != 0 {
			t.Fatalf("exit %d: %s", r.code, r.errout)
		}
		if err := json.Unmarshal([]byte(r.out), out); err != nil {
			t.Fatal(err)
		}
	}
	evict(&done)
	if done.Blobs != 0 {
		t.Errorf("within the limits: %+v", done)
	}
	evict(&plan, "--to", "0", "--dry-run")
	fetched := upstream.asked()
	pull(images.Clean)
	if n := upstream.asked() - fetched; n != 0 || !plan.DryRun || plan.Blobs == 0 {
		t.Errorf("a dry run removed something: %d blobs fetched, %+v", n, plan)
	}
	evict(&done, "--to", "0")
	if done.Blobs != plan.Blobs || done.Bytes != plan.Bytes || done.OverBytes == 0 {
		t.Errorf("done %+v, planned %+v", done, plan)
	}
	var refs []string
	for _, img := range done.Images {
		refs = append(refs, img.Ref)
		if img.Reason != "size" || img.Blobs == 0 || img.Bytes == 0 {
			t.Errorf("%+v", img)
		}
	}
	if all := strings.Join(refs, " "); !strings.Contains(all, "lab/"+images.Clean+"@") || !strings.Contains(all, "lab/"+images.Vulnerable+"@") || strings.Contains(all, images.MultiArch) {
		t.Errorf("images %s", all)
	}

	fetched = upstream.asked()
	pull(images.MultiArch)
	if n := upstream.asked() - fetched; n != 0 {
		t.Errorf("%d blobs of a pinned image were fetched again", n)
	}
	pull(images.Clean)
	if _, err := p.pull(t, "lab/"+images.Vulnerable); !refused(err) {
		t.Errorf("%v", err)
	}
	if upstream.asked() == fetched {
		t.Error("nothing was fetched again")
	}
	if n := p.counted(t, "pratique_scanner_analyses_total") - analyses; n != 0 {
		t.Errorf("%v analyses after the eviction", n)
	}
	if p.counted(t, "pratique_cache_refetched_bytes_total") == 0 || p.counted(t, `pratique_cache_evicted_bytes_total\{reason="size"\}`) != float64(done.Bytes) {
		t.Error("the metrics do not tell")
	}

	for args, want := range map[string]string{
		"cache status":                  `(?s)kept +[\d.]+ .iB in \d+ blobs\nlimit +10.0 GiB \(0 % used\)\nkept unused +30d\npinned +[1-9].*fetched again.*last eviction.*none used since`,
		"cache pins":                    `(?s)PIN +BLOBS +SIZE\n.*:\*\S* +[1-9]\d* +\d.*\nlab/nothing/\*\* +0 +0 B\n`,
		"cache evict --to 0 --dry-run":  `(?s)IMAGE +LAST USED +BLOBS +SIZE +WHY\nlab/.*least recently used\n.* would go, .* more than wanted`,
		"cache evict":                   `0 B in 0 blobs removed`,
		"cache evict --to half":         `want a size such as 512MiB`,
		"cache pins of":                 `unexpected argument`,
		"cache status --server nowhere": `no answer`,
	} {
		if r := runCommand(t, server, strings.Fields(args)...); !regexp.MustCompile(want).MatchString(r.out + r.errout) {
			t.Errorf("%s: exit %d\n%s%s\nwant %s", args, r.code, r.out, r.errout, want)
		}
	}
}
