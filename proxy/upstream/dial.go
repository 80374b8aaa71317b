package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// errForbidden: the name led to an address that must not be dialled.
var errForbidden = errors.New("address not permitted")

// guard refuses connections by the address that is really dialled, after every
// resolution, so that a name that changes its mind is held to the rule too.
func guard(private bool) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%s: %w", address, errForbidden)
		}
		switch class := classify(ap.Addr()); {
		case class == public, class == inside && private:
			return nil
		case class == inside:
			return fmt.Errorf("%s is a private address and the upstream is not configured as private: %w", ap.Addr(), errForbidden)
		}
		return fmt.Errorf("%s is never dialled: %w", ap.Addr(), errForbidden)
	}
}

// class of an address.
type class int

const (
	never  class = iota // metadata, link-local, multicast, reserved
	inside              // loopback, private, carrier-grade NAT
	public
)

var (
	// metadataNets are metadata services at addresses that look private or
	// public (AWS over IPv6, Alibaba, Azure); the usual one is link-local.
	metadataNets = prefixes("fd00:ec2::254/128", "100.100.100.200/32", "168.63.129.16/32")
	// privateNets may be reached when the operator says so. 64:ff9b:1::/48 is
	// NAT64 for local use (RFC 8215).
	privateNets = prefixes(
		"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
		"::1/128", "fc00::/7", "64:ff9b:1::/48",
	)
	// reservedNets are IANA's special-purpose registries: no registry is there.
	reservedNets = prefixes(
		"0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "3fff::/20",
	)
	globalUnicast6 = netip.MustParsePrefix("2000::/3")
	nat64          = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4         = netip.MustParsePrefix("2002::/16")
)

func prefixes(ss ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func contains(nets []netip.Prefix, a netip.Addr) bool {
	for _, n := range nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// classify looks through the forms in which IPv6 carries an IPv4 address.
func classify(a netip.Addr) class {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return never
	}
	if a.Is6() {
		b := a.As16()
		switch {
		case nat64.Contains(a):
			return classify(netip.AddrFrom4([4]byte(b[12:16])))
		case sixTo4.Contains(a):
			return classify(netip.AddrFrom4([4]byte(b[2:6])))
		}
	}
	switch {
	case contains(metadataNets, a):
		return never
	case contains(privateNets, a):
		return inside
	case contains(reservedNets, a), a.Is6() && !globalUnicast6.Contains(a):
		return never
	}
	return public
}
