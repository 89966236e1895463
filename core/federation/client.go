package federation

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/wire"
)

var (
	_ port.Hub    = (*Client)(nil)
	_ port.Notify = (*Client)(nil)
	_ port.Keys   = keysClient{}
	_ port.People = (*Client)(nil)
)

// Bounds of the directory: its size, and how soon it may be fetched again.
const (
	maxDirectory    = 64 << 10
	minDirectoryTTL = time.Minute
	refetchAfter    = 10 * time.Second
	maxURL          = 8 << 10
	maxPeers        = 10_000 // remembered; beyond that any one is forgotten for a new one
)

// Client asks other providers. It follows no redirect and speaks only HTTPS. The from of the ports is not used: it asks
// as Config.Domain. Safe for concurrent use.
//
// Errors are faults. What has to do with the connection, a directory that makes no sense included, is
// Unavailable; the rest is what the peer answered. The public text is ours, the peer's goes only into the log.
type Client struct {
	cfg      Config
	log      zerolog.Logger
	counters counters

	mu       sync.Mutex
	peers    map[string]*peer
	pools    map[poolKey]*http.Client
	contacts map[string]*Contact
	learnt   time.Time // when AssetPeer asked for directories last
}

// NewClient makes a client.
func NewClient(cfg Config) *Client {
	cfg = cfg.withDefaults()
	return &Client{cfg: cfg, log: burst(cfg.Log), peers: map[string]*peer{}, pools: map[poolKey]*http.Client{}, contacts: map[string]*Contact{}}
}

// Counters are numbers since the start: requests.ENDPOINT, status.CODE, failed.directory, failed.connection, failed.answer.
func (c *Client) Counters() map[string]uint64 { return c.counters.snapshot() }

// CloseIdle closes the connections that no request uses.
func (c *Client) CloseIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pools {
		p.CloseIdleConnections()
	}
}

// KeyMaterial asks the room's hub, for port.Hub.
func (c *Client) KeyMaterial(ctx context.Context, from string, room, target mimiuri.URI, body []byte) ([]byte, error) {
	return c.post(ctx, room.Domain, epKeyMaterial, target, body)
}

// Update asks the room's hub, for port.Hub.
func (c *Client) Update(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return c.post(ctx, room.Domain, epUpdate, room, body)
}

// Submit asks the room's hub, for port.Hub.
func (c *Client) Submit(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return c.post(ctx, room.Domain, epSubmitMessage, room, body)
}

// GroupInfo asks the room's hub, for port.Hub.
func (c *Client) GroupInfo(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return c.post(ctx, room.Domain, epGroupInfo, room, body)
}

// ReportAbuse tells the room's hub, for port.Hub.
func (c *Client) ReportAbuse(ctx context.Context, from string, room mimiuri.URI, body []byte) error {
	_, err := c.post(ctx, room.Domain, epReportAbuse, room, body)
	return err
}

// Notify brings FanoutMessages to a follower, for port.Notify.
func (c *Client) Notify(ctx context.Context, peer string, room mimiuri.URI, body []byte) error {
	_, err := c.post(ctx, peer, epNotify, room, body)
	return err
}

// RequestConsent asks the target's provider, for port.People.
func (c *Client) RequestConsent(ctx context.Context, from, peer string, body []byte) error {
	e, err := wire.ParseConsentEntry(body)
	if err != nil {
		return err
	}
	_, err = c.post(ctx, peer, epRequestConsent, e.Target, body)
	return err
}

// UpdateConsent tells the requester's provider, for port.People.
func (c *Client) UpdateConsent(ctx context.Context, from, peer string, body []byte) error {
	e, err := wire.ParseConsentEntry(body)
	if err != nil {
		return err
	}
	_, err = c.post(ctx, peer, epUpdateConsent, e.Requester, body)
	return err
}

// IdentifierQuery asks a provider for its users, for port.People.
func (c *Client) IdentifierQuery(ctx context.Context, from, peer string, body []byte) ([]byte, error) {
	return c.post(ctx, peer, epIdentifierQuery, mimiuri.URI{Domain: peer}, body)
}

// Keys asks the target's provider, as port.Keys: a port of its own, since its method has the name of one of port.Hub.
func (c *Client) Keys() port.Keys { return keysClient{c} }

type keysClient struct{ c *Client }

func (k keysClient) KeyMaterial(ctx context.Context, from string, target mimiuri.URI, body []byte) ([]byte, error) {
	return k.c.post(ctx, target.Domain, epKeyMaterial, target, body)
}

// Ping finds out whether a provider is there: one small request to where it takes updates, which every provider refuses. Any answer
// of the provider itself will do. It is Unavailable if there is none.
func (c *Client) Ping(ctx context.Context, domain string) (err error) {
	if c.cfg.Peer != nil {
		if err := c.cfg.Peer(domain); err != nil {
			return err
		}
	}
	defer func() { c.met(domain, err) }()
	c.counters.add("requests.ping")
	dir, _, err := c.directory(ctx, domain, time.Time{})
	if err != nil {
		return err
	}
	u, err := expand(dir[epUpdate], mimiuri.URI{Domain: domain})
	if err != nil {
		return unavailable(domain, fmt.Errorf("federation: directory of %s, %s: %w", domain, epUpdate, err))
	}
	resp, _, err := c.do(ctx, domain, "ping", http.MethodGet, u, nil, 1<<10)
	if err != nil {
		return err
	}
	switch s := resp.StatusCode; {
	case s == http.StatusBadGateway, s == http.StatusGatewayTimeout, s == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "":
		return unavailable(domain, fmt.Errorf("federation: what is before %s answers %d", domain, s)) // not the provider itself
	}
	return nil
}

// peer is what is known of another provider.
type peer struct {
	mu      sync.Mutex // held while the directory is fetched: others wait for the same answer
	dir     map[string]string
	fetched time.Time
	expires time.Time
	origins atomic.Pointer[[]string] // hosts of the directory fetched last, read without mu
	// inside: that directory came from an address that is not public. Then the peer's endpoints may be at any; else one of them
	// on another host must not lead to what only this provider can reach.
	inside atomic.Bool
}

func (c *Client) peer(domain string) *peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[domain]
	if p == nil {
		for other := range c.peers {
			if len(c.peers) < maxPeers {
				break
			}
			c.forget(other)
		}
		p = &peer{}
		p.origins.Store(new([]string))
		c.peers[domain] = p
	}
	return p
}

// forget drops what is kept for a domain: users elsewhere can make this provider ask domains that they think up. The
// caller holds mu.
func (c *Client) forget(domain string) {
	delete(c.peers, domain)
	for key, pool := range c.pools {
		if key.domain == domain {
			pool.CloseIdleConnections()
			delete(c.pools, key)
		}
	}
}

// Directory gives a provider's directory, endpoint to URL template, cached or fetched. The map must not be changed.
func (c *Client) Directory(ctx context.Context, domain string) (map[string]string, error) {
	dir, _, err := c.directory(ctx, domain, time.Time{})
	return dir, err
}

// directory is Directory; an entry fetched before notBefore does not count.
func (c *Client) directory(ctx context.Context, domain string, notBefore time.Time) (dir map[string]string, fetched time.Time, err error) {
	p := c.peer(domain)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := c.cfg.Now()
	if p.dir != nil && now.Before(p.expires) && !p.fetched.Before(notBefore) {
		return p.dir, p.fetched, nil
	}
	dir, ttl, at, err := c.fetchDirectory(ctx, domain)
	if err != nil {
		c.counters.add("failed.directory")
		if p.dir == nil {
			c.mu.Lock()
			c.forget(domain)
			c.mu.Unlock()
		}
		return nil, time.Time{}, err
	}
	p.dir, p.fetched, p.expires = dir, now, now.Add(ttl)
	os := origins(dir)
	p.origins.Store(&os)
	p.inside.Store(at.IsValid() && !c.isPublic(at))
	return dir, now, nil
}

// fetchDirectory gives the directory, for how long it holds, and the address it came from.
func (c *Client) fetchDirectory(ctx context.Context, domain string) (dir map[string]string, ttl time.Duration, at netip.Addr, err error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if a, err := netip.ParseAddrPort(i.Conn.RemoteAddr().String()); err == nil {
			at = a.Addr()
		}
	}})
	u := &url.URL{Scheme: "https", Host: domain, Path: DirectoryPath}
	resp, body, err := c.do(ctx, domain, "directory", http.MethodGet, u, nil, maxDirectory)
	if err != nil {
		return nil, 0, at, err
	}
	bad := func(why string) error {
		return unavailable(domain, fmt.Errorf("federation: directory of %s: %s", domain, why))
	}
	if resp.StatusCode != http.StatusOK {
		return nil, 0, at, bad(resp.Status)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, 0, at, bad("it is not a JSON object")
	}
	dir = map[string]string{}
	for name := range endpoints {
		var template string
		if raw[name] != nil && json.Unmarshal(raw[name], &template) == nil && template != "" {
			dir[name] = template
		}
	}
	return dir, c.ttl(resp.Header), at, nil
}

// ttl is for how long a directory is kept: as its Cache-Control says, within bounds.
func (c *Client) ttl(h http.Header) time.Duration {
	ttl := c.cfg.Limits.DirectoryTTL
	for _, d := range strings.Split(h.Get("Cache-Control"), ",") {
		d = strings.ToLower(strings.TrimSpace(d))
		if d == "no-store" || d == "no-cache" {
			ttl = 0
		} else if age, ok := strings.CutPrefix(d, "max-age="); ok {
			if sec, err := strconv.ParseUint(strings.Trim(age, `"`), 10, 31); err == nil {
				ttl = min(ttl, time.Duration(sec)*time.Second)
			}
		}
	}
	return max(ttl, min(minDirectoryTTL, c.cfg.Limits.DirectoryTTL))
}

// expand puts a URI into a template of a directory, or its domain where the variable's name asks for that: the draft has
// consent with either.
func expand(template string, target mimiuri.URI) (*url.URL, error) {
	_, rest, _ := strings.Cut(template, "{")
	if variable, _, _ := strings.Cut(rest, "}"); strings.HasSuffix(strings.ToLower(variable), "domain") {
		return expandWith(template, target.Domain)
	}
	return expandWith(template, target.String())
}

func expandWith(template, value string) (*url.URL, error) {
	if len(template) > maxURL {
		return nil, errors.New("the URL is too long")
	}
	before, rest, ok := strings.Cut(template, "{")
	_, after, ok2 := strings.Cut(rest, "}")
	if !ok || !ok2 || strings.ContainsAny(after, "{}") {
		return nil, errors.New("the URL has not exactly one variable")
	}
	u, err := url.Parse(before + escape(value) + after)
	switch {
	case err != nil:
		return nil, errors.New("the URL is not one")
	case u.Scheme != "https":
		return nil, errors.New("the URL is not one of https")
	case u.Host == "" || u.Hostname() == "" || u.User != nil || u.Fragment != "":
		return nil, errors.New("the URL has no host, or a user or a fragment")
	}
	return u, nil
}

// escape percent-encodes everything but unreserved characters, so that the URI is one path segment in anybody's eyes.
func escape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// post sends a request to an endpoint of a peer and gives the body of its answer.
func (c *Client) post(ctx context.Context, domain, endpoint string, target mimiuri.URI, body []byte) ([]byte, error) {
	if c.cfg.Peer != nil {
		if err := c.cfg.Peer(domain); err != nil {
			return nil, err
		}
	}
	answer, err := c.send(ctx, domain, endpoint, target, body)
	c.met(domain, err)
	return answer, err
}

func (c *Client) send(ctx context.Context, domain, endpoint string, target mimiuri.URI, body []byte) ([]byte, error) {
	c.counters.add("requests." + endpoint)
	if int64(len(body)) > c.cfg.Limits.bodyLimit(endpoint) {
		return nil, fault.New(fault.TooLarge, "the request is too large to be sent")
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Limits.RequestTimeout)
	defer cancel()

	dir, fetched, err := c.directory(ctx, domain, time.Time{})
	for again := false; ; again = true {
		if err != nil {
			return nil, err
		}
		var answer []byte
		var gone bool
		answer, gone, err = c.postTo(ctx, domain, endpoint, dir, target, body)
		if !gone {
			return answer, err
		}
		// The endpoint is not where the directory said: the peer may have moved. Once, and if the directory is not fresh.
		now := c.cfg.Now()
		if again || now.Sub(fetched) < min(refetchAfter, c.cfg.Limits.DirectoryTTL) {
			return nil, err
		}
		was, failure := dir[endpoint], err
		if dir, fetched, err = c.directory(ctx, domain, now); err == nil && dir[endpoint] == was {
			return nil, failure
		}
	}
}

// postTo sends the request. gone means that nothing was processed because nobody was there: no connection, or no URL.
func (c *Client) postTo(ctx context.Context, domain, endpoint string, dir map[string]string, target mimiuri.URI, body []byte) (answer []byte, gone bool, err error) {
	template := dir[endpoint]
	if template == "" {
		return nil, true, unavailable(domain, fmt.Errorf("federation: the directory of %s has no %s", domain, endpoint))
	}
	u, err := expand(template, target)
	if err != nil {
		return nil, true, unavailable(domain, fmt.Errorf("federation: directory of %s, %s: %w", domain, endpoint, err))
	}
	resp, answer, err := c.do(ctx, domain, endpoint, http.MethodPost, u, body, c.cfg.Limits.Body)
	if err != nil {
		var op *net.OpError
		return nil, errors.As(err, &op) && op.Op == "dial", err
	}
	if resp.StatusCode/100 == 2 {
		return answer, false, nil
	}
	f := &fault.Error{Kind: kindOf(resp.StatusCode),
		Err: fmt.Errorf("federation: %s of %s answers %d: %s", endpoint, domain, resp.StatusCode, trimmed(answer))}
	switch f.Kind {
	case fault.Limited, fault.Unavailable:
		f.Message = domain + " cannot do this now"
		f.RetryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), c.cfg.Now())
	}
	return nil, false, f
}

// unavailable is a failure to get an answer from a peer.
func unavailable(domain string, err error) error {
	return fault.Wrap(fault.Unavailable, domain+" cannot be reached now", err)
}

// do makes one HTTP request and reads at most limit octets of its answer; of one that is not 2xx, the beginning.
func (c *Client) do(ctx context.Context, domain, what, method string, u *url.URL, body []byte, limit int64) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Limits.RequestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, unavailable(domain, fmt.Errorf("federation: %s of %s: %w", what, domain, err))
	}
	req.Header.Set("From", "mimi@"+c.cfg.Domain)
	req.Header.Set("User-Agent", "mimibridge")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", contentType)
		c.cfg.record(DirectionOut, domain, u.EscapedPath(), body)
	}
	if what != epKeyMaterial {
		// All these are idempotent: net/http may repeat them when the peer has closed an idle connection. The empty
		// value says so and is not sent.
		req.Header["Idempotency-Key"] = nil
	}
	resp, err := c.pool(domain, u).Do(req)
	if err != nil {
		c.counters.add("failed.connection")
		return nil, nil, unavailable(domain, fmt.Errorf("federation: %s of %s: %w", what, domain, err))
	}
	defer resp.Body.Close()
	c.counters.add("status." + strconv.Itoa(resp.StatusCode))
	if resp.StatusCode/100 != 2 {
		limit = 1 << 10
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, limit))
		if method == http.MethodPost {
			c.cfg.record(DirectionIn, domain, u.EscapedPath()+" "+strconv.Itoa(resp.StatusCode), answer)
		}
		return resp, answer, nil
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(answer)) > limit {
		err = fmt.Errorf("the answer is larger than %d octets", limit)
	}
	if err != nil {
		c.counters.add("failed.answer")
		return nil, nil, unavailable(domain, fmt.Errorf("federation: answer to %s of %s: %w", what, domain, err))
	}
	if method == http.MethodPost {
		c.cfg.record(DirectionIn, domain, u.EscapedPath()+" "+strconv.Itoa(resp.StatusCode), answer)
	}
	return resp, answer, nil
}

// poolKey is what connections may be shared for. The domain is in it since two providers behind one address must not use each
// other's connections; the own domain is constant for a Client.
type poolKey struct{ domain, host string }

func (c *Client) pool(domain string, u *url.URL) *http.Client {
	key := poolKey{domain, u.Host}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pools[key]; p != nil {
		return p
	}
	l := &c.cfg.Limits
	dialer, public := &net.Dialer{Timeout: l.DialTimeout}, c.publicDialer()
	p := &http.Client{
		// A redirect could lead a request, and who asks, anywhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				to, set := c.resolve(domain, addr)
				if set || hostOf(addr) == hostOf(domain) || c.peer(domain).inside.Load() {
					return dialer.DialContext(ctx, network, to)
				}
				return public.DialContext(ctx, network, to)
			},
			TLSClientConfig: &tls.Config{
				MinVersion: tls.VersionTLS12,
				ServerName: nameOf(domain, u),
				RootCAs:    c.cfg.Roots,
				Time:       c.cfg.Now,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return c.cfg.Certificate()
				},
			},
			TLSHandshakeTimeout:    l.DialTimeout,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    8,
			MaxConnsPerHost:        64,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: int64(l.HeaderBytes),
			DisableCompression:     true, // bodies are ciphertext, and an answer must not grow on arrival
		},
	}
	c.pools[key] = p
	return p
}

// nameOf is what the certificate of the host of u, an URL of the domain, has to name: of a bare address the domain.
func nameOf(domain string, u *url.URL) string {
	if name := u.Hostname(); net.ParseIP(name) == nil {
		return name
	}
	return hostOf(domain)
}

// resolve gives where to connect to for addr, "host:port" of a URL of the domain; set says that the administrator leads there.
func (c *Client) resolve(domain, addr string) (to string, set bool) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, false
	}
	if to := c.cfg.Resolve[host]; to != "" {
		return to, true
	}
	if to := c.cfg.Resolve[domain]; to != "" && host == hostOf(domain) {
		return to, true
	}
	return addr, addr == c.cfg.Resolve[domain]
}
