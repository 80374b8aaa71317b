package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestSummarize(t *testing.T) {
	tests := map[string]struct {
		in    string
		want  counts
		shows []string
	}{
		"passed, failed and skipped are told apart": {
			in: `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"boom\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestC","Output":"no skopeo\n"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p","Elapsed":1.5}`,
			want:  counts{passed: 1, failed: 1, skipped: 1},
			shows: []string{"--- FAIL p TestB\nboom", "--- SKIP p TestC\nno skopeo", "FAIL p 1.5s"},
		},
		"a build that fails is a failure and is shown": {
			in: `{"ImportPath":"p [p.test]","Action":"build-output","Output":"x.go:1: undefined\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`,
			want:  counts{failed: 1},
			shows: []string{"x.go:1: undefined"},
		},
		"a panic shows the test that was running": {
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: x\n"}
{"Action":"fail","Package":"p"}`,
			want:  counts{failed: 1},
			shows: []string{"UNFINISHED p TestA\npanic: x"},
		},
		"go's own words are passed on": {
			in:    "go: cannot find main module",
			want:  counts{},
			shows: []string{"cannot find main module"},
		},
		"packages without tests are quiet": {
			in:   `{"Action":"skip","Package":"p"}`,
			want: counts{},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			got, err := summarize(strings.NewReader(tc.in), &out)
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("counts = %v, want %v", got, tc.want)
			}
			for _, s := range tc.shows {
				if !strings.Contains(out.String(), s) {
					t.Errorf("output lacks %q:\n%s", s, out.String())
				}
			}
		})
	}
}
