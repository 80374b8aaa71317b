package upstream

import (
	"net/netip"
	"testing"
)

func TestClassify(t *testing.T) {
	tests := []struct {
		want  class
		addrs []string
	}{
		{public, []string{"1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1", "192.167.0.1", "2606:4700::1111",
			"::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"}},
		{inside, []string{"127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255",
			"::1", "fc00::1", "fd12::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1",
			"2002:7f00:1::", "2002:c0a8:101::1"}},
		{never, []string{"0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
			"192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "100.100.100.200", "168.63.129.16",
			"::", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "fd00:ec2::254", "2001:db8::1", "2001::1", "100::1", "::7f00:1",
			"::ffff:0:7f00:1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "4000::1"}},
	}
	for _, tt := range tests {
		for _, a := range tt.addrs {
			if got := classify(netip.MustParseAddr(a)); got != tt.want {
				t.Errorf("%s is class %d, want %d", a, got, tt.want)
			}
		}
	}
	if classify(netip.Addr{}) != never {
		t.Error("the zero address")
	}
}

func TestGuard(t *testing.T) {
	tests := []struct {
		address string
		private bool
		ok      bool
	}{
		{"1.1.1.1:443", false, true},
		{"1.1.1.1:443", true, true},
		{"10.0.0.1:443", false, false},
		{"10.0.0.1:443", true, true},
		{"[::ffff:10.0.0.1]:443", false, false},
		{"169.254.169.254:80", true, false},
		{"[fe80::1%lo]:443", true, false},
		{"/run/docker.sock", true, false},
		{"", true, false},
	}
	for _, tt := range tests {
		err := guard(tt.private)(t.Context(), "tcp", tt.address, nil)
		if (err == nil) != tt.ok {
			t.Errorf("%q, private %v: %v", tt.address, tt.private, err)
		}
	}
}

func TestParseChallenges(t *testing.T) {
	tests := []struct {
		name, in, scheme string
		params           map[string]string
	}{
		{"docker hub", `Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull"`, "bearer",
			map[string]string{"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": "repository:library/nginx:pull"}},
		{"spaces and case", `BEARER Realm = "https://a/b" , Service=x`, "bearer", map[string]string{"realm": "https://a/b", "service": "x"}},
		{"commas inside quotes", `Bearer realm="https://a",scope="repository:x:pull,push"`, "bearer", map[string]string{"realm": "https://a", "scope": "repository:x:pull,push"}},
		{"escapes", `Bearer realm="a\"b\\c"`, "bearer", map[string]string{"realm": `a"b\c`}},
		{"several", `Negotiate, Basic realm="x", Bearer realm="https://a"`, "bearer", map[string]string{"realm": "https://a"}},
		{"basic", `Basic realm="Registry Realm"`, "basic", map[string]string{"realm": "Registry Realm"}},
		{"unfinished", `Bearer realm="https://a`, "bearer", map[string]string{}},
		{"none", `Negotiate`, "", nil},
		{"empty", ``, "", nil},
		{"nonsense", `=,="",`, "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, ok := pickChallenge(map[string][]string{"Www-Authenticate": {tt.in}})
			if ok != (tt.scheme != "") || c.scheme != tt.scheme {
				t.Fatalf("scheme %q, %v", c.scheme, ok)
			}
			for k, v := range tt.params {
				if c.params[k] != v {
					t.Errorf("%s = %q, want %q", k, c.params[k], v)
				}
			}
		})
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a",service=b, Basic realm="c\"d"`)
	f.Add(`=,="",`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges(s) {
			if c.scheme == "" || c.params == nil {
				t.Errorf("%q gives %+v", s, c)
			}
		}
	})
}
