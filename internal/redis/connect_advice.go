package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"pratique/store"
)

// advised is an error of the start with what to do about it, in words of the
// configuration.
func advised(cfg Config, err error) error {
	if advice := advice(cfg, err); advice != "" {
		return fmt.Errorf("%w; %s", err, advice)
	}
	return err
}

func advice(cfg Config, err error) string {
	scheme, _, _ := strings.Cut(cfg.URL, "://")
	secure, sentinel := strings.HasPrefix(scheme, "rediss"), strings.HasSuffix(scheme, "+sentinel")
	text := err.Error()
	said := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	var header tls.RecordHeaderError
	var lookup *net.DNSError
	var refused *net.OpError
	switch {
	case sentinel && said("all sentinels") && said("WRONGPASS", "NOAUTH", "without any password"):
		return "the sentinels want their own password, or another one: state.redis.sentinelPasswordFile"
	case sentinel && said("all sentinels") && said("redis: nil"):
		return "the sentinels answer and watch no master of that name: state.redis.url is " + scheme + "://HOST:PORT/MASTER"
	case said("WRONGPASS", "NOAUTH", "AUTH <password> called without any password"):
		return "look at state.redis.username and state.redis.passwordFile: the server wants the name and password of an ACL user (ACL SETUSER), or the one password of requirepass and no name"
	case said("NOPERM"):
		return fmt.Sprintf("the ACL user needs ~%s:* &%[1]s:* +@all -@dangerous +config|get +info", cfg.Prefix)
	case errors.As(err, new(x509.UnknownAuthorityError)), said("certificate signed by unknown authority"):
		return "the server's certificate is of an authority that this machine does not trust: name the file with its certificate in state.redis.ca"
	case errors.As(err, new(x509.HostnameError)):
		return "the server's certificate is for other names: use one of them in state.redis.url, or have a certificate made for this one"
	case said("certificate required", "bad certificate", "unknown certificate authority"):
		return "the server wants a client certificate that it trusts: state.redis.cert and state.redis.key"
	case secure && (errors.As(err, &header) || said("first record does not look like a TLS handshake")):
		return "the server speaks no TLS there: the address begins with redis:// or is another port"
	case said("MOVED ", "CROSSSLOT"):
		return "the server is part of a cluster: the address begins with redis+cluster:// (rediss+cluster:// with TLS)"
	case said("cluster support disabled"):
		return "the server is no part of a cluster: the address begins with redis:// (rediss:// with TLS)"
	case said("unknown command"):
		return "Redis 7 or later is needed"
	case errors.As(err, &lookup):
		return "nobody knows that name here: look at state.redis.url"
	case errors.As(err, &refused), errors.Is(err, store.ErrUnreachable), sentinel && said("all sentinels"):
		if secure && said("deadline exceeded", "i/o timeout") {
			return "it does not answer: where it speaks no TLS the address begins with redis://; else look whether the server runs, and whether the network leads to it from here"
		}
		if !secure && (errors.Is(err, io.EOF) || said("EOF", "connection reset")) {
			return "it ended the connection: where it speaks TLS the address begins with rediss://"
		}
		return "look whether the server runs, and whether state.redis.url and the network lead to it from here"
	}
	return ""
}
