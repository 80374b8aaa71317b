package redis

import (
	"testing"

	"pratique/store/storetest"
)

func TestPulls(t *testing.T) {
	modes(t, func(t *testing.T, url string) { storetest.Pulls(t, fresh(url)) })
}

func TestPullLog(t *testing.T) {
	modes(t, func(t *testing.T, url string) { storetest.PullLog(t, fresh(url)) })
}

func TestPullers(t *testing.T) {
	modes(t, func(t *testing.T, url string) { storetest.Pullers(t, fresh(url)) })
}

func TestExceptions(t *testing.T) {
	modes(t, func(t *testing.T, url string) { storetest.Exceptions(t, fresh(url)) })
}

func TestAttestations(t *testing.T) {
	modes(t, func(t *testing.T, url string) { storetest.Attestations(t, fresh(url)) })
}

func TestPushes(t *testing.T) {
	modes(t, func(t *testing.T, url string) { storetest.Pushes(t, fresh(url)) })
}

func TestOutbox(t *testing.T) {
	modes(t, func(t *testing.T, url string) { storetest.Outbox(t, fresh(url)) })
}
