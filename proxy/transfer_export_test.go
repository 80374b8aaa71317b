package proxy

import "github.com/opencontainers/go-digest"

// Sources tells how many repositories wait for the transfer of d.
func (c *Cache) Sources(d digest.Digest) int {
	c.transfers.mu.Lock()
	defer c.transfers.mu.Unlock()
	if t := c.transfers.running[d]; t != nil {
		return len(t.sources)
	}
	return 0
}
