package xmpp

import (
	"database/sql"
	"encoding/xml"
	"strings"
	"testing"

	gosrc "gosrc.io/xmpp"
	"gosrc.io/xmpp/stanza"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// FuzzStanza hands arbitrary stanzas to the handlers of both domains, in a room with an occupant. Nothing
// panics, nothing reaches the provider that is against its contract (the twin checks), and nobody but the sender
// acts.
func FuzzStanza(f *testing.F) {
	const at = "from='romeo@xmpp.example/orchard' id='1' "
	for _, s := range []string{
		`<message type='groupchat' ` + at + `to='balcony@rooms.mimi.xmpp.example'><body>x</body><origin-id xmlns='urn:xmpp:sid:0' id='o'/></message>`,
		`<message ` + at + `to='balcony@rooms.mimi.xmpp.example'><x xmlns='http://jabber.org/protocol/muc#user'><invite to='juliet%matrix.example@mimi.xmpp.example'/><decline to='a@b'/></x></message>`,
		`<message type='error' ` + at + `to='balcony@rooms.mimi.xmpp.example'><error><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>`,
		`<message type='chat' ` + at + `to='mimi.xmpp.example'><body>invite balcony mimi://matrix.example/u/juliet</body></message>`,
		`<message ` + at + `to='juliet%matrix.example@mimi.xmpp.example'><x xmlns='jabber:x:conference' jid='balcony@rooms.mimi.xmpp.example'/></message>`,
		`<presence ` + at + `to='balcony@rooms.mimi.xmpp.example/Montague'><show>away</show><priority>999</priority></presence>`,
		`<presence ` + at + `to='x%hub.example@rooms.mimi.xmpp.example/Romeo'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='abc' since='x'/></x></presence>`,
		`<presence type='unavailable' ` + at + `to='balcony@rooms.mimi.xmpp.example/Romeo'/>`,
		`<iq type='set' ` + at + `to='mimi.xmpp.example'><command xmlns='http://jabber.org/protocol/commands' node='invite'><x xmlns='jabber:x:data' type='submit'><field var='room'><value>balcony</value></field><field var='person'><value>mimi://a/u/b</value></field></x></command></iq>`,
		`<iq type='set' ` + at + `to='balcony@rooms.mimi.xmpp.example'><query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='none' jid='juliet%matrix.example@mimi.xmpp.example'/></query></iq>`,
		`<iq type='set' ` + at + `to='balcony@rooms.mimi.xmpp.example'><query xmlns='http://jabber.org/protocol/muc#owner'><destroy/><x xmlns='jabber:x:data' type='submit'/></query></iq>`,
		`<iq type='set' ` + at + `to='balcony@rooms.mimi.xmpp.example'><query xmlns='jabber:iq:register'><username>x</username><remove/></query></iq>`,
		`<iq type='get' ` + at + `to='balcony@rooms.mimi.xmpp.example/juliet'><ping xmlns='urn:xmpp:ping'/></iq>`,
		`<iq type='get' ` + at + `to='balcony@rooms.mimi.xmpp.example'><query xmlns='http://jabber.org/protocol/disco#info' node='x-roomuser-item'/></iq>`,
		`<iq type='set' ` + at + `to='mimi.xmpp.example'><query xmlns='jabber:iq:gateway'><prompt>mimi://a/u/b</prompt></query></iq>`,
		`<iq type='result' ` + at + `to='mimi.xmpp.example'/><iq type='error' to='x' from='y'/>`,
	} {
		f.Add(s)
	}
	tw := newTwin(f, testConfig("127.0.0.1:1"))
	tw.do(func() {
		tw.hold = true // intents are taken, and nothing comes of them
		r := tw.room(balconyURI)
		r.known = true
		r.info.Participants = []adapter.Participant{{User: romeoURI, Role: 4, RoleName: "super_admin", Send: true, Admin: true}, {User: julietURI, Send: true}}
	})
	s, err := newService(f.Context(), tw.cfg, tw)
	if err != nil {
		f.Fatal(err)
	}
	from, _ := parseAddr(romeo)
	occupy := func() {
		if err := s.db.write(func(tx *sql.Tx) error { return putOccupant(tx, occupantRow{balconyURI, romeoURI, from}) }); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		occupy()
		s.mu.Lock()
		s.byURI = make(map[mimiuri.URI]*room)
		s.mu.Unlock()
		tw.do(func() { tw.intents, tw.held, tw.seen = nil, nil, map[string]bool{} })
		d := xml.NewTokenDecoder(newFilter(strings.NewReader(streamHead+text), 100_000))
		if _, err := stanza.InitStream(d); err != nil {
			return
		}
		senders := map[mimiuri.URI]bool{}
		for {
			p, err := stanza.NextPacket(d)
			if err != nil {
				break
			}
			if _, ok := p.(stanza.StreamClosePacket); ok {
				break
			}
			in, ok := readPacket(s.toRoom, p)
			if !ok || in.from.domain == testUsers || in.from.domain == testRooms {
				continue
			}
			if u, ok := s.person(in.from.bare()); ok {
				senders[u] = true
			}
			for _, routes := range []*gosrc.Router{s.roomRoutes, s.userRoutes} {
				var m gosrc.RouteMatch
				if routes.Match(p, &m) {
					m.Handler.HandlePacket(nil, p)
				}
			}
		}
		tw.do(func() {
			for _, in := range tw.intents {
				if !senders[in.Actor] {
					t.Errorf("an intent of %s, who has sent nothing", in.Actor)
				}
			}
		})
	})
}
