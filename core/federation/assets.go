package federation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/port"
)

// Bounds of files under way, in both directions.
const (
	chunkTimeout = time.Minute // for one piece to be taken or to come
	// maxDownloadTime bounds all of it: whoever takes one octet a minute does not hold a place for ever.
	maxDownloadTime = 30 * time.Minute
	unknownPeers    = 64 // directories that are fetched at most to learn whose host it is
	learnPause      = time.Minute
)

// AssetURL is where others find an own file.
func (c *Config) AssetURL(name string) string {
	d := c.withDefaults()
	return d.BaseURL + "/v1/" + epAsset + "/" + name
}

// OwnAsset gives the name in a URL that AssetURL has made; ok is false for any other URL.
func (c *Config) OwnAsset(u string) (name string, ok bool) {
	d := c.withDefaults()
	return strings.CutPrefix(u, d.BaseURL+"/v1/"+epAsset+"/")
}

// publicTypes are shown by browsers as they are. Everything else is octets to save.
var publicTypes = []string{"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"}

// serveAsset serves an own file to whoever knows its name.
func (s *Server) serveAsset(w http.ResponseWriter, r *http.Request, c *call, name string, answered *bool) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return errMethod
	}
	if s.ports.Assets == nil {
		return errNoPort
	}
	leave, err := s.enterDownload("address " + network(r.RemoteAddr))
	if err != nil {
		return err
	}
	defer leave()
	a, err := s.ports.Assets.Asset(r.Context(), name)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	h := w.Header()
	h.Set("Cache-Control", "max-age=86400, immutable")
	if !a.Expires.IsZero() {
		h.Set("Expires", a.Expires.UTC().Format(http.TimeFormat))
		h.Set("Cache-Control", fmt.Sprintf("max-age=%d, immutable", max(0, min(86400, int64(a.Expires.Sub(s.cfg.Now())/time.Second)))))
	}
	w, done := s.writeInPieces(w)
	defer done()
	*answered = true
	body, ok := a.Body.(io.ReadSeeker)
	if !ok {
		return s.send(w, r, a)
	}
	setType(h, a.Type)
	s.counters.add("status.200") // or 206, or 304: net/http decides
	http.ServeContent(w, r, "", time.Time{}, body)
	return nil
}

// setType says what it is, in a way that no browser takes for something that runs.
func setType(h http.Header, mediaType string) {
	if !slices.Contains(publicTypes, mediaType) {
		mediaType = contentType
		h.Set("Content-Disposition", "attachment")
	}
	h.Set("Content-Type", mediaType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
}

// serveDownload fetches for a peer what is at an asset domain of a peer (section "Download using a hub proxy").
func (s *Server) serveDownload(w http.ResponseWriter, r *http.Request, c *call, target string, answered *bool) error {
	from, err := s.authenticate(r, c)
	if err != nil {
		return err
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		return errMethod
	}
	if s.ports.Downloads == nil {
		return errNoPort
	}
	if !strings.HasPrefix(strings.ToLower(target), "https:/") { // not as it is, so as one segment
		if target, err = url.PathUnescape(target); err != nil {
			return fault.New(fault.Malformed, "the path does not end in a URL")
		}
	} else if r.URL.RawQuery != "" {
		target += "?" + r.URL.RawQuery
	}
	u, err := parseDownloadURL(target)
	if err != nil {
		return err
	}
	c.target = u.Host // the rest is nobody's business, the log's included
	leave, err := s.enterDownload("peer " + hostOf(from))
	if err != nil {
		return err
	}
	defer leave()
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // not every ResponseWriter can
	a, err := s.ports.Downloads.ProxyDownload(r.Context(), from, u.String())
	if err != nil {
		return err
	}
	defer a.Body.Close()
	w, done := s.writeInPieces(w)
	defer done()
	*answered = true
	return s.send(w, r, a)
}

// send sends what cannot be sought in. What goes wrong after the status code can only be shown by ending the stream.
func (s *Server) send(w http.ResponseWriter, r *http.Request, a *port.Asset) error {
	h := w.Header()
	setType(h, a.Type)
	if a.Size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(a.Size, 10))
	}
	s.counters.add("status.200")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, a.Body, make([]byte, 64<<10))
	if err != nil || a.Size >= 0 && n != a.Size {
		s.counters.add("failed.download")
		s.log.Debug().Err(err).Int64("octets", n).Msg("a file was not sent whole")
		panic(http.ErrAbortHandler)
	}
	return nil
}

// network is the address, or for IPv6 the network, of somebody: who has one address there has 2^64.
func network(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	a := at.Addr().Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a.String()
	}
	return p.String()
}

// enterDownload takes a place for a file that is sent.
func (s *Server) enterDownload(who string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sending[""] >= s.cfg.Limits.Downloads {
		s.counters.add("refused.busy")
		return nil, &fault.Error{Kind: fault.Unavailable, Message: "this server is busy", RetryAfter: 10 * time.Second}
	}
	if s.sending[who] >= s.cfg.Limits.PerDownload {
		s.counters.add("refused.busy")
		return nil, &fault.Error{Kind: fault.Limited, Message: "too many requests at the same time", RetryAfter: 10 * time.Second}
	}
	s.sending[""]++
	s.sending[who]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sending[""]--
		if s.sending[who]--; s.sending[who] == 0 {
			delete(s.sending, who)
		}
	}, nil
}

// pieces gives each write its own time: a large file takes longer than a request may.
type pieces struct {
	http.ResponseWriter
	rc  *http.ResponseController
	end time.Time
}

func (p *pieces) Write(b []byte) (int, error) {
	now := time.Now()
	if now.After(p.end) {
		return 0, errors.New("federation: the download takes too long")
	}
	_ = p.rc.SetWriteDeadline(now.Add(chunkTimeout)) // not every ResponseWriter can
	return p.ResponseWriter.Write(b)
}

func (s *Server) writeInPieces(w http.ResponseWriter) (out http.ResponseWriter, done func()) {
	rc := http.NewResponseController(w)
	l := &s.cfg.Limits
	return &pieces{w, rc, time.Now().Add(maxDownloadTime)}, func() {
		_ = rc.SetWriteDeadline(time.Now().Add(l.ReadTimeout + l.HandlerTimeout + l.ReadTimeout)) // as for the next request
	}
}

// parseDownloadURL takes an absolute https URL without user or fragment.
func parseDownloadURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxURL || !strings.EqualFold(u.Scheme, "https") || u.Host == "" || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return nil, fault.New(fault.Malformed, "this is not an https URL of a file")
	}
	u.Host = strings.ToLower(u.Host) // or there would be connections for each way to write it
	return u, nil
}

// originOf is the "host:port" that stands for where a URL leads.
func originOf(u *url.URL) string {
	p := u.Port()
	if p == "" {
		p = "443"
	}
	return net.JoinHostPort(strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), p)
}

// AssetPeer says which of peers has its files where a URL leads: at its own domain, or at a host that its
// directory names. What is not known may be learnt by asking peers for their directories, though not often; so an
// answer may be "not known" for a minute.
func (c *Client) AssetPeer(ctx context.Context, assetURL string, peers []string) (domain string, ok bool) {
	u, err := parseDownloadURL(assetURL)
	if err != nil {
		return "", false
	}
	origin := originOf(u)
	for _, p := range peers {
		if at := (&url.URL{Host: p}); origin == originOf(at) {
			return p, true
		}
	}
	known := func() (string, bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, p := range peers {
			if e := c.peers[p]; e != nil && slices.Contains(*e.origins.Load(), origin) {
				return p, true
			}
		}
		return "", false
	}
	if domain, ok = known(); ok {
		return domain, true
	}
	c.mu.Lock()
	now := c.cfg.Now()
	wait := now.Sub(c.learnt) < learnPause
	var ask []string
	if !wait {
		c.learnt = now
		for _, p := range peers {
			if e := c.peers[p]; (e == nil || len(*e.origins.Load()) == 0) && len(ask) < unknownPeers {
				ask = append(ask, p)
			}
		}
	}
	c.mu.Unlock()
	if len(ask) == 0 {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Limits.DialTimeout)
	defer cancel()
	asked := make(chan struct{}, len(ask))
	for _, p := range ask {
		go func() {
			_, _ = c.Directory(ctx, p) // who does not answer is not known
			asked <- struct{}{}
		}()
	}
	for range ask {
		<-asked
	}
	return known()
}

// origins are the hosts of a directory.
func origins(dir map[string]string) (os []string) {
	for _, template := range dir {
		before, _, _ := strings.Cut(template, "{")
		if u, err := url.Parse(before); err == nil && u.Scheme == "https" && u.Hostname() != "" {
			if o := originOf(u); !slices.Contains(os, o) {
				os = append(os, o)
			}
		}
	}
	return os
}

// Fetch opens what is at an https URL of a peer's asset domain (AssetPeer), without showing who asks. It follows no
// redirect and connects to no address that is not public, unless Config.Resolve leads there.
func (c *Client) Fetch(ctx context.Context, domain, assetURL string) (*port.Asset, error) {
	u, err := parseDownloadURL(assetURL)
	if err != nil {
		return nil, err
	}
	c.counters.add("requests." + epAsset)
	return c.get(ctx, c.assetPool(domain, u), domain, epAsset, u, http.Header{})
}

// ProxyDownload has a hub fetch it.
func (c *Client) ProxyDownload(ctx context.Context, hub, assetURL string) (*port.Asset, error) {
	if _, err := parseDownloadURL(assetURL); err != nil {
		return nil, err
	}
	c.counters.add("requests." + epProxyDownload)
	dir, err := c.Directory(ctx, hub)
	if err != nil {
		return nil, err
	}
	if dir[epProxyDownload] == "" {
		return nil, fault.Wrap(fault.NotFound, hub+" does not fetch files for others", fmt.Errorf("federation: the directory of %s has no %s", hub, epProxyDownload))
	}
	u, err := expandWith(dir[epProxyDownload], assetURL)
	if err != nil {
		return nil, unavailable(hub, fmt.Errorf("federation: directory of %s, %s: %w", hub, epProxyDownload, err))
	}
	return c.get(ctx, c.pool(hub, u), hub, epProxyDownload, u, http.Header{"From": {"mimi@" + c.cfg.Domain}})
}

// get makes a GET request whose answer is read while it comes. ctx holds for all of it.
func (c *Client) get(ctx context.Context, pool *http.Client, domain, what string, u *url.URL, h http.Header) (*port.Asset, error) {
	ctx, cancel := context.WithTimeout(ctx, maxDownloadTime)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		cancel()
		return nil, unavailable(domain, fmt.Errorf("federation: %s of %s: %w", what, domain, err))
	}
	req.Header = h
	h.Set("User-Agent", "mimibridge")
	idle := time.AfterFunc(chunkTimeout, cancel)
	resp, err := pool.Do(req)
	if err != nil {
		cancel()
		idle.Stop()
		c.counters.add("failed.connection")
		if errors.Is(err, errNotPublic) {
			return nil, fault.Wrap(fault.Forbidden, "the file lies at an address that is not public", fmt.Errorf("federation: %s of %s: %w", what, domain, errNotPublic))
		}
		return nil, unavailable(domain, fmt.Errorf("federation: %s of %s: %w", what, domain, withoutURL(err)))
	}
	c.counters.add("status." + strconv.Itoa(resp.StatusCode))
	body := &download{resp.Body, cancel, idle}
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(body, 1<<10))
		body.Close()
		f := &fault.Error{Kind: kindOf(resp.StatusCode), Err: fmt.Errorf("federation: %s of %s answers %d: %s", what, domain, resp.StatusCode, trimmed(answer))}
		if resp.StatusCode/100 == 3 {
			f.Kind, f.Message = fault.NotFound, "the file has moved, and redirects are not followed"
		}
		if f.Kind == fault.Limited || f.Kind == fault.Unavailable {
			f.Message = domain + " cannot do this now"
			f.RetryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), c.cfg.Now())
		}
		return nil, f
	}
	t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if t = strings.ToLower(strings.TrimSpace(t)); !slices.Contains(publicTypes, t) {
		t = ""
	}
	return &port.Asset{Body: body, Size: resp.ContentLength, Type: t}, nil
}

// withoutURL leaves out the URL that net/http puts into errors: who knows it can read what is there.
func withoutURL(err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// download ends its request when it is closed, or when nothing comes for a time.
type download struct {
	io.ReadCloser
	cancel context.CancelFunc
	idle   *time.Timer
}

func (d *download) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if n > 0 {
		d.idle.Reset(chunkTimeout)
	}
	return n, err
}

func (d *download) Close() error {
	d.idle.Stop()
	d.cancel()
	return d.ReadCloser.Close()
}

var errNotPublic = errors.New("the address is not public")

// assetPool is pool without a client certificate, and to public addresses only.
func (c *Client) assetPool(domain string, u *url.URL) *http.Client {
	key := poolKey{domain, "asset " + u.Host}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pools[key]; p != nil {
		return p
	}
	l := &c.cfg.Limits
	dialer, public := &net.Dialer{Timeout: l.DialTimeout}, c.publicDialer()
	p := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if to, set := c.resolve(domain, addr); set {
					return dialer.DialContext(ctx, network, to)
				}
				return public.DialContext(ctx, network, addr)
			},
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, ServerName: nameOf(domain, u), RootCAs: c.cfg.Roots, Time: c.cfg.Now},
			TLSHandshakeTimeout:    l.DialTimeout,
			ResponseHeaderTimeout:  l.RequestTimeout,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    2,
			MaxConnsPerHost:        32,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: int64(l.HeaderBytes),
			DisableCompression:     true,
		},
	}
	c.pools[key] = p
	return p
}

// publicDialer connects to public addresses only.
func (c *Client) publicDialer() *net.Dialer {
	return &net.Dialer{Timeout: c.cfg.Limits.DialTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		// After the name was looked up: what DNS says does not matter.
		if at, err := netip.ParseAddrPort(address); err != nil || !c.isPublic(at.Addr()) {
			return errNotPublic
		}
		return nil
	}}
}

func (c *Client) isPublic(a netip.Addr) bool {
	if c.cfg.Public != nil {
		return c.cfg.Public(a)
	}
	return isPublic(a)
}

// notPublic are the special-purpose blocks of IANA's registries that netip does not know as such.
var notPublic = func() (ps []netip.Prefix) {
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}()

func isPublic(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsGlobalUnicast() && !a.IsPrivate() && a.Zone() == "" && !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}
