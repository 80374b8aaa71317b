//go:build e2e

package e2e

import (
	"testing"
)

// attempt is one way to get at what must not be had.
type attempt struct {
	name     string
	requests []string // see siege.wire; each on a connection of its own
	// harmless: something that may be had is asked for as well.
	harmless bool
	// asks: the upstream may be asked whether such a thing is there, but for no
	// content.
	asks bool
}

// both asks by GET and HEAD.
func both(targets ...string) []string {
	var out []string
	for _, t := range targets {
		out = append(out, "GET "+t, "HEAD "+t)
	}
	return out
}

// with asks for each part of the refused image with these headers.
func with(header string) []string {
	var out []string
	for _, target := range []string{"manifests/1.0", "manifests/{bad}", "blobs/{config}", "blobs/{layer}"} {
		out = append(out, "GET /v2/docker.io/demo/vulnerable/"+target+"\n"+header)
	}
	return out
}

// attempts at an image that is refused, one that is not decided, and their
// parts. Everything refused is cached: what stands between it and the client is
// the verdict alone.
func attempts() []attempt {
	return []attempt{
		// The doors.
		{name: "tag", requests: both("/v2/docker.io/demo/vulnerable/manifests/1.0")},
		{name: "digest", requests: both("/v2/docker.io/demo/vulnerable/manifests/{bad}")},
		{name: "tag through a mirror", requests: both("/v2/demo/vulnerable/manifests/1.0?ns=docker.io")},
		{name: "digest through a mirror", requests: both("/v2/demo/vulnerable/manifests/{bad}?ns=docker.io")},
		{name: "config", requests: both("/v2/docker.io/demo/vulnerable/blobs/{config}", "/v2/demo/vulnerable/blobs/{config}?ns=docker.io")},
		{name: "layers", requests: both("/v2/docker.io/demo/vulnerable/blobs/{layer}", "/v2/docker.io/demo/vulnerable/blobs/{first}", "/v2/demo/vulnerable/blobs/{layer}?ns=docker.io")},
		{name: "manifest as a blob", requests: both("/v2/docker.io/demo/vulnerable/blobs/{bad}", "/v2/demo/vulnerable/blobs/{bad}?ns=docker.io")},
		{name: "config and layer as manifests", requests: both("/v2/docker.io/demo/vulnerable/manifests/{config}", "/v2/docker.io/demo/vulnerable/manifests/{layer}"), asks: true},
		{name: "index by tag and digest", requests: both("/v2/docker.io/demo/all-refused/manifests/1.0", "/v2/docker.io/demo/all-refused/manifests/{index}")},
		{name: "index as a blob", requests: both("/v2/docker.io/demo/all-refused/blobs/{index}")},
		{name: "children of a refused index", requests: both("/v2/docker.io/demo/all-refused/manifests/{bad}", "/v2/docker.io/demo/all-refused/manifests/{arm64}", "/v2/docker.io/demo/all-refused/blobs/{arm64}", "/v2/docker.io/demo/all-refused/blobs/{layer}")},
		{name: "refused child of an index that may be had", requests: both("/v2/docker.io/demo/mixed/manifests/{bad}", "/v2/docker.io/demo/mixed/blobs/{bad}", "/v2/docker.io/demo/mixed/blobs/{config}", "/v2/docker.io/demo/mixed/blobs/{layer}")},
		{name: "referrers of it", requests: both("/v2/docker.io/demo/vulnerable/referrers/{bad}", "/v2/docker.io/demo/vulnerable/referrers/{bad}?artifactType=application/x", "/v2/docker.io/demo/vulnerable/referrers/{layer}"), asks: true, harmless: true},
		{name: "tags of the referrers schema and of cosign", requests: both("/v2/docker.io/demo/vulnerable/manifests/sha256-{hex}", "/v2/docker.io/demo/vulnerable/manifests/sha256-{hex}.sig"), asks: true},
		{name: "list of tags", requests: both("/v2/docker.io/demo/vulnerable/tags/list"), asks: true, harmless: true},
		{name: "catalogue", requests: both("/v2/_catalog", "/v2/docker.io/_catalog", "/v2/_catalog?ns=docker.io")},

		// Other names for the same bytes.
		{name: "another repository", requests: both("/v2/docker.io/demo/copy/manifests/1.0", "/v2/docker.io/demo/copy/manifests/{bad}", "/v2/docker.io/demo/copy/blobs/{layer}")},
		{name: "another upstream", requests: both("/v2/lab/demo/vulnerable/manifests/1.0", "/v2/lab/demo/vulnerable/manifests/{bad}", "/v2/lab/demo/vulnerable/blobs/{layer}", "/v2/lab/demo/vulnerable/blobs/{bad}")},
		{name: "another upstream's name for another repository", requests: both("/v2/lab/demo/copy/manifests/{bad}", "/v2/lab/demo/copy/manifests/1.0", "/v2/lab/demo/copy/blobs/{layer}"), asks: true},
		{name: "repository of an image that may be had", requests: both("/v2/docker.io/demo/clean/manifests/{bad}", "/v2/docker.io/demo/clean/blobs/{bad}", "/v2/docker.io/demo/clean/blobs/{config}", "/v2/docker.io/demo/clean/blobs/{layer}"), asks: true},
		{name: "repository that is not there", requests: both("/v2/docker.io/demo/none/manifests/{bad}", "/v2/docker.io/demo/none/blobs/{layer}", "/v2/docker.io/demo/none/blobs/{bad}"), asks: true},
		{name: "layer shared with an image that may be had", requests: both("/v2/docker.io/demo/shared/manifests/1.0", "/v2/docker.io/demo/shared/blobs/{layer}", "/v2/docker.io/demo/shared/blobs/{first}")},

		// ns and prefix.
		{name: "ns by host and port", requests: both("/v2/demo/vulnerable/manifests/1.0?ns={host}", "/v2/demo/vulnerable/blobs/{layer}?ns={host}", "/v2/demo/vulnerable/manifests/{bad}?ns=localhost:{port}")},
		{name: "ns by other spellings of the address", requests: both("/v2/demo/vulnerable/manifests/1.0?ns=127.1:{port}", "/v2/demo/vulnerable/manifests/1.0?ns=2130706433:{port}", "/v2/demo/vulnerable/manifests/1.0?ns=0x7f000001:{port}",
			"/v2/demo/vulnerable/manifests/1.0?ns=[::ffff:127.0.0.1]:{port}", "/v2/demo/vulnerable/manifests/1.0?ns=127.0.0.1.:{port}", "/v2/demo/vulnerable/manifests/1.0?ns=127.0.0.1:0{port}")},
		{name: "ns with a user", requests: both("/v2/demo/vulnerable/manifests/1.0?ns=user:pass@docker.io", "/v2/demo/vulnerable/manifests/1.0?ns=docker.io@{host}", "/v2/demo/vulnerable/manifests/1.0?ns=user@{host}")},
		{name: "ns with a scheme or a path", requests: both("/v2/demo/vulnerable/manifests/1.0?ns=http://{host}", "/v2/demo/vulnerable/manifests/1.0?ns={host}/v2/", "/v2/vulnerable/manifests/1.0?ns={host}/demo", "/v2/demo/vulnerable/manifests/1.0?ns=docker.io%00", "/v2/demo/vulnerable/manifests/1.0?ns=docker.io%2f..")},
		{name: "ns in other cases and alphabets", requests: both("/v2/demo/vulnerable/manifests/1.0?ns=DOCKER.IO", "/v2/demo/vulnerable/manifests/1.0?ns=docKer.io", "/v2/demo/vulnerable/manifests/1.0?ns=doc%E2%84%AAer.io",
			"/v2/demo/vulnerable/manifests/1.0?ns=xn--docer-r1a.io", "/v2/demo/vulnerable/manifests/1.0?ns=d%D0%BEcker.io", "/v2/demo/vulnerable/manifests/1.0?ns=docker%E3%80%82io", "/v2/demo/vulnerable/manifests/1.0?ns=docker.io.")},
		{name: "ns of Docker Hub's hosts", requests: both("/v2/demo/vulnerable/manifests/1.0?ns=registry-1.docker.io", "/v2/demo/vulnerable/manifests/1.0?ns=index.docker.io", "/v2/demo/vulnerable/manifests/1.0?ns=registry-1.docker.io:443")},
		{name: "ns twice, empty, renamed", requests: both("/v2/demo/vulnerable/manifests/1.0?ns=docker.io&ns=lab", "/v2/demo/vulnerable/manifests/1.0?ns=lab&ns=docker.io", "/v2/demo/vulnerable/manifests/1.0?ns=", "/v2/demo/vulnerable/manifests/1.0?NS=docker.io", "/v2/demo/vulnerable/manifests/1.0?n%73=docker.io", "/v2/demo/vulnerable/manifests/1.0?x=1;ns=docker.io", "/v2/demo/vulnerable/manifests/1.0")},
		{name: "ns and prefix together", requests: both("/v2/docker.io/demo/vulnerable/manifests/1.0?ns=docker.io", "/v2/lab/demo/vulnerable/manifests/1.0?ns=docker.io", "/v2/docker.io/demo/vulnerable/blobs/{layer}?ns=lab"), asks: true},
		{name: "prefix with a port, an address, a user", requests: both("/v2/{host}/demo/vulnerable/manifests/1.0", "/v2/docker.io:443/demo/vulnerable/manifests/1.0", "/v2/127.0.0.1/demo/vulnerable/manifests/1.0", "/v2/user@docker.io/demo/vulnerable/manifests/1.0")},
		{name: "prefix in other cases and alphabets", requests: both("/v2/DOCKER.IO/demo/vulnerable/manifests/1.0", "/v2/Docker.io/demo/vulnerable/manifests/{bad}", "/v2/xn--docer-r1a.io/demo/vulnerable/manifests/1.0", "/v2/doc\u212aer.io/demo/vulnerable/manifests/1.0")},
		{name: "name in upper case", requests: both("/v2/docker.io/demo/VULNERABLE/manifests/1.0", "/v2/docker.io/Demo/vulnerable/manifests/{bad}", "/V2/docker.io/demo/vulnerable/manifests/1.0")},
		{name: "digest in upper case", requests: both("/v2/docker.io/demo/vulnerable/manifests/sha256:{HEX}", "/v2/docker.io/demo/vulnerable/manifests/SHA256:{hex}", "/v2/docker.io/demo/vulnerable/blobs/sha256:{HEX}")},

		// What Pratique serves itself is not judged, and nothing else is under its name.
		{name: "its own name before another", requests: both("/v2/pratique/demo/vulnerable/manifests/1.0", "/v2/pratique/docker.io/demo/vulnerable/manifests/1.0", "/v2/pratique/docker.io/demo/vulnerable/blobs/{layer}", "/v2/pratique/lab/demo/vulnerable/manifests/{bad}", "/v2/pratique/trivy-db/docker.io/demo/vulnerable/manifests/1.0")},
		{name: "through the served database", requests: both("/v2/pratique/trivy-db/manifests/{bad}", "/v2/pratique/trivy-db/blobs/{bad}", "/v2/pratique/trivy-db/blobs/{config}", "/v2/pratique/trivy-db/blobs/{layer}", "/v2/pratique/trivy-db/blobs/{first}", "/v2/pratique/trivy-db/blobs/{freshlayer}", "/v2/pratique/trivy-db/manifests/1.0", "/v2/pratique/trivy-db/manifests/{index}")},
		{name: "through the served database and ns", requests: both("/v2/demo/vulnerable/manifests/1.0?ns=pratique", "/v2/demo/vulnerable/blobs/{layer}?ns=pratique", "/v2/trivy-db/blobs/{layer}?ns=pratique", "/v2/pratique/trivy-db/blobs/{layer}?ns=pratique", "/v2/pratique/demo/vulnerable/manifests/1.0?ns=pratique", "/v2/docker.io/demo/vulnerable/manifests/1.0?ns=pratique")},
		{name: "the served database's name at an upstream", requests: both("/v2/pratique/trivy-db/blobs/{layer}?ns=docker.io", "/v2/docker.io/pratique/trivy-db/blobs/{layer}", "/v2/pratique/trivy-db/manifests/{bad}?ns=lab"), asks: true},
		{name: "its own name in other spellings", requests: both("/v2/PRATIQUE/demo/vulnerable/manifests/1.0", "/v2/pratique%2fdocker.io/demo/vulnerable/manifests/1.0", "/v2/pratique/../docker.io/demo/vulnerable/manifests/1.0", "/v2/pratique/trivy-db/../../docker.io/demo/vulnerable/blobs/{layer}", "/v2/pratique//docker.io/demo/vulnerable/manifests/1.0", "/v2/pratique/trivy-db/manifests/2/../../../docker.io/demo/vulnerable/manifests/1.0")},

		// Paths that two parsers read differently.
		{name: "encoded slashes", requests: both("/v2/docker.io%2fdemo%2fvulnerable/manifests/1.0", "/v2/docker.io/demo%2Fvulnerable/manifests/1.0", "/v2/docker.io/demo/vulnerable%2fmanifests%2f1.0", "/v2/docker.io/demo%252fvulnerable/manifests/1.0")},
		{name: "encoded letters", requests: both("/v2/docker.io/demo/%76ulnerable/manifests/1.0", "/v2/docker.io/demo/vulnerable/%6danifests/1.0", "/v2/docker.io/demo/vulnerable/manifests/sha256%3a{hex}", "/%762/docker.io/demo/vulnerable/manifests/1.0")},
		{name: "dots", requests: both("/v2/lab/../docker.io/demo/vulnerable/manifests/1.0", "/v2/docker.io/demo/clean/../vulnerable/manifests/1.0", "/v2/docker.io/demo/./vulnerable/manifests/1.0", "/v2/docker.io/demo/clean/manifests/../../vulnerable/manifests/{bad}", "/x/../v2/docker.io/demo/vulnerable/manifests/1.0")},
		{name: "encoded dots", requests: both("/v2/docker.io/demo/clean/%2e%2e/vulnerable/manifests/1.0", "/v2/docker.io/demo/clean/..%2fvulnerable/manifests/1.0", "/v2/docker.io/demo/clean/manifests/..%2f..%2fvulnerable%2fmanifests%2f1.0")},
		{name: "doubled slashes", requests: both("//v2/docker.io/demo/vulnerable/manifests/1.0", "/v2//docker.io/demo/vulnerable/manifests/1.0", "/v2/docker.io//demo/vulnerable/manifests/1.0", "/v2/docker.io/demo/vulnerable//manifests/1.0", "/v2/docker.io/demo/vulnerable/manifests//1.0")},
		{name: "ends", requests: both("/v2/docker.io/demo/vulnerable/manifests/1.0/", "/v2/docker.io/demo/vulnerable/manifests/1.0/.", "/v2/docker.io/demo/vulnerable/manifests/1.0%20", "/v2/docker.io/demo/vulnerable/manifests/1.0%00", "/v2/docker.io/demo/vulnerable/manifests/1.0;x=1", "/v2/docker.io/demo/vulnerable/manifests/1.0?x#y")},
		{name: "backslashes", requests: both(`/v2\docker.io\demo\vulnerable\manifests\1.0`, `/v2/docker.io/demo/clean\..\vulnerable/manifests/1.0`, "/v2/docker.io/demo%5cvulnerable/manifests/1.0")},
		{name: "reserved words in the name", requests: both("/v2/docker.io/demo/vulnerable/manifests/1.0/blobs/{layer}", "/v2/docker.io/demo/vulnerable/blobs/manifests/1.0", "/v2/docker.io/demo/vulnerable/manifests/1.0/tags/list"), asks: true},
		{name: "tag and digest", requests: both("/v2/docker.io/demo/vulnerable/manifests/1.0@{bad}", "/v2/docker.io/demo/clean/manifests/1.0@{bad}", "/v2/docker.io/demo/clean@{bad}/manifests/1.0", "/v2/docker.io/demo/clean/manifests/1.0?digest={bad}")[:6]},
		{name: "sha512 names", requests: both("/v2/docker.io/demo/vulnerable/manifests/sha512:{128}", "/v2/docker.io/demo/vulnerable/blobs/sha512:{128}", "/v2/docker.io/demo/vulnerable/manifests/sha512:{hex}{hex}", "/v2/docker.io/demo/vulnerable/manifests/sha384:{hex}", "/v2/docker.io/demo/vulnerable/blobs/md5:{hex}"), asks: true},
		{name: "very long names", requests: both("/v2/docker.io/{elements}vulnerable/manifests/1.0", "/v2/docker.io/demo/{long}/manifests/1.0", "/v2/docker.io/demo/vulnerable/manifests/{long}", "/v2/demo/vulnerable/manifests/1.0?ns={long}", "/v2/docker.io/demo/vulnerable/manifests/1.0?x={long}"), asks: true},
		{name: "uploads and mounts", requests: []string{
			"POST /v2/docker.io/demo/clean/blobs/uploads/?mount={layer}&from=docker.io/demo/vulnerable\nContent-Length: 0", "GET /v2/docker.io/demo/vulnerable/blobs/uploads/", "PUT /v2/docker.io/demo/vulnerable/manifests/1.0\nContent-Length: 0",
			"DELETE /v2/docker.io/demo/vulnerable/manifests/1.0", "PATCH /v2/docker.io/demo/vulnerable/blobs/{layer}\nContent-Length: 0"}},

		// Headers.
		{name: "Range", requests: append(with("Range: bytes=0-99"), with("Range: bytes=-99")...)},
		{name: "Range, several and odd", requests: append(with("Range: bytes=0-5,100-199"), with("Range: bytes=64-")...)},
		{name: "If-None-Match", requests: append(with("If-None-Match: *"), with("If-None-Match: \"{bad}\", \"{config}\", \"{layer}\"")...)},
		{name: "If-Range", requests: append(with("If-Range: \"{layer}\"\nRange: bytes=0-99"), with("If-Match: \"{bad}\"")...)},
		{name: "If-Modified-Since", requests: append(with("If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"), with("If-Unmodified-Since: Fri, 01 Jan 2100 00:00:00 GMT")...)},
		{name: "Accept", requests: append(with("Accept: application/vnd.docker.distribution.manifest.v1+prettyjws"), with("Accept: text/html;q=0.1, */*\nAccept: application/vnd.oci.image.manifest.v1+json")...)},
		{name: "Accept of another kind of manifest", requests: []string{
			"GET /v2/docker.io/demo/all-refused/manifests/1.0\nAccept: application/vnd.oci.image.manifest.v1+json", "GET /v2/docker.io/demo/vulnerable/manifests/1.0\nAccept: application/vnd.oci.image.index.v1+json"}},
		{name: "Accept-Encoding", requests: append(with("Accept-Encoding: zstd;q=1.0,gzip;q=0.8,deflate;q=0.5"), with("Accept-Encoding: identity;q=0\nTE: trailers, deflate")...)},
		{name: "User-Agent", requests: append(append(with("User-Agent: pratique/1.0"), with("User-Agent: trivy/0.74.0")...), with("User-Agent: kube-probe/1.34")...)},
		{name: "forwarded from loopback", requests: with("X-Forwarded-For: 127.0.0.1\nX-Real-IP: 127.0.0.1\nForwarded: for=127.0.0.1;host=docker.io;proto=https\nX-Forwarded-Host: docker.io\nX-Forwarded-Proto: https\nVia: 1.1 pratique")},
		{name: "rewritten by header", requests: with("X-Original-URL: /v2/docker.io/demo/clean/manifests/1.0\nX-Rewrite-URL: /v2/\nX-Forwarded-Prefix: /v2/lab\nX-Forwarded-Uri: /v2/")},
		{name: "harmless target, the other by header", requests: []string{"GET /v2/\nX-Original-URL: /v2/docker.io/demo/vulnerable/manifests/1.0\nX-Rewrite-URL: /v2/docker.io/demo/vulnerable/manifests/1.0"}, harmless: true},
		{name: "method by header", requests: append(with("X-HTTP-Method-Override: HEAD"), "POST /v2/docker.io/demo/vulnerable/manifests/1.0\nX-HTTP-Method-Override: GET\nX-HTTP-Method: GET\nX-Method-Override: GET\nContent-Length: 0")},
		{name: "credentials", requests: append(with("Authorization: Basic YWRtaW46YWRtaW4="), with("Authorization: Bearer e30.e30.\nCookie: admin=true\nX-Registry-Auth: e30=")...)},
		{name: "Host", requests: append(with("Host: registry-1.docker.io"), with("Host: {host}")...)},

		// The protocol.
		{name: "HTTP/1.0", requests: []string{"GET /v2/docker.io/demo/vulnerable/manifests/1.0 HTTP/1.0", "GET /v2/docker.io/demo/vulnerable/blobs/{layer} HTTP/1.0", "RAW GET /v2/docker.io/demo/vulnerable/manifests/1.0\r\n\r\n"}},
		{name: "absolute targets", requests: []string{"GET http://registry-1.docker.io/v2/docker.io/demo/vulnerable/manifests/1.0", "GET http://{host}/v2/demo/vulnerable/manifests/1.0", "GET https://user@docker.io/v2/demo/vulnerable/manifests/1.0?ns=docker.io", "GET http://registry.example/v2/docker.io/demo/vulnerable/blobs/{layer}"}},
		{name: "CONNECT and *", requests: []string{"CONNECT {host}", "CONNECT {host} HTTP/1.1\nHost: {host}", "OPTIONS *", "GET *"}, harmless: true},
		{name: "other methods", requests: []string{"OPTIONS /v2/docker.io/demo/vulnerable/manifests/1.0", "TRACE /v2/docker.io/demo/vulnerable/manifests/1.0", "PROPFIND /v2/docker.io/demo/vulnerable/manifests/1.0", "get /v2/docker.io/demo/vulnerable/manifests/1.0", "QUERY /v2/docker.io/demo/vulnerable/manifests/1.0"}},
		{name: "pipelined behind a harmless request", requests: []string{"RAW GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/docker.io/demo/vulnerable/manifests/1.0 HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/docker.io/demo/vulnerable/blobs/{layer} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}, harmless: true},
		{name: "Content-Length and Transfer-Encoding", requests: []string{
			"RAW GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v2/docker.io/demo/vulnerable/manifests/1.0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
			"RAW GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nGET /v2/docker.io/demo/vulnerable/manifests/{bad} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
			"RAW GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 99\r\n\r\nGET /v2/docker.io/demo/vulnerable/blobs/{layer} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
			"RAW GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /v2/docker.io/demo/vulnerable/blobs/{layer} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}, harmless: true},
		{name: "folded and bare lines", requests: []string{
			"RAW GET /v2/docker.io/demo/vulnerable/manifests/1.0 HTTP/1.1\nHost: x\nConnection: close\n\n",
			"RAW GET /v2/docker.io/demo/vulnerable/manifests/1.0 HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nConnection: close\r\n\r\n",
			"RAW GET\t/v2/docker.io/demo/vulnerable/manifests/1.0\tHTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
			"RAW GET /v2/ /v2/docker.io/demo/vulnerable/manifests/1.0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}},
		{name: "upgrade to h2c and to a socket", requests: append(
			with("Upgrade: h2c\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), with("Upgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")...)},
		{name: "HTTP/2 by prior knowledge", requests: []string{"RAW PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"}},
		{name: "body and Expect", requests: []string{"GET /v2/docker.io/demo/vulnerable/manifests/1.0\nExpect: 100-continue\nContent-Length: 5", "RAW GET /v2/docker.io/demo/vulnerable/manifests/1.0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nclean"}},

		// What is not decided.
		{name: "not decided, by tag and digest, past the hold", requests: both("/v2/docker.io/demo/fresh/manifests/1.0", "/v2/docker.io/demo/fresh/manifests/{fresh}", "/v2/demo/fresh/manifests/1.0?ns=docker.io")},
		{name: "not decided, its blobs", requests: both("/v2/docker.io/demo/fresh/blobs/{freshconfig}", "/v2/docker.io/demo/fresh/blobs/{freshlayer}", "/v2/docker.io/demo/fresh/blobs/{fresh}", "/v2/demo/fresh/blobs/{freshlayer}?ns=docker.io")},
		{name: "not decided, by Range and validators", requests: []string{
			"GET /v2/docker.io/demo/fresh/blobs/{freshlayer}\nRange: bytes=0-99", "GET /v2/docker.io/demo/fresh/manifests/1.0\nIf-None-Match: *", "GET /v2/docker.io/demo/fresh/manifests/{fresh}\nIf-None-Match: \"{fresh}\""}},
		{name: "not decided, through other repositories", requests: both("/v2/docker.io/demo/clean/blobs/{freshlayer}", "/v2/docker.io/demo/vulnerable/blobs/{freshlayer}", "/v2/docker.io/demo/clean/manifests/{fresh}", "/v2/lab/demo/clean/blobs/{fresh}"), asks: true},
	}
}

// TestBypass tries every door. Each answer is searched for content, and the
// upstream's record for what it should not have seen.
func TestBypass(t *testing.T) {
	t.Parallel()
	s := besiege(t)
	all := attempts()
	requests := 0
	for _, a := range all {
		t.Run(a.name, func(t *testing.T) {
			s.u.Forget()
			for _, request := range a.requests {
				requests++
				s.check(t, request, s.send(t, request), a.harmless)
			}
			for _, r := range s.saw() {
				if !a.asks || r.Blob() && r.Status < 400 {
					t.Errorf("the upstream saw %s", r)
				}
			}
		})
	}
	if len(all) < 40 {
		t.Errorf("%d attempts, want 40 or more", len(all))
	}
	t.Logf("bypass: %d named attempts, %d requests", len(all), requests)

	// What the listener for operators shows is no content either.
	t.Run("through the admin listener", func(t *testing.T) {
		addr := s.Admin[len("http://"):]
		for _, request := range both("/v2/docker.io/demo/vulnerable/manifests/1.0", "/v2/docker.io/demo/vulnerable/blobs/{layer}") {
			s.check(t, request, sendRaw(t, addr, s.wire(request+"\nHost: "+addr)), false)
		}
	})
}

// TestBypassControl: the same requests do get what may be had, and a leak of it
// is seen. A gate that refuses everything, or a search that finds nothing, would
// pass the test above.
func TestBypassControl(t *testing.T) {
	t.Parallel()
	s := besiege(t)
	s.secrets.addImage(t, "clean image", s.u.Child(t, "demo/clean:1.0", "amd64"))
	for _, request := range []string{
		"GET /v2/docker.io/demo/clean/manifests/1.0", "GET /v2/docker.io/demo/clean/manifests/{clean}", "GET /v2/demo/clean/manifests/1.0?ns=docker.io",
		"GET /v2/demo/clean/manifests/1.0?ns={host}", "GET /v2/docker.io/demo/clean/blobs/{cleanlayer}", "GET /v2/docker.io/demo/clean/blobs/{clean}",
		"GET /v2/docker.io/demo/clean/blobs/{cleanlayer}\nRange: bytes=7-70",
	} {
		if got := s.send(t, request); s.secrets.find(got) == "" {
			t.Errorf("%s: nothing found in %.300q", request, got)
		}
	}
	if got := s.send(t, "HEAD /v2/docker.io/demo/clean/manifests/1.0"); !validator.Match(got) {
		t.Errorf("HEAD of what may be had: %q", got)
	}

	// A layer of an image that may be had is its repository's, not a refused
	// one's that has it too.
	s.check(t, "GET shared", s.send(t, "GET /v2/docker.io/demo/shared/blobs/{cleanlayer}"), false)
}
