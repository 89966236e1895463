package xmpp

import (
	"encoding/xml"
	"errors"
	"strings"
	"unicode/utf8"
)

// Namespaces, by the specification that defines them.
const (
	nsComponent = "jabber:component:accept"              // XEP-0114
	nsClient    = "jabber:client"                        // RFC 6120
	nsStanzas   = "urn:ietf:params:xml:ns:xmpp-stanzas"  // RFC 6120
	nsMUC       = "http://jabber.org/protocol/muc"       // XEP-0045
	nsMUCUser   = "http://jabber.org/protocol/muc#user"  // XEP-0045
	nsMUCAdmin  = "http://jabber.org/protocol/muc#admin" // XEP-0045
	nsMUCOwner  = "http://jabber.org/protocol/muc#owner" // XEP-0045
	nsRoomInfo  = "http://jabber.org/protocol/muc#roominfo"
	nsRoomConf  = "http://jabber.org/protocol/muc#roomconfig"
	nsStableID  = "http://jabber.org/protocol/muc#stable_id"
	nsDirect    = "jabber:x:conference"                   // XEP-0249
	nsDiscoInfo = "http://jabber.org/protocol/disco#info" // XEP-0030
	nsDiscoItem = "http://jabber.org/protocol/disco#items"
	nsCommands  = "http://jabber.org/protocol/commands" // XEP-0050
	nsData      = "jabber:x:data"                       // XEP-0004
	nsRegister  = "jabber:iq:register"                  // XEP-0077
	nsGateway   = "jabber:iq:gateway"                   // XEP-0100
	nsVersion   = "jabber:iq:version"                   // XEP-0092
	nsPing      = "urn:xmpp:ping"                       // XEP-0199
	nsDelay     = "urn:xmpp:delay"                      // XEP-0203
	nsHints     = "urn:xmpp:hints"                      // XEP-0334
	nsSID       = "urn:xmpp:sid:0"                      // XEP-0359
	nsOccupant  = "urn:xmpp:occupant-id:0"              // XEP-0421
	nsNick      = "http://jabber.org/protocol/nick"     // XEP-0172
	nsVCard     = "vcard-temp"                          // XEP-0054
	nsVCardX    = "vcard-temp:x:update"                 // XEP-0153
	nsRSM       = "http://jabber.org/protocol/rsm"      // XEP-0059
	nsOMEMO     = "eu.siacs.conversations.axolotl"      // XEP-0384
	nsOMEMO2    = "urn:xmpp:omemo:2"
	nsEME       = "urn:xmpp:eme:0"                        // XEP-0380
	nsPGP       = "jabber:x:encrypted"                    // XEP-0027
	nsOX        = "urn:xmpp:openpgp:0"                    // XEP-0373
	nsStyling   = "urn:xmpp:styling:0"                    // XEP-0393
	nsReply     = "urn:xmpp:reply:0"                      // XEP-0461
	nsFallback  = "urn:xmpp:fallback:0"                   // XEP-0428
	nsFallback0 = "urn:xmpp:feature-fallback:0"           // its first form
	nsReactions = "urn:xmpp:reactions:0"                  // XEP-0444
	nsCorrect   = "urn:xmpp:message-correct:0"            // XEP-0308
	nsRetract   = "urn:xmpp:message-retract:1"            // XEP-0424
	nsRetract0  = "urn:xmpp:message-retract:0"            // its first form, which many clients still have
	nsFasten    = "urn:xmpp:fasten:0"                     // XEP-0422, for the first forms
	nsModerate  = "urn:xmpp:message-moderate:1"           // XEP-0425
	nsModerate0 = "urn:xmpp:message-moderate:0"           // its first form
	nsReference = "urn:xmpp:reference:0"                  // XEP-0372
	nsEphemeral = "urn:xmpp:ephemeral:0"                  // XEP-0466
	nsReceipts  = "urn:xmpp:receipts"                     // XEP-0184
	nsMarkers   = "urn:xmpp:chat-markers:0"               // XEP-0333
	nsStates    = "http://jabber.org/protocol/chatstates" // XEP-0085
	nsGeoloc    = "http://jabber.org/protocol/geoloc"     // XEP-0080
	nsMentions  = "urn:xmpp:mmn:0"                        // XEP-0452
	nsForward   = "urn:xmpp:forward:0"                    // XEP-0297
	nsOOB       = "jabber:x:oob"                          // XEP-0066
	nsSFS       = "urn:xmpp:sfs:0"                        // XEP-0447
	nsESFS      = "urn:xmpp:esfs:0"                       // XEP-0448
	nsFile      = "urn:xmpp:file:metadata:0"              // XEP-0446
	nsURLData   = "http://jabber.org/protocol/url-data"   // XEP-0103
	nsHashes    = "urn:xmpp:hashes:2"                     // XEP-0300
	nsSIMS      = "urn:xmpp:sims:1"                       // XEP-0385
	nsJingleFT  = "urn:xmpp:jingle:apps:file-transfer:5"
	nsSticker   = "urn:xmpp:stickers:0" // XEP-0449
)

// element is an XML element as it travels in a stanza. Space is the namespace; "" is the stanza's own, which
// is jabber:component:accept on this link and jabber:client elsewhere. Mixed content is not kept in order: no
// element that is read or written here has any.
type element struct {
	Space, Local string
	Attr         []attr
	Text         string
	Kids         []*element
}

// attr is an attribute without namespace, or "xml:lang".
type attr struct{ Name, Value string }

// el makes an element; attrs are names and values in turn, and an empty value leaves the attribute out.
func el(space, local string, attrs ...string) *element {
	e := &element{Space: space, Local: local}
	for i := 0; i+1 < len(attrs); i += 2 {
		e.set(attrs[i], attrs[i+1])
	}
	return e
}

// textEl makes an element that holds only text.
func textEl(space, local, text string) *element {
	return &element{Space: space, Local: local, Text: text}
}

// add appends children, leaving out nil ones, and returns e.
func (e *element) add(kids ...*element) *element {
	for _, k := range kids {
		if k != nil {
			e.Kids = append(e.Kids, k)
		}
	}
	return e
}

// set sets an attribute; an empty value leaves e as it is.
func (e *element) set(name, value string) *element {
	if value == "" {
		return e
	}
	for i := range e.Attr {
		if e.Attr[i].Name == name {
			e.Attr[i].Value = value
			return e
		}
	}
	e.Attr = append(e.Attr, attr{name, value})
	return e
}

// attr returns an attribute's value, "" if there is none. e may be nil.
func (e *element) attr(name string) string {
	if e == nil {
		return ""
	}
	for _, a := range e.Attr {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}

// child returns the first child of that name, or nil. e may be nil.
func (e *element) child(space, local string) *element {
	if e == nil {
		return nil
	}
	return find(e.Kids, space, local)
}

// text returns the text of the first child of that name, "" if there is none.
func (e *element) text(space, local string) string {
	if c := e.child(space, local); c != nil {
		return c.Text
	}
	return ""
}

func find(list []*element, space, local string) *element {
	for _, k := range list {
		if k.Space == space && k.Local == local {
			return k
		}
	}
	return nil
}

// with returns a copy of e with other from and to, sharing the children: one stanza for many receivers.
func (e *element) with(to string) *element {
	c := *e
	c.Attr = append([]attr(nil), e.Attr...)
	c.set("to", to)
	return &c
}

// appendXML writes e behind b. parent is the namespace in force. Every string is cleaned of what would make
// the server close the stream.
func (e *element) appendXML(b []byte, parent string) []byte {
	b = append(b, '<')
	b = append(b, e.Local...)
	space := e.Space
	if space == "" {
		space = parent // the stanza's own namespace is only used directly below the stanza
	}
	if space != parent {
		b = append(b, ` xmlns='`...)
		b = appendEscaped(b, space, true)
		b = append(b, '\'')
	}
	for _, a := range e.Attr {
		b = append(b, ' ')
		b = append(b, a.Name...)
		b = append(b, '=', '\'')
		b = appendEscaped(b, a.Value, true)
		b = append(b, '\'')
	}
	if e.Text == "" && len(e.Kids) == 0 {
		return append(b, '/', '>')
	}
	b = append(b, '>')
	b = appendEscaped(b, e.Text, false)
	for _, k := range e.Kids {
		b = k.appendXML(b, space)
	}
	b = append(b, '<', '/')
	b = append(b, e.Local...)
	return append(b, '>')
}

// String gives e as XML, for tests and sizes.
func (e *element) String() string { return string(e.appendXML(nil, "")) }

// appendEscaped writes s with markup escaped. What XML 1.0 has no character for (section 2.2: most
// control characters, U+FFFE, U+FFFF) or is not UTF-8 becomes U+FFFD: one of them on the wire, even as
// a reference, ends the stream for everybody.
func appendEscaped(b []byte, s string, inAttr bool) []byte {
	from := 0 // what is behind it has not been written
	for i, r := range s {
		if r >= ' ' && r < 0x7f && !strings.ContainsRune(`&<>'"`, r) { // as it is; most text is nothing else
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		if r >= utf8.RuneSelf {
			_, n := utf8.DecodeRuneInString(s[i:])
			from = i + n
		}
		switch {
		case r == '&':
			b = append(b, "&amp;"...)
		case r == '<':
			b = append(b, "&lt;"...)
		case r == '>':
			b = append(b, "&gt;"...)
		case r == '\'':
			b = append(b, "&apos;"...)
		case r == '"':
			b = append(b, "&quot;"...)
		case r == '\r': // a raw one would be read as a line feed
			b = append(b, "&#13;"...)
		case r == '\n' && inAttr:
			b = append(b, "&#10;"...)
		case r == '\t' && inAttr:
			b = append(b, "&#9;"...)
		case isXMLChar(r):
			b = utf8.AppendRune(b, r)
		default:
			b = utf8.AppendRune(b, utf8.RuneError)
		}
	}
	return append(b, s[from:]...)
}

// isXMLChar is Char of XML 1.0 section 2.2.
func isXMLChar(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' ||
		r >= 0x20 && r <= 0xD7FF || r >= 0xE000 && r <= 0xFFFD || r >= 0x10000 && r <= 0x10FFFF
}

// readElement reads one element whose start has been read, to its end. Comments and processing instructions are
// dropped. The caller has bounded size and depth.
func readElement(d *xml.Decoder, start xml.StartElement) (*element, error) {
	root := startElement(start)
	stack := []*element{root}
	var texts [][]byte // of those in stack that have some
	for {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if len(stack) > maxDepth {
				return nil, errors.New("xmpp: elements nested too deep")
			}
			e := startElement(t)
			top := stack[len(stack)-1]
			top.Kids = append(top.Kids, e)
			stack = append(stack, e)
		case xml.CharData:
			for len(texts) < len(stack) {
				texts = append(texts, nil)
			}
			texts[len(stack)-1] = append(texts[len(stack)-1], t...)
		case xml.EndElement:
			n := len(stack) - 1
			if len(texts) > n {
				stack[n].Text = string(texts[n])
				texts = texts[:n]
			}
			stack = stack[:n]
			if n == 0 {
				return root, nil
			}
		}
	}
}

func startElement(s xml.StartElement) *element {
	e := &element{Space: s.Name.Space, Local: s.Name.Local}
	switch e.Space {
	case nsComponent, nsClient:
		e.Space = "" // the stanza's own namespace
	case "":
		e.Space = "-" // no namespace at all (xmlns=''), which must not pass for the stanza's own
	}
	for _, a := range s.Attr {
		switch {
		case a.Name.Space == "" && a.Name.Local != "xmlns":
			e.Attr = append(e.Attr, attr{a.Name.Local, a.Value})
		case isXMLLang(a.Name):
			e.Attr = append(e.Attr, attr{"xml:lang", a.Value})
		}
	}
	return e
}

// isXMLLang reports whether a decoded attribute name is xml:lang.
func isXMLLang(n xml.Name) bool {
	return n.Local == "lang" && (n.Space == "xml" || n.Space == "http://www.w3.org/XML/1998/namespace")
}

// inClient is the element for use within another: what stands in the stanza's own namespace on a component's stream would be
// in none that clients know there.
func (e *element) inClient() *element {
	c := *e
	if c.Space == "" {
		c.Space = nsClient
	}
	c.Kids = make([]*element, len(e.Kids))
	for i, k := range e.Kids {
		c.Kids[i] = k
		if k.Space == "" {
			d := *k
			d.Space = nsClient
			c.Kids[i] = &d
		}
	}
	return &c
}
