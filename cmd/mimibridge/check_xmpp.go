package main

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/config"
)

// streamError is the condition of an XMPP stream error.
type streamError string

func (s streamError) Error() string { return "stream error " + string(s) }

// probe is a component stream, as far as checks need one.
type probe struct {
	conn   net.Conn
	dec    *xml.Decoder
	domain string
	seen   []element // what came and was not waited for
}

type element struct {
	XMLName xml.Name
	Type    string `xml:"type,attr"`
	ID      string `xml:"id,attr"`
	From    string `xml:"from,attr"`
	Inner   string `xml:",innerxml"`
}

// connect does the handshake of XEP-0114.
func connectComponent(ctx context.Context, addr, domain, secret string) (*probe, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	p := &probe{conn: conn, dec: xml.NewDecoder(io.LimitReader(conn, 4<<20)), domain: domain}
	if err := p.handshake(secret); err != nil {
		conn.Close()
		return nil, err
	}
	return p, nil
}

func (p *probe) close() {
	_, _ = io.WriteString(p.conn, "</stream:stream>")
	p.conn.Close()
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

func (p *probe) handshake(secret string) error {
	if _, err := fmt.Fprintf(p.conn, "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' to='%s'>", escaped(p.domain)); err != nil {
		return err
	}
	for {
		tok, err := p.dec.Token()
		if err != nil {
			return fmt.Errorf("no component stream: %w", err)
		}
		start, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		switch start.Name.Local {
		case "stream":
			id := ""
			for _, a := range start.Attr {
				switch {
				case a.Name.Local == "id":
					id = a.Value
				case a.Name.Local == "xmlns" && a.Name.Space == "" && a.Value == "jabber:client":
					return errors.New("this is a stream for clients")
				}
			}
			sum := sha1.Sum([]byte(id + secret)) // what XEP-0114 wants
			if _, err := fmt.Fprintf(p.conn, "<handshake>%s</handshake>", hex.EncodeToString(sum[:])); err != nil {
				return err
			}
		case "handshake":
			return p.dec.Skip()
		case "error":
			for {
				tok, err := p.dec.Token()
				if err != nil {
					return streamError("undefined-condition")
				}
				if cond, ok := tok.(xml.StartElement); ok {
					return streamError(cond.Name.Local)
				}
			}
		default:
			return fmt.Errorf("an element %q instead of a component stream", start.Name.Local)
		}
	}
}

// await reads until an element that ok takes.
func (p *probe) await(ok func(element) bool) (element, error) {
	for {
		tok, err := p.dec.Token()
		if err != nil {
			return element{}, err
		}
		start, isStart := tok.(xml.StartElement)
		if !isStart {
			continue
		}
		var e element
		if err := p.dec.DecodeElement(&e, &start); err != nil {
			return element{}, err
		}
		if ok(e) {
			return e, nil
		}
		p.seen = append(p.seen, e)
	}
}

// ask sends an iq and waits for its answer.
func (p *probe) ask(to, payload string) (element, error) {
	id := rand.Text()
	if _, err := fmt.Fprintf(p.conn, "<iq type='get' id='%s' from='%s' to='%s'>%s</iq>", id, escaped(p.domain), escaped(to), payload); err != nil {
		return element{}, err
	}
	return p.await(func(e element) bool {
		return e.XMLName.Local == "iq" && e.ID == id && (e.Type == "result" || e.Type == "error")
	})
}

// checkComponents does the handshake for both component domains, and what needs it: files, privileges, a message in a loop.
func checkComponents(ctx context.Context, k *checker, x *config.XMPP) {
	users := checkComponent(ctx, k, x, x.Users)
	rooms := checkComponent(ctx, k, x, x.Rooms)
	if users != nil {
		defer users.close()
	}
	if rooms != nil {
		defer rooms.close()
	}
	if users == nil || rooms == nil {
		return
	}
	checkXMPPLoop(k, users, rooms)
	checkUpload(ctx, k, x, users)
	// A server announces what it lets the component do right after the handshake.
	grants := ""
	for _, e := range users.seen {
		if e.XMLName.Local == "message" && strings.Contains(e.Inner, "urn:xmpp:privilege:") {
			grants += e.Inner
		}
	}
	granted := grantsOf(grants)
	for _, one := range []struct{ access, cost string }{
		{"roster", "contacts elsewhere do not appear in rosters by themselves where people have answered by a command: they add them by hand"},
		{"iq for pubsub", "rooms in which people take part do not appear among their bookmarks by themselves"},
	} {
		switch typ := granted[one.access]; typ {
		case "both":
			k.ok("the XMPP server grants the privilege %s", one.access)
		case "set":
			k.note("the XMPP server grants the privilege " + one.access + " only to set; with \"both\" what people have there themselves is left as it is")
		default:
			k.note("the XMPP server does not grant the privilege " + one.access + " (XEP-0356), which is optional; without it " + one.cost +
				"\n      to have it: mod_privilege, with the lines that `mimibridge init` writes beside the component's")
		}
	}
}

// grantsOf reads announcements of privileges (XEP-0356 section 4.2): what may be done, by what it is about.
func grantsOf(inner string) map[string]string {
	var m struct {
		Privileges []struct {
			Perms []struct {
				Access     string `xml:"access,attr"`
				Type       string `xml:"type,attr"`
				Namespaces []struct {
					NS   string `xml:"ns,attr"`
					Type string `xml:"type,attr"`
				} `xml:"namespace"`
			} `xml:"perm"`
		} `xml:"privilege"`
	}
	out := make(map[string]string)
	if xml.Unmarshal([]byte("<grants>"+inner+"</grants>"), &m) != nil {
		return out
	}
	for _, p := range m.Privileges {
		for _, one := range p.Perms {
			out[one.Access] = one.Type
			for _, n := range one.Namespaces {
				if n.NS == "http://jabber.org/protocol/pubsub" {
					out["iq for pubsub"] = n.Type
				}
			}
		}
	}
	return out
}

// checkComponent does the handshake for one component domain; nil if it failed, or another stream holds the domain.
func checkComponent(ctx context.Context, k *checker, x *config.XMPP, domain string) *probe {
	p, err := connectComponent(ctx, x.Server, domain, x.Secret)
	var cond streamError
	var op *net.OpError
	switch {
	case err == nil:
		k.ok("the XMPP server accepts the component %s", domain)
	case errors.As(err, &cond) && cond == "conflict":
		k.ok("the XMPP server knows the component %s, and it is connected: a daemon is running", domain)
	case errors.As(err, &cond) && cond == "host-unknown":
		k.fail("the XMPP server does not know the component "+domain, `add Component "`+domain+`" to its configuration and restart it (Prosody opens no component on reload; ejabberd: reload_config); a name of your choice goes into network.xmpp`)
	case errors.As(err, &cond) && cond == "not-authorized":
		k.fail("the XMPP server refuses the secret of the component "+domain, "give both sides the same component_secret")
	case errors.As(err, &op) && op.Op == "dial":
		k.fail("the XMPP server does not answer at "+x.Server+": "+op.Err.Error(), "is it running, and are component_ports and component_interfaces set as in network.xmpp.server?")
	default:
		k.fail("the component "+domain+" cannot connect: "+err.Error(), "is "+x.Server+" the component port, not the one for clients?")
	}
	return p
}

// checkXMPPLoop sends a message from one component to the other, through the server.
func checkXMPPLoop(k *checker, users, rooms *probe) {
	id := rand.Text()
	_, err := fmt.Fprintf(users.conn, "<message id='%s' from='check@%s' to='check@%s'><body>mimibridge check</body></message>", id, escaped(users.domain), escaped(rooms.domain))
	if err == nil {
		_ = rooms.conn.SetReadDeadline(time.Now().Add(loopPatience))
		_, err = rooms.await(func(e element) bool { return e.XMLName.Local == "message" && e.ID == id && e.Type != "error" })
	}
	if err != nil {
		k.fail("a message from "+users.domain+" to "+rooms.domain+" does not come through the XMPP server: "+err.Error(), "does a firewall or filter module stand between its components? Its log says what became of it")
		return
	}
	k.ok("a message goes through the XMPP server from %s to %s", users.domain, rooms.domain)
}

// checkUpload looks for the upload service of the local domain (XEP-0363) and uploads one octet, as the component does it with files.
func checkUpload(ctx context.Context, k *checker, x *config.XMPP, p *probe) {
	const cure = "Prosody: http_file_share_access = { \"%[1]s\", \"%[2]s\" } below its http_file_share; ejabberd: mod_http_upload, access: with a rule that lets %[1]s in"
	services := []string{x.LocalDomain}
	if items, err := p.ask(x.LocalDomain, "<query xmlns='http://jabber.org/protocol/disco#items'/>"); err == nil {
		var q struct {
			Items []struct {
				JID string `xml:"jid,attr"`
			} `xml:"item"`
		}
		if xml.Unmarshal([]byte(items.Inner), &q) == nil {
			for _, i := range q.Items[:min(len(q.Items), 30)] {
				if i.JID != x.Users && i.JID != x.Rooms {
					services = append(services, i.JID)
				}
			}
		}
	}
	found := ""
	for _, jid := range services {
		info, err := p.ask(jid, "<query xmlns='http://jabber.org/protocol/disco#info'/>")
		if err == nil && strings.Contains(info.Inner, "urn:xmpp:http:upload:0") {
			found = jid
			break
		}
	}
	if found == "" {
		k.warn("the XMPP server has no upload service: files from elsewhere are shown as links into this provider, which need its listener", "Prosody: Component \"upload."+x.LocalDomain+"\" \"http_file_share\"; ejabberd: mod_http_upload")
		return
	}
	slot, err := p.ask(found, "<request xmlns='urn:xmpp:http:upload:0' filename='mimibridge-check.txt' size='1' content-type='text/plain'/>")
	var s struct {
		Put struct {
			URL     string `xml:"url,attr"`
			Headers []struct {
				Name  string `xml:"name,attr"`
				Value string `xml:",chardata"`
			} `xml:"header"`
		} `xml:"put"`
	}
	if err == nil && slot.Type == "result" {
		err = xml.Unmarshal([]byte(slot.Inner), &s)
	}
	if err != nil || s.Put.URL == "" {
		k.fail("the upload service "+found+" gives the component "+p.domain+" no slot", fmt.Sprintf(cure, x.Users, x.Rooms))
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, s.Put.URL, strings.NewReader("."))
	if err != nil {
		k.fail("the upload service "+found+" gives a URL that is none", "its http_host or put_url")
		return
	}
	req.Header.Set("Content-Type", "text/plain")
	for _, h := range s.Put.Headers {
		req.Header.Set(h.Name, strings.TrimSpace(h.Value))
	}
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		u := (*url.Error)(nil)
		errors.As(err, &u)
		k.fail("what the upload service "+found+" gives as URL cannot be reached from here: "+u.Err.Error(), "its http_host or put_url has to resolve on this machine, too, with a certificate that is valid")
		return
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		k.fail(fmt.Sprintf("an upload to %s is answered with %d", found, resp.StatusCode), "does a proxy before it refuse PUT? Its log has the reason")
		return
	}
	k.ok("the upload service %s takes files of the component", found)
}
