// Package federation carries the MIMI protocol between providers: HTTPS with mutual TLS, the directory, and the
// endpoints keyMaterial, update, notify, submitMessage, groupInfo, requestConsent, updateConsent and identifierQuery
// (draft-ietf-mimi-protocol-06, "Transport layer" and "MIMI Endpoints and Framing").
//
// Client implements port.Hub, port.Notify, port.People and, by Client.Keys, port.Keys for what is kept elsewhere. Server
// brings what others ask to the ports of this provider. Neither looks into a body further than to know where it belongs.
//
// # Who is who
//
// A request names its provider in the header From as mimi@domain, addr-spec only, compared as lower-case IDNA. The
// client certificate must have that domain among its subject alternative names (exactly, no wildcard), its chain must end at the configured
// roots, and it must state the extended key usage serverAuth or clientAuth: public authorities no longer issue the latter.
// The listener only requests a certificate; the handlers demand it. The directory is served without one.
//
// A server is known by its certificate: at the domain's own directory by the domain, at an endpoint by the host of the
// URL that the directory gave, or by the domain where that host is an IP address. An endpoint on another host than the domain has to be at a
// public address, unless the directory came from one that is not: a peer cannot send requests to what only this provider can reach.
//
// # Errors
//
// What a port returns as a fault becomes a status code and its public text, and a status code becomes a fault:
//
//	Malformed 400   Forbidden 403   NotFound 404   Conflict 409   TooLarge 413
//	Limited   429   Unavailable 503 (both with Retry-After)   Internal 500
//
// The client takes any 2xx for success, and gives a 500 back as Unavailable: mending it is not up to this side.
// Outcomes for which the protocol has a code are no errors and travel in the body.
package federation

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// DirectoryPath is where a provider's directory is (section "Directory").
const DirectoryPath = "/.well-known/mimi-protocol-directory"

// contentType of bodies: the draft names none.
const contentType = "application/octet-stream"

// Endpoints by their name in the directory; the name is also the path segment at which they are served here.
const (
	epKeyMaterial   = "keyMaterial"
	epUpdate        = "update"
	epNotify        = "notify"
	epSubmitMessage = "submitMessage"
	epGroupInfo     = "groupInfo"

	epRequestConsent  = "requestConsent"
	epUpdateConsent   = "updateConsent"
	epIdentifierQuery = "identifierQuery"
	epReportAbuse     = "reportAbuse"
	epProxyDownload   = "proxyDownload"
	epAsset           = "asset" // of our own, not in the directory: messages have the whole URL
)

// endpoints and the name of the variable in their URL.
var endpoints = map[string]string{
	epKeyMaterial:   "targetUser",
	epUpdate:        "roomId",
	epNotify:        "roomId",
	epSubmitMessage: "roomId",
	epGroupInfo:     "roomId",

	epRequestConsent:  "targetUser",
	epUpdateConsent:   "requesterUser",
	epIdentifierQuery: "domain",
	epReportAbuse:     "roomId",
	epProxyDownload:   "downloadUrl",
}

// Directions of a Recorder.
const (
	DirectionOut = "out" // sent by this provider: a request of the client, an answer of the server
	DirectionIn  = "in"  // received
)

// Config is shared by Client and Server. It must not be changed after it was given to them.
type Config struct {
	// Domain is the provider's domain. Required.
	Domain string
	// Certificate gives the certificate of both sides; it is asked for at each handshake, so that a renewed one is used
	// without a restart. It may be called concurrently. Required.
	Certificate func() (*tls.Certificate, error)
	// Roots are the authorities that peers' certificates are checked against; nil is those of the system.
	Roots *x509.CertPool
	// BaseURL is where others reach the Server, for instance "https://mimi.example.org:8443"; a path is allowed. It goes into
	// the directory. Empty is https://Domain.
	BaseURL string
	// Resolve maps a domain or host name to the "host:port" at which it is reached instead of DNS and the URL's port: for
	// tests and private set-ups. Names in certificates stay as they are.
	Resolve map[string]string
	// Public says which addresses anybody can reach; nil is what IANA's registries say. For tests.
	Public func(netip.Addr) bool
	// Limits; zero fields have defaults.
	Limits Limits
	// Peer, if not nil, is asked before anything is done with or for a peer; its error is the answer. It may be called
	// concurrently and must be quick.
	Peer func(domain string) error
	// Limited, if not nil, hears of each request that was refused since its peer was over a limit: of "requests" in a second or at
	// the same time, or of a "request size". As Peer.
	Limited func(domain, what string)
	Log     zerolog.Logger
	// Now is the clock by which certificates and caches expire; nil is time.Now.
	Now func() time.Time
	// Recorder, if not nil, sees every body before TLS encrypts or after it decrypts it, answers included (their path ends in the
	// status code). It may be called concurrently and must neither keep nor change body.
	Recorder func(direction, peer, path string, body []byte)
}

// Limits bound what a peer can cost. Zero fields take the default named.
type Limits struct {
	SubmitBody  int64 // octets of a submitMessage, keyMaterial, consent or identifierQuery request: 1 MiB
	Body        int64 // octets of an update, notify or groupInfo request, and of any answer: 16 MiB
	HeaderBytes int   // octets of a request's headers: 16 KiB
	Connections int   // open connections of the server: 4,096
	PerPeer     int   // requests of one peer served at the same time, more get 429: 64
	PeerRate    int   // requests of one peer in a second, over ten seconds, more get 429: 1,000
	InFlight    int   // requests served at the same time, more wait: 256
	Downloads   int   // files that are being sent at the same time, more get 503: 128
	PerDownload int   // of these to one peer, or to one address without a certificate, more get 429: 32

	HeaderTimeout  time.Duration // for the TLS handshake and for a request's headers: 10 s
	ReadTimeout    time.Duration // for a whole request, body included: 60 s
	HandlerTimeout time.Duration // for a port's answer: 60 s
	IdleTimeout    time.Duration // of a connection without requests: 2 min
	GraceTimeout   time.Duration // for requests under way when the server stops: 10 s

	DialTimeout    time.Duration // client: for connecting, and for the TLS handshake: 10 s
	RequestTimeout time.Duration // client: for a request and its whole answer: 90 s
	DirectoryTTL   time.Duration // client: for how long a directory is kept at most: 1 h
}

func orDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

func (c Config) withDefaults() Config {
	l := &c.Limits
	orDefault(&l.SubmitBody, 1<<20)
	orDefault(&l.Body, 16<<20)
	orDefault(&l.HeaderBytes, 16<<10)
	orDefault(&l.Connections, 4096)
	orDefault(&l.PerPeer, 64)
	orDefault(&l.PeerRate, 1000)
	orDefault(&l.InFlight, 256)
	orDefault(&l.Downloads, 128)
	orDefault(&l.PerDownload, 32)
	orDefault(&l.HeaderTimeout, 10*time.Second)
	orDefault(&l.ReadTimeout, time.Minute)
	orDefault(&l.HandlerTimeout, time.Minute)
	orDefault(&l.IdleTimeout, 2*time.Minute)
	orDefault(&l.GraceTimeout, 10*time.Second)
	orDefault(&l.DialTimeout, 10*time.Second)
	orDefault(&l.RequestTimeout, 90*time.Second)
	orDefault(&l.DirectoryTTL, time.Hour)
	if c.Now == nil {
		c.Now = time.Now
	}
	if d, err := mimiuri.NormalizeDomain(c.Domain); err == nil {
		c.Domain = d
	}
	if c.BaseURL == "" {
		c.BaseURL = "https://" + c.Domain
	}
	c.BaseURL = strings.TrimRight(c.BaseURL, "/")
	return c
}

func (c *Config) record(direction, peer, path string, body []byte) {
	if c.Recorder != nil {
		c.Recorder(direction, peer, path, body)
	}
}

// hostOf gives a domain without its port.
func hostOf(domain string) string {
	if host, _, err := net.SplitHostPort(domain); err == nil {
		return host
	}
	return domain
}

// bodyLimit is the size limit of requests to an endpoint.
func (l *Limits) bodyLimit(endpoint string) int64 {
	switch endpoint {
	case epSubmitMessage, epKeyMaterial, epRequestConsent, epUpdateConsent, epIdentifierQuery, epReportAbuse:
		return l.SubmitBody
	}
	return l.Body
}

// statusOf maps a fault to a status code.
func statusOf(err error) int {
	switch fault.KindOf(err) {
	case fault.Malformed:
		return http.StatusBadRequest
	case fault.Forbidden:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Conflict:
		return http.StatusConflict
	case fault.TooLarge:
		return http.StatusRequestEntityTooLarge
	case fault.Limited:
		return http.StatusTooManyRequests
	case fault.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// kindOf maps a status code that is not 2xx to a fault. What another attempt may mend is temporary.
func kindOf(status int) fault.Kind {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.Forbidden
	case http.StatusNotFound, http.StatusGone, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return fault.NotFound
	case http.StatusConflict:
		return fault.Conflict
	case http.StatusRequestEntityTooLarge:
		return fault.TooLarge
	case http.StatusTooManyRequests:
		return fault.Limited
	case http.StatusRequestTimeout, http.StatusMisdirectedRequest, http.StatusTooEarly:
		return fault.Unavailable
	}
	if status >= 400 && status < 500 {
		return fault.Malformed
	}
	return fault.Unavailable
}

// Bounds of Retry-After: what is said when the fault does not say, and what is believed.
const (
	defaultRetryAfter = 10 * time.Second
	maxRetryAfter     = time.Hour
)

// retryAfter writes the header's value, whole seconds rounded up.
func retryAfter(d time.Duration) string {
	if d <= 0 {
		d = defaultRetryAfter
	}
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// parseRetryAfter reads either form of the header (RFC 9110 section 10.2.3), 0 if there is none.
func parseRetryAfter(s string, now time.Time) time.Duration {
	d := time.Duration(0)
	if sec, err := strconv.ParseUint(s, 10, 31); err == nil {
		d = time.Duration(sec) * time.Second
	} else if t, err := http.ParseTime(s); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// counters are named numbers that only grow. Names come from this package alone, so the set is bounded.
type counters struct {
	mu sync.Mutex
	m  map[string]uint64
}

func (c *counters) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[string]uint64{}
	}
	c.m[name]++
}

func (c *counters) snapshot() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := maps.Clone(c.m)
	if m == nil {
		m = map[string]uint64{}
	}
	return m
}

// burst keeps peers from filling the log: at most 50 lines a second, then one in a thousand.
func burst(l zerolog.Logger) zerolog.Logger {
	return l.Sample(&zerolog.BurstSampler{Burst: 50, Period: time.Second, NextSampler: &zerolog.BasicSampler{N: 1000}})
}

// trimmed gives text of a peer for a log line: bounded, on one line.
func trimmed(b []byte) string {
	b = bytes.TrimSpace(b)
	if len(b) > 200 {
		b = b[:200]
	}
	return strconv.QuoteToASCII(string(b))
}
