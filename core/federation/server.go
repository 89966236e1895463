package federation

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/wire"
)

// Server is the provider's door for others. Safe for concurrent use.
type Server struct {
	cfg   Config
	ports Ports

	prefix    string // path of BaseURL
	directory []byte
	log       zerolog.Logger
	counters  counters

	inFlight chan struct{}
	mu       sync.Mutex
	peers    map[string]int // requests under way; a peer without any is not in it
	rates    map[string]*rate
	sending  map[string]int // files under way, by peer or address; all of them by ""
}

// Ports are the doors of this provider that the server opens to others. One that is nil answers "not found".
type Ports struct {
	Hub    port.Hub
	Notify port.Notify
	Keys   port.Keys
	People port.People

	Assets    port.Assets
	Downloads port.Downloads
}

// NewServer makes a server for the ports of this provider.
func NewServer(cfg Config, ports Ports) *Server {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, ports: ports, log: burst(cfg.Log),
		inFlight: make(chan struct{}, cfg.Limits.InFlight), peers: map[string]int{}, rates: map[string]*rate{}, sending: map[string]int{}}
	if u, err := url.Parse(cfg.BaseURL); err == nil {
		s.prefix = u.EscapedPath()
	}
	dir := map[string]string{}
	for name, variable := range endpoints {
		dir[name] = cfg.BaseURL + "/v1/" + name + "/{" + variable + "}"
	}
	var err error
	if s.directory, err = json.MarshalIndent(dir, "", "  "); err != nil {
		panic(err) // strings always encode
	}
	s.directory = append(s.directory, '\n')
	return s
}

// Counters are numbers since the start: requests.ENDPOINT, status.CODE, refused.REASON (certificate, from, peer, sender,
// size, busy, rate), panics.
func (s *Server) Counters() map[string]uint64 { return s.counters.snapshot() }

// TLSConfig is for a listener of the Handler's own.
func (s *Server) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Requested, not required: the directory is for everybody. The handlers check what comes.
		ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.cfg.Certificate()
		},
		NextProtos: []string{"h2", "http/1.1"},
	}
}

// Serve serves ln, which it closes, until ctx is done, and then lets requests under way end for Limits.GraceTimeout. It
// returns nil, or the error for which it cannot go on.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	l := &s.cfg.Limits
	quiet := s.log.Level(zerolog.DebugLevel)
	srv := &http.Server{
		Handler:           s.Handler(),
		TLSConfig:         s.TLSConfig(),
		ConnContext:       withConn,
		ReadHeaderTimeout: l.HeaderTimeout,
		ReadTimeout:       l.ReadTimeout,
		WriteTimeout:      l.ReadTimeout + l.HandlerTimeout + l.ReadTimeout, // read, work, write
		IdleTimeout:       l.IdleTimeout,
		MaxHeaderBytes:    l.HeaderBytes,
		// Failed handshakes: anybody can make them.
		ErrorLog: log.New(logWriter{quiet}, "", 0),
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.GraceTimeout)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err := srv.ServeTLS(netutil.LimitListener(ln, l.Connections), "", "")
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	srv.Close()
	return fmt.Errorf("federation: serve %s: %w", ln.Addr(), err)
}

type logWriter struct{ l zerolog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.l.Debug().Str("http", trimmed(b)).Msg("connection failed")
	return len(b), nil
}

// Handler serves the directory and the endpoints. It is a handler by itself and no ServeMux, which would redirect a path
// with an unescaped "mimi://" in it.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// call is a request on its way through the server.
type call struct {
	endpoint string
	peer     string // authenticated domain, empty before that
	claimed  string // the header From, for the log
	target   string // the path's variable as it came, for the log
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	c := &call{}
	answered := false
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p) // a file broke off
		}
		s.counters.add("panics")
		s.log.Error().Str("endpoint", c.endpoint).Str("peer", c.peer).Str("panic", fmt.Sprintf("%T", p)).
			Bytes("stack", debug.Stack()).Msg("a request handler failed")
		if answered {
			panic(http.ErrAbortHandler) // too late for a status code: close the stream
		}
		s.refuse(w, r, c, errors.New("panic"))
	}()

	path, ok := strings.CutPrefix(r.URL.EscapedPath(), s.prefix)
	if !ok {
		path = "" // below no endpoint
	}
	if r.URL.EscapedPath() == DirectoryPath || path == DirectoryPath {
		c.endpoint = "directory"
		s.counters.add("requests.directory")
		s.serveDirectory(w, r)
		return
	}
	if name, ok := strings.CutPrefix(path, "/v1/"+epAsset+"/"); ok {
		c.endpoint = epAsset
		s.counters.add("requests." + epAsset)
		if err := s.serveAsset(w, r, c, name, &answered); err != nil {
			s.refuse(w, r, c, err)
		}
		return
	}
	if target, ok := strings.CutPrefix(path, "/v1/"+epProxyDownload+"/"); ok {
		c.endpoint = epProxyDownload
		s.counters.add("requests." + epProxyDownload)
		if err := s.serveDownload(w, r, c, target, &answered); err != nil {
			s.refuse(w, r, c, err)
		}
		return
	}
	body, status, err := s.answer(w, r, c, path)
	if err != nil {
		s.refuse(w, r, c, err)
		return
	}
	answered = true
	s.counters.add("status." + strconv.Itoa(status))
	s.cfg.record(DirectionOut, c.peer, r.URL.EscapedPath()+" "+strconv.Itoa(status), body)
	if len(body) > 0 {
		w.Header().Set("Content-Type", contentType)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

func (s *Server) serveDirectory(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		s.refuse(w, r, &call{endpoint: "directory"}, errMethod)
		return
	}
	s.counters.add("status.200")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "max-age=3600")
	w.Header().Set("Content-Length", strconv.Itoa(len(s.directory)))
	w.Write(s.directory)
}

// errMethod stands for 405, which no fault maps to.
var errMethod = fault.New(fault.Malformed, "this method is not allowed here")

// refuse answers an error: a status code and what a peer may read, and a line in the log without any content.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, c *call, err error) {
	status := statusOf(err)
	if errors.Is(err, errMethod) {
		status = http.StatusMethodNotAllowed
	}
	s.counters.add("status." + strconv.Itoa(status))
	line := s.log.Warn()
	if status == http.StatusMethodNotAllowed { // Client.Ping asks like this
		line = s.log.Debug()
	}
	if status == http.StatusInternalServerError {
		line = s.log.Error()
	}
	line.Str("endpoint", c.endpoint).Str("peer", c.peer).Str("from", c.claimed).Str("remote", r.RemoteAddr).
		Str("target", c.target).Int("status", status).Str("reason", err.Error()).Msg("request refused")

	h := w.Header()
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		var f *fault.Error
		errors.As(err, &f) // statusOf found one
		h.Set("Retry-After", retryAfter(f.RetryAfter))
	}
	text := fault.Public(err) + "\n"
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// answer does all that can fail. What it learns of the caller on the way goes into c.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, c *call, path string) (body []byte, status int, err error) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/")
	_, known := endpoints[name]
	if known = known && strings.HasPrefix(path, "/v1/"); known {
		c.endpoint = name
		s.counters.add("requests." + name)
	}

	// Nothing is read or said before that.
	from, err := s.authenticate(r, c)
	if err != nil {
		return nil, 0, err
	}
	if !known {
		return nil, 0, fault.New(fault.NotFound, "there is no such endpoint")
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		return nil, 0, errMethod
	}
	target, err := parseTarget(name, rest)
	if err != nil {
		return nil, 0, err
	}
	c.target = target.String()
	if err := s.checkTarget(name, from, target); err != nil {
		s.counters.add("refused.sender")
		return nil, 0, err
	}

	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.Limits.ReadTimeout+s.cfg.Limits.HandlerTimeout)
	defer cancel()
	leave, err := s.enter(ctx, hostOf(from))
	if err != nil {
		s.counters.add("refused.busy")
		if fault.Is(err, fault.Limited) {
			s.limited(hostOf(from), "requests")
		}
		return nil, 0, err
	}
	defer leave()

	b, err := readBody(w, r, s.cfg.Limits.bodyLimit(name))
	if err != nil {
		if fault.Is(err, fault.TooLarge) {
			s.counters.add("refused.size")
			s.limited(hostOf(from), "request size")
		}
		return nil, 0, err
	}
	// The time to read is over with the body; left in place it would end the context of a port that takes its time.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // not every ResponseWriter can
	s.cfg.record(DirectionIn, from, r.URL.EscapedPath(), b)
	return s.dispatch(ctx, name, from, target, b)
}

// authenticate says which provider asks, and whether it may.
func (s *Server) authenticate(r *http.Request, c *call) (from string, err error) {
	c.claimed = trimmed([]byte(strings.Join(r.Header.Values("From"), ", ")))
	id := s.identityOf(r)
	if id.err != nil {
		s.counters.add("refused.certificate")
		return "", id.err
	}
	if from, err = parseFrom(r.Header); err != nil {
		s.counters.add("refused.from")
		return "", err
	}
	if err := id.speaksFor(from, s.cfg.Now()); err != nil {
		s.counters.add("refused.from")
		return "", err
	}
	c.peer = from
	if s.cfg.Peer != nil {
		if err := s.cfg.Peer(from); err != nil {
			s.counters.add("refused.peer")
			return "", err
		}
	}
	if err := s.pace(hostOf(from)); err != nil {
		s.counters.add("refused.rate")
		s.limited(hostOf(from), "requests")
		return "", err
	}
	return from, nil
}

func (s *Server) limited(peer, what string) {
	if s.cfg.Limited != nil {
		s.cfg.Limited(peer, what)
	}
}

// parseTarget reads the path's variable: the URI percent-encoded as one segment, or as it is. At the endpoints about people
// a bare domain will do.
func parseTarget(endpoint, rest string) (mimiuri.URI, error) {
	s := rest
	if len(s) < 6 || !strings.EqualFold(s[:6], "mimi:/") {
		var err error
		if s, err = url.PathUnescape(rest); err != nil {
			s = ""
		}
	}
	kind, what := mimiuri.Room, "room"
	switch endpoint {
	case epRequestConsent, epUpdateConsent, epIdentifierQuery:
		u, err := mimiuri.Parse(s)
		if err != nil {
			if d, bare := mimiuri.NormalizeDomain(s); bare == nil {
				return mimiuri.URI{Domain: d}, nil
			}
		} else if u.Kind == mimiuri.Provider || u.Kind == mimiuri.User && endpoint != epIdentifierQuery {
			return u, nil
		}
		return mimiuri.URI{}, fault.New(fault.Malformed, "the path does not end in a domain or the MIMI URI of a user")
	case epKeyMaterial:
		kind, what = mimiuri.User, "user"
	}
	u, err := mimiuri.ParseKind(s, kind)
	if err != nil {
		return mimiuri.URI{}, fault.Wrap(fault.Malformed, "the path does not end in the MIMI URI of a "+what, err)
	}
	return u, nil
}

// checkTarget refuses what needs no look at the body.
func (s *Server) checkTarget(endpoint, from string, target mimiuri.URI) error {
	switch endpoint {
	case epKeyMaterial: // the body decides
	case epNotify:
		if target.Domain != from {
			return fault.New(fault.Forbidden, "only the room's hub may notify")
		}
	case epRequestConsent, epUpdateConsent, epIdentifierQuery:
		if target.Domain != s.cfg.Domain {
			return fault.New(fault.NotFound, "this is not the provider of that domain")
		}
	default:
		if target.Domain != s.cfg.Domain {
			return fault.New(fault.NotFound, "this provider is not the hub of that room")
		}
	}
	return nil
}

// enter takes a place for a request of peer and returns how to give it back.
func (s *Server) enter(ctx context.Context, peer string) (leave func(), err error) {
	s.mu.Lock()
	if s.peers[peer] >= s.cfg.Limits.PerPeer {
		s.mu.Unlock()
		return nil, &fault.Error{Kind: fault.Limited, Message: "too many requests at the same time", RetryAfter: time.Second}
	}
	s.peers[peer]++
	s.mu.Unlock()
	leavePeer := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.peers[peer]--; s.peers[peer] == 0 {
			delete(s.peers, peer)
		}
	}
	select {
	case s.inFlight <- struct{}{}:
		return func() { <-s.inFlight; leavePeer() }, nil
	case <-ctx.Done():
		leavePeer()
		return nil, fault.Wrap(fault.Unavailable, "this server is busy", ctx.Err())
	}
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	tooLarge := fault.Newf(fault.TooLarge, "the body is larger than %d octets", limit)
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var max *http.MaxBytesError
	switch {
	case errors.As(err, &max):
		return nil, tooLarge
	case err != nil:
		return nil, fault.Wrap(fault.Malformed, "the body did not arrive", err)
	}
	return b, nil
}

var errNoPort = fault.New(fault.NotFound, "this provider does not offer that")

// dispatch calls the port.
func (s *Server) dispatch(ctx context.Context, endpoint, from string, target mimiuri.URI, body []byte) (answer []byte, status int, err error) {
	status = http.StatusOK
	switch endpoint {
	case epKeyMaterial:
		answer, err = s.keyMaterial(ctx, from, target, body)
		return answer, status, err
	case epNotify:
		if s.ports.Notify == nil {
			return nil, 0, errNoPort
		}
		return nil, http.StatusCreated, s.ports.Notify.Notify(ctx, s.cfg.Domain, target, body)
	case epRequestConsent, epUpdateConsent, epIdentifierQuery:
		return s.people(ctx, endpoint, from, body)
	}
	if s.ports.Hub == nil {
		return nil, 0, errNoPort
	}
	switch endpoint {
	case epUpdate:
		answer, err = s.ports.Hub.Update(ctx, from, target, body)
	case epSubmitMessage:
		answer, err = s.ports.Hub.Submit(ctx, from, target, body)
	case epGroupInfo:
		answer, err = s.ports.Hub.GroupInfo(ctx, from, target, body)
	case epReportAbuse:
		return nil, http.StatusCreated, s.ports.Hub.ReportAbuse(ctx, from, target, body)
	}
	return answer, status, err
}

// keyMaterial asks the hub of a room kept here, which remembers where the Welcome has to go; for a room kept elsewhere, or
// none, it serves the own users' KeyPackages. The body names the room; path and body must name the same user.
func (s *Server) keyMaterial(ctx context.Context, from string, target mimiuri.URI, body []byte) ([]byte, error) {
	q, err := wire.ParseKeyMaterialRequest(body)
	if err != nil {
		return nil, err
	}
	if q.TargetUser != target {
		return nil, fault.New(fault.Malformed, "path and body name different users")
	}
	room := q.RoomID
	switch {
	case room.Domain == s.cfg.Domain: // this is the hub, asked by a follower
		if q.RequestingUser.Domain != from {
			s.counters.add("refused.sender")
			return nil, fault.New(fault.Forbidden, "the requesting user is of another provider")
		}
		if s.ports.Hub == nil {
			return nil, errNoPort
		}
		return s.ports.Hub.KeyMaterial(ctx, from, room, target, body)
	case target.Domain == s.cfg.Domain: // this is the target, asked by the hub, or by the requester's provider
		asker := room.Domain
		if room.IsZero() {
			asker = q.RequestingUser.Domain
		}
		if asker != from {
			s.counters.add("refused.sender")
			return nil, fault.New(fault.Forbidden, "key material for a room is given to its hub only")
		}
		if s.ports.Keys == nil {
			return nil, errNoPort
		}
		return s.ports.Keys.KeyMaterial(ctx, from, target, body)
	}
	return nil, fault.New(fault.NotFound, "neither the room nor the user is of this provider")
}

// people brings consent and queries to the port. Whose word it is is decided by the domains: the body's users are one of the
// asking provider and one of this. Which user the path names does not matter, the draft has it both ways.
func (s *Server) people(ctx context.Context, endpoint, from string, body []byte) (answer []byte, status int, err error) {
	if s.ports.People == nil {
		return nil, 0, errNoPort
	}
	if endpoint == epIdentifierQuery {
		answer, err = s.ports.People.IdentifierQuery(ctx, from, s.cfg.Domain, body)
		return answer, http.StatusOK, err
	}
	e, err := wire.ParseConsentEntry(body)
	if err != nil {
		return nil, 0, err
	}
	theirs, ours, asks := e.Requester, e.Target, e.Operation == wire.ConsentRequest || e.Operation == wire.ConsentCancel
	if endpoint == epUpdateConsent {
		theirs, ours, asks = e.Target, e.Requester, !asks
	}
	switch {
	case !asks:
		return nil, 0, fault.New(fault.Malformed, "this operation belongs to the other endpoint of consent")
	case theirs.Domain != from:
		s.counters.add("refused.sender")
		return nil, 0, fault.New(fault.Forbidden, "the user who says so is of another provider")
	case ours.Domain != s.cfg.Domain:
		return nil, 0, fault.New(fault.NotFound, "this is not the provider of that user")
	}
	if endpoint == epRequestConsent {
		err = s.ports.People.RequestConsent(ctx, from, s.cfg.Domain, body)
	} else {
		err = s.ports.People.UpdateConsent(ctx, from, s.cfg.Domain, body)
	}
	return nil, http.StatusCreated, err
}

// rate is a peer's allowance: a bucket of ten seconds' requests that fills with time.
type rate struct {
	left float64
	at   time.Time
}

const (
	rateSeconds = 10
	maxRates    = 10_000 // peers remembered; beyond that full buckets are forgotten, and then all
)

// pace takes a request off the peer's allowance.
func (s *Server) pace(peer string) error {
	now, full := s.cfg.Now(), float64(rateSeconds*s.cfg.Limits.PeerRate)
	s.mu.Lock()
	defer s.mu.Unlock()
	fill := func(r *rate) {
		r.left = min(full, r.left+max(0, now.Sub(r.at).Seconds())*float64(s.cfg.Limits.PeerRate))
		r.at = now
	}
	r := s.rates[peer]
	if r == nil {
		if len(s.rates) >= maxRates {
			for p, r := range s.rates {
				if fill(r); r.left == full {
					delete(s.rates, p)
				}
			}
			if len(s.rates) >= maxRates {
				clear(s.rates)
			}
		}
		r = &rate{left: full, at: now}
		s.rates[peer] = r
	}
	if fill(r); r.left < 1 {
		return &fault.Error{Kind: fault.Limited, Message: "too many requests of this provider; please wait a little", RetryAfter: time.Second}
	}
	r.left--
	return nil
}
