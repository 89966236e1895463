package xmpp

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"gosrc.io/xmpp/stanza"

	"github.com/mimibridge/mimibridge/core/fault"
)

// Times and limits of a stream.
const (
	dialTimeout  = 15 * time.Second
	writeTimeout = 30 * time.Second
	pingTimeout  = 30 * time.Second // a server that does not answer for this long is gone
	idlePing     = 25 * time.Second // nothing read for this long: ask
	readTimeout  = 90 * time.Second
	backoffMin   = 200 * time.Millisecond
	backoffMax   = 60 * time.Second
	maxPending   = 64 << 20 // octets waiting to be written
)

// errDown is what becomes of a stanza while there is no stream: temporary.
var errDown = fault.New(fault.Unavailable, "the XMPP server cannot be reached now; it will be tried again")

// errBusy is what becomes of a stanza while the server takes them too slowly.
var errBusy = fault.New(fault.Unavailable, "the XMPP server is too slow; it will be tried again")

// errPanicked is what becomes of what panicked.
var errPanicked = errors.New("xmpp: panic")

// stream is one component connection (XEP-0114). It is made anew whenever it ends, with a growing pause, and each
// connection starts with nothing left over from the one before.
//
// XEP-0114 has no acknowledgements. What stands in for them is a ping to the server (XEP-0199) behind the
// stanzas: a server handles a component's stanzas in their order, so the answer says that it has handled
// them. send returns a mark, and confirm waits for the answer to a ping behind it. There is one
// ping under way at a time, and it confirms whatever was sent before it, for however many callers.
type stream struct {
	domain string // our name on this stream
	addr   string // host:port
	secret string
	tls    *tls.Config // nil for plain
	server string      // whom to ping
	max    int64       // octets of a stanza read
	log    zerolog.Logger
	other  *stream // to the same server, for the other domain; nil in tests

	first uint64 // the number before that of the first connection: those of two streams are different

	handle func(p stanza.Packet, f cutoff) // for every stanza; called by the reader, must not block
	up     func(previous, now mark)        // a stream has come up; previous is the last confirmed mark of the one before

	mu    sync.Mutex
	conn  *connection // nil while down
	last  mark        // what was confirmed last on the stream before
	count uint64      // of streams
	via   *stream     // what is sent goes through that one, as long as its connection lasts; see merge

	panics atomic.Uint64 // so far
}

// merge is called when something for the other domain, or an answer to it, has come on s. ejabberd gives every connection to
// a port that knows several domains all of them, and deals stanzas out to the connections as it likes, which puts them out of
// order: one of the two is closed, and the other serves both domains.
func (s *stream) merge() {
	o := s.other
	if o == nil {
		return
	}
	merging.Lock()
	defer merging.Unlock()
	s.mu.Lock()
	alive := s.conn != nil && s.via == nil
	s.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !alive || o.via != nil || o.conn == nil {
		return
	}
	o.via = s
	s.log.Info().Str("domain", o.domain).Str("by", s.domain).Msg("the server serves both domains on one stream")
	go o.conn.goodbye()
}

// merging is held while one stream is merged with another: each of two may find out at the same time.
var merging sync.Mutex

// through gives the stream that s goes through, nil if that is itself.
func (s *stream) through() *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.via
}

// streamNumbers is how many connections a stream can have had; it parts the numbers of two streams.
const streamNumbers = 1 << 40

// mark is a place in a stream: stanzas sent up to pos on the count-th stream. The zero mark is nowhere, and
// confirmed.
type mark struct{ stream, pos uint64 }

// connection is one established stream.
type connection struct {
	net.Conn
	stream uint64

	mu        sync.Mutex
	wake      *sync.Cond
	out       []byte // to be written
	pos       uint64 // stanzas put into out so far
	err       error  // why it ended; nil while it is alive
	ended     chan struct{}
	confirmed uint64
	ping      string // id of the ping under way, "" for none
	pingPos   uint64 // what it confirms
	pingAt    time.Time
	lastRead  time.Time
	lastWrote time.Time
	closing   bool // the end tag has been put into out
	waiting   []waiter
	pings     uint64
}

type waiter struct {
	pos  uint64
	done chan error
}

// run keeps the stream up until ctx is done.
func (s *stream) run(ctx context.Context) {
	pause := backoffMin
	for ctx.Err() == nil {
		began := time.Now()
		err := s.guarded(func() error { return s.once(ctx) })
		for ctx.Err() == nil {
			v := s.through()
			if v == nil {
				break
			}
			v.mu.Lock()
			c := v.conn
			v.mu.Unlock()
			if c != nil {
				select {
				case <-c.ended:
				case <-ctx.Done():
				}
				continue
			}
			s.mu.Lock()
			s.via = nil
			s.mu.Unlock()
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			pause = backoffMin
		}
		wait := pause + rand.N(pause/2+1)
		s.log.Warn().Err(err).Str("domain", s.domain).Dur("pause_ms", wait).Msg("the stream to the XMPP server is down")
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		pause = min(pause*2, backoffMax)
	}
}

// guarded runs f. A panic in it, as by a stanza that the library or this package cannot bear, ends the connection and nothing else. What the
// panic says may be of that stanza, so that only its type is logged, with their number.
func (s *stream) guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error().Str("domain", s.domain).Type("panic", r).Uint64("panics", s.panics.Add(1)).Bytes("stack", debug.Stack()).Msg("a stream panicked; it is made anew")
			err = errPanicked
		}
	}()
	return f()
}

// once connects, serves until the stream ends, and says why it ended.
func (s *stream) once(ctx context.Context) error {
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext(dctx, "tcp", s.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	// Until the handshake is done, the end of ctx ends the connection.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	if s.tls != nil {
		c := s.tls.Clone()
		if c.ServerName == "" {
			c.ServerName, _, _ = net.SplitHostPort(s.addr)
		}
		t := tls.Client(conn, c)
		if err := t.HandshakeContext(dctx); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		conn = t
	}

	filter := newFilter(conn, s.max)
	dec := xml.NewTokenDecoder(filter)
	open := el("", "stream:stream", "xmlns", nsComponent, "xmlns:stream", stanza.NSStream, "to", s.domain)
	head := open.appendXML([]byte("<?xml version='1.0'?>"), "")
	head = append(head[:len(head)-2], '>') // a start tag, not an empty element
	if _, err := conn.Write(head); err != nil {
		return err
	}
	id, err := stanza.InitStream(dec)
	if err != nil {
		return fmt.Errorf("stream start: %w", err)
	}
	sum := sha1.Sum([]byte(id + s.secret)) // XEP-0114 section 3: what the protocol asks for
	if _, err := fmt.Fprintf(conn, "<handshake>%s</handshake>", hex.EncodeToString(sum[:])); err != nil {
		return err
	}
	p, err := stanza.NextPacket(dec)
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	switch p := p.(type) {
	case stanza.Handshake:
	case stanza.StreamError:
		return streamError("handshake refused", p)
	default:
		return fmt.Errorf("handshake: the server sent %s", p.Name())
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if !stop() {
		return ctx.Err()
	}

	c := &connection{Conn: conn, ended: make(chan struct{}), lastRead: time.Now()}
	c.wake = sync.NewCond(&c.mu)
	s.mu.Lock()
	s.count++
	c.stream = s.first + s.count
	previous := s.last
	s.conn = c
	s.mu.Unlock()
	if s.other != nil && s.other.isUp() {
		// Whether the server deals stanzas for both domains out to both connections is found out before it does so.
		for range 8 {
			ping := el("", "iq", "type", "get", "id", "mb-0-"+strconv.FormatUint(rand.Uint64(), 36), "from", s.domain, "to", s.server)
			_, _ = s.send(ping.add(el(nsPing, "ping")))
		}
	}
	s.log.Info().Str("domain", s.domain).Bool("tls", s.tls != nil).Msg("the stream to the XMPP server is up")

	var work sync.WaitGroup
	work.Add(2)
	go func() { defer work.Done(); c.writer() }()
	go func() { defer work.Done(); s.keepAlive(ctx, c) }()
	stop = context.AfterFunc(ctx, func() { c.goodbye() })
	err = s.guarded(func() error {
		if s.up != nil {
			s.up(previous, mark{stream: c.stream})
		}
		return s.read(c, filter, dec)
	})
	stop()
	c.end(err)
	s.mu.Lock()
	s.conn = nil
	c.mu.Lock()
	s.last = mark{c.stream, c.confirmed}
	c.mu.Unlock()
	s.mu.Unlock()
	work.Wait()
	return err
}

func streamError(what string, e stanza.StreamError) error {
	text := e.Text
	if len(text) > 200 {
		text = text[:200]
	}
	return fmt.Errorf("%s: %s %q", what, e.Error.Local, text)
}

// read hands every stanza to handle until the stream ends.
func (s *stream) read(c *connection, filter *tokenFilter, dec *xml.Decoder) error {
	for {
		if err := c.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
			return err
		}
		p, err := stanza.NextPacket(dec)
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.lastRead = time.Now()
		c.mu.Unlock()
		switch p := p.(type) {
		case stanza.StreamError:
			return streamError("the server ended the stream", p)
		case stanza.StreamClosePacket:
			return errors.New("the server closed the stream")
		case *stanza.IQ:
			if p.To != s.domain && s.other != nil && p.To == s.other.domain {
				s.merge()
			}
			if (p.Type == stanza.IQTypeResult || p.Type == stanza.IQTypeError) && p.From == s.server && (c.pong(p.Id, s) || s.other.pong(p.Id)) {
				continue
			}
		}
		s.handle(p, filter.fault)
	}
}

// keepAlive asks the server whether it is there when it has been silent, and ends a stream on which a ping
// goes unanswered.
func (s *stream) keepAlive(ctx context.Context, c *connection) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-c.ended:
			return
		case <-ctx.Done():
			<-c.ended
			return
		case now := <-t.C:
			c.mu.Lock()
			// A long queue that is being taken, or answers that keep coming, are no silence.
			late := c.ping != "" && now.Sub(c.pingAt) > pingTimeout && now.Sub(c.lastRead) > pingTimeout && now.Sub(c.lastWrote) > pingTimeout
			if c.ping == "" && !c.closing && (now.Sub(c.lastRead) > idlePing || c.pos > c.confirmed && now.Sub(c.lastRead) > time.Second) {
				c.sendPing(s)
			}
			c.mu.Unlock()
			if late {
				c.end(errors.New("the server does not answer"))
				return
			}
		}
	}
}

// sendPing puts a ping behind everything sent so far. c.mu is held, and no ping is under way.
func (c *connection) sendPing(s *stream) {
	c.pings++
	c.ping = "mb-" + strconv.FormatUint(c.pings, 36) + "-" + strconv.FormatUint(rand.Uint64(), 36)
	c.pingPos = c.pos
	c.pingAt = time.Now()
	iq := el("", "iq", "type", "get", "id", c.ping, "from", s.domain, "to", s.server).add(el(nsPing, "ping"))
	c.out = iq.appendXML(c.out, "")
	c.wake.Signal()
}

// pong takes the answer to a ping, of whatever kind: a server that refuses it has handled what was before it, too.
func (c *connection) pong(id string, s *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ping == "" || id != c.ping {
		return false
	}
	c.ping = ""
	c.confirmed = c.pingPos
	rest := c.waiting[:0]
	for _, w := range c.waiting {
		if w.pos <= c.confirmed {
			w.done <- nil
		} else {
			rest = append(rest, w)
		}
	}
	c.waiting = rest
	if len(rest) > 0 && !c.closing {
		c.sendPing(s)
	}
	return true
}

// pong takes the answer to a ping that was sent on this stream and came back on another.
func (s *stream) pong(id string) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	return c != nil && c.pong(id, s)
}

// writer writes what is put into out.
func (c *connection) writer() {
	var buf []byte
	for {
		c.mu.Lock()
		for len(c.out) == 0 && c.err == nil {
			c.wake.Wait()
		}
		if c.err != nil {
			c.mu.Unlock()
			return
		}
		buf, c.out = c.out, buf[:0]
		c.mu.Unlock()
		if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			c.end(err)
			return
		}
		if _, err := c.Write(buf); err != nil {
			c.end(err)
			return
		}
		c.mu.Lock()
		c.lastWrote = time.Now()
		c.mu.Unlock()
		if cap(buf) > 1<<20 {
			buf = nil
		}
	}
}

// end ends the connection: what was not confirmed is told so. Only the first call counts.
func (c *connection) end(err error) {
	if err == nil {
		err = errors.New("the stream ended")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	for _, w := range c.waiting {
		w.done <- errDown
	}
	c.waiting, c.out = nil, nil
	close(c.ended)
	c.wake.Broadcast()
	c.Close()
}

// goodbye closes the stream in order: what waits is written, then the end tag.
func (c *connection) goodbye() {
	c.mu.Lock()
	c.closing = true
	c.out = append(c.out, "</stream:stream>"...)
	c.wake.Signal()
	c.mu.Unlock()
	// The server answers with its own end tag, or not.
	select {
	case <-c.ended:
	case <-time.After(2 * time.Second):
		c.end(context.Canceled)
	}
}

// send puts stanzas into the stream, together and in their order, and returns a mark behind them. It does
// not block.
func (s *stream) send(list ...*element) (mark, error) {
	s.mu.Lock()
	c, v := s.conn, s.via
	s.mu.Unlock()
	if v != nil {
		return v.send(list...)
	}
	if c == nil {
		return mark{}, errDown
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.closing {
		return mark{}, errDown
	}
	if len(c.out) > maxPending {
		return mark{}, errBusy
	}
	for _, e := range list {
		c.out = e.appendXML(c.out, "")
		c.pos++
	}
	c.wake.Signal()
	return mark{c.stream, c.pos}, nil
}

// confirm waits until the server has handled everything up to m. An error means that it may not have.
func (s *stream) confirm(ctx context.Context, m mark) error {
	if m.stream == 0 {
		return nil
	}
	s.mu.Lock()
	c, last, v := s.conn, s.last, s.via
	s.mu.Unlock()
	if v == nil && s.other != nil && m.stream/streamNumbers != s.first/streamNumbers {
		v = s.other // it was sent through that one
	}
	if v != nil && m.stream/streamNumbers == v.first/streamNumbers {
		return v.confirm(ctx, m)
	}
	if c == nil || c.stream != m.stream {
		if last.stream == m.stream && last.pos >= m.pos {
			return nil
		}
		return errDown
	}
	c.mu.Lock()
	if c.confirmed >= m.pos {
		c.mu.Unlock()
		return nil
	}
	if c.err != nil || c.closing {
		c.mu.Unlock()
		return errDown
	}
	w := waiter{m.pos, make(chan error, 1)}
	c.waiting = append(c.waiting, w)
	if c.ping == "" {
		c.sendPing(s)
	}
	c.mu.Unlock()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isUp reports whether there is a stream.
func (s *stream) isUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn != nil || s.via != nil
}
