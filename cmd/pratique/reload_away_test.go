package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pratique/internal/redis/redistest"
	"pratique/store/s3test"
)

// TestReloadWhileTheStateIsAway applies policies, and what is kept in the state when
// that is back.
func TestReloadWhileTheStateIsAway(t *testing.T) {
	upstream := startSample(t)
	state, objects := redistest.Start(t), s3test.Start(t)
	r := &reloadable{file: configuration(t, upstream.host, demoDatabase)}
	dir := filepath.Dir(r.file)
	r.policy = filepath.Join(dir, "policy.yaml")
	rewrite(t, r.policy, servesAll)
	exceptions := filepath.Join(dir, "exceptions.yaml")
	rewrite(t, exceptions, "exceptions: []\n")
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	r.text = string(text) + fmt.Sprintf(`policies: [%q]
exceptions: {files: [%q]}
watch: 0s
state: {redis: {url: %q}}
storage:
  driver: s3
  parameters: {regionendpoint: "http://%s", region: %s, bucket: %s, accesskey: %s, secretkey: %s, secure: false, forcepathstyle: true}
`, r.policy, exceptions, state.URL(), objects.Addr, s3test.Region, objects.Bucket(), s3test.AccessKey, s3test.SecretKey)
	rewrite(t, r.file, r.text)
	r.product = startServe(t, r.file)
	r.ready(t)
	if got := r.manifest(t, cleanPath); got != http.StatusOK {
		t.Fatalf("at first: %d", got)
	}

	state.Kill()
	rewrite(t, r.policy, refuses)
	rewrite(t, exceptions, fmt.Sprintf("exceptions:\n  - {finding: CVE-2020-0001, repository: \"lab/**\", reason: away, author: ann, expires: %s}\n",
		time.Now().AddDate(0, 1, 0).Format(time.DateOnly)))
	status, out, body := r.reload(t)
	if status != http.StatusOK || len(out.Changed) != 1 {
		t.Errorf("reload while the state is away = %d %s", status, body)
	}
	// It is decided anew, by policies that nobody can ask the state for.
	if got := r.manifest(t, cleanPath); got != http.StatusServiceUnavailable {
		t.Errorf("under a policy that nothing was decided by: %d", got)
	}
	if _, body := get(t, "http://"+r.admin+"/readyz"); !strings.Contains(body, "exceptions and schedules are read again when the state answers") {
		t.Errorf("/readyz\n%s", body)
	}
	// A mistake is one, whether the state answers or not.
	rewrite(t, r.policy, "name: x\nrulez: []\n")
	if status, _, body := r.reload(t); status != http.StatusUnprocessableEntity {
		t.Errorf("reload of a mistake = %d %s", status, body)
	}
	rewrite(t, r.policy, refuses)

	state.Run()
	eventually(t, func() bool { return r.manifest(t, cleanPath) == http.StatusForbidden })
	eventually(t, func() bool {
		got := runCommand(t, "http://"+r.admin, "exception", "list")
		return got.code == exitOK && strings.Contains(got.out, "CVE-2020-0001")
	})
	eventually(t, func() bool { return strings.Contains(r.log.String(), "the state answers again") })
}
