package federation

import (
	"context"
	"errors"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Contact is how the requests to a peer went since the start of the process.
type Contact struct {
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastFailure time.Time `json:"last_failure,omitzero"`
	Failure     string    `json:"failure,omitempty"` // of LastFailure, for the admin; empty once a request succeeded after it
}

// met notes how a request went. What the peer refused is an answer.
func (c *Client) met(domain string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.contacts[domain]
	if k == nil {
		for other := range c.contacts {
			if len(c.contacts) < maxPeers {
				break
			}
			delete(c.contacts, other)
		}
		k = &Contact{}
		c.contacts[domain] = k
	}
	if fault.Is(err, fault.Unavailable) {
		k.LastFailure, k.Failure = c.cfg.Now().UTC(), trimmed([]byte(err.Error()))
		return
	}
	k.LastSuccess, k.Failure = c.cfg.Now().UTC(), ""
}

// Contacts are the peers that were asked something since the start.
func (c *Client) Contacts() map[string]Contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := make(map[string]Contact, len(c.contacts))
	for domain, k := range c.contacts {
		m[domain] = *k
	}
	return m
}

// FetchDirectory fetches a peer's directory, whatever is cached, and keeps it.
func (c *Client) FetchDirectory(ctx context.Context, domain string) (map[string]string, error) {
	d, err := mimiuri.NormalizeDomain(domain)
	if err != nil {
		return nil, fault.New(fault.Malformed, "this is no domain")
	}
	if c.cfg.Peer != nil {
		if err := c.cfg.Peer(d); err != nil {
			return nil, err
		}
	}
	dir, _, err := c.directory(ctx, d, c.cfg.Now())
	c.met(d, err)
	return dir, err
}

// Directory is the document that is served as this provider's directory.
func (s *Server) Directory() []byte { return s.directory }
