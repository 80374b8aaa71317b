package redis

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// options reads cfg.URL.
func options(cfg Config) (*redis.UniversalOptions, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("%w address of redis: not a URL", pratique.ErrInvalid) // err would show a password
	}
	scheme, kind, _ := strings.Cut(u.Scheme, "+")
	o := &redis.UniversalOptions{
		Username: cfg.Username, Password: cfg.Password, SentinelPassword: cfg.SentinelPassword,
		ClientName: "pratique-" + cfg.Replica, ReadTimeout: cfg.Timeout, WriteTimeout: cfg.Timeout, DialTimeout: cfg.Timeout,
		// One quick retry for a connection that the server closed; what takes longer is
		// told to the caller, who knows whether to wait.
		MaxRetries: 1, ContextTimeoutEnabled: true, DisableIdentity: true,
	}
	switch scheme {
	case "redis":
	case "rediss":
		if o.TLSConfig = cfg.TLS.Clone(); o.TLSConfig == nil {
			o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	default:
		return nil, fmt.Errorf("%w address of redis: scheme %q; want redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster or rediss+cluster", pratique.ErrInvalid, u.Scheme)
	}
	if u.User != nil {
		return nil, fmt.Errorf("%w address of redis: has a user in it; say it by username and passwordFile", pratique.ErrInvalid)
	}
	for host := range strings.SplitSeq(u.Host, ",") {
		port := "6379"
		if kind == "sentinel" {
			port = "26379"
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		o.Addrs = append(o.Addrs, host)
	}
	rest := strings.Trim(u.Path, "/")
	switch kind {
	case "sentinel":
		o.MasterName, rest, _ = strings.Cut(rest, "/")
		if o.MasterName == "" {
			return nil, fmt.Errorf("%w address of redis: no name of a master, as in redis+sentinel://HOST:26379/MASTER", pratique.ErrInvalid)
		}
	case "cluster":
		o.IsClusterMode = true
		if rest != "" {
			return nil, fmt.Errorf("%w address of redis: a cluster has one database only", pratique.ErrInvalid)
		}
	case "":
		if len(o.Addrs) > 1 {
			return nil, fmt.Errorf("%w address of redis: several hosts need +sentinel or +cluster", pratique.ErrInvalid)
		}
	default:
		return nil, fmt.Errorf("%w address of redis: %q; want sentinel or cluster after the plus", pratique.ErrInvalid, kind)
	}
	if rest != "" {
		if o.DB, err = strconv.Atoi(rest); err != nil || o.DB < 0 {
			return nil, fmt.Errorf("%w address of redis: database %q is no number", pratique.ErrInvalid, rest)
		}
	}
	return o, nil
}

// safeURL is the URL as it may be shown.
func safeURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(address that is no URL)"
	}
	return u.Redacted()
}

func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// unreachable is the hook that marks errors which say nothing of what was asked, and
// ends the use of a state of a newer release.
type unreachable struct{ outdated func() bool }

func (unreachable) DialHook(next redis.DialHook) redis.DialHook { return next }

func (u unreachable) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if u.outdated() {
			cmd.SetErr(errAway)
			return errAway
		}
		began := time.Now()
		err := awaySince(ctx, began, next(ctx, cmd))
		if err != nil {
			cmd.SetErr(err)
		}
		return err
	}
}

func (u unreachable) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if u.outdated() {
			for _, cmd := range cmds {
				cmd.SetErr(errAway)
			}
			return errAway
		}
		began := time.Now()
		err := awaySince(ctx, began, next(ctx, cmds))
		for _, cmd := range cmds {
			if e := cmd.Err(); e != nil {
				cmd.SetErr(awaySince(ctx, began, e))
			}
		}
		return err
	}
}

// errAway is what every command fails with once the state is of a newer release.
var errAway = fmt.Errorf("%w: %w", store.ErrUnreachable, errOutdated)

// away is awaySince of what was asked just now.
func away(ctx context.Context, err error) error { return awaySince(ctx, time.Now(), err) }

// awaySince wraps err with store.Silence unless it is an answer or the caller's own
// end.
func awaySince(ctx context.Context, asked time.Time, err error) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, store.ErrUnreachable) || errors.Is(err, redis.Nil) || errors.Is(err, redis.TxFailedErr) {
		return err
	}
	var answer redis.Error
	if errors.As(err, &answer) && !passing(answer.Error()) {
		return err
	}
	return &store.Silence{Asked: asked, Err: err}
}

// passing reports whether an answer says that the server cannot do its work now: it
// is starting, has lost its master, has become a replica, or may not write.
func passing(answer string) bool {
	for _, word := range []string{"LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS", "UNBLOCKED", "BUSY", "OOM"} {
		if strings.HasPrefix(answer, word+" ") {
			return true
		}
	}
	return strings.HasPrefix(answer, "ERR max number of clients")
}
