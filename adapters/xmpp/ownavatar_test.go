package xmpp

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A local user's own picture is told to people elsewhere if the user says so, and follows the account's.
func TestOwnAvatar(t *testing.T) {
	covers(t, "one's own picture, for people elsewhere, by a setting", "XEP-0054, XEP-0153, XEP-0084", "to MIMI", "stanzas")
	w := newBalcony(t)
	picture, typ := "one", "image/png"
	w.stub.mu.Lock()
	w.received = func(e *element) {
		if e.Local == "iq" && e.attr("to") == "romeo@"+testDomain && e.child(nsVCard, "vCard") != nil {
			photo := ""
			if picture != "" {
				photo = "<PHOTO><TYPE>" + typ + "</TYPE><BINVAL>" + base64.StdEncoding.EncodeToString([]byte(picture)) + "\n</BINVAL></PHOTO>"
			}
			fmt.Fprintf(w.conns[testUsers], "<iq type='result' id='%s' from='%s' to='%s'><vCard xmlns='vcard-temp'><FN>Romeo</FN>%s</vCard></iq>", e.attr("id"), e.attr("to"), e.attr("from"), photo)
		}
	}
	w.stub.mu.Unlock()
	shows := func(want string) {
		t.Helper()
		w.tw.must(w.tw.until("the picture is "+want, func() bool { p, ok := w.tw.people.profiles[romeoURI]; return ok && p.Avatar == want }))
	}
	presence := func(hash string) {
		t.Helper()
		w.toRooms("<presence from='%s' to='%s/Romeo'><x xmlns='%s'><photo>%s</photo></x></presence>", romeo, balcony, nsVCardX, hash)
		w.quiet(romeo)
	}
	done := func() {
		t.Helper()
		ch := make(chan bool)
		w.tw.adapter.cur.Load().work.post("avatar "+romeoURI.String(), func() { close(ch) })
		<-ch
	}
	// Not unless it is wanted.
	presence("aa")
	done()
	if did := w.did(); len(did) != 0 {
		t.Errorf("%q", did)
	}
	if got := w.says(romeo, "settings avatar on"); !strings.Contains(got, "avatar: on") {
		t.Errorf("%q", got)
	}
	shows("https://xmpp.example/asset/image/png/3")
	// Another one; the same again is not read again.
	w.stub.mu.Lock()
	picture = "another"
	w.stub.mu.Unlock()
	presence("bb")
	shows("https://xmpp.example/asset/image/png/7")
	n := len(w.did())
	presence("bb")
	done()
	// Neither what is no picture nor what is too large.
	for i, bad := range []string{"image/svg+xml", "image/png"} {
		w.stub.mu.Lock()
		typ, picture = bad, []string{"<svg/>", strings.Repeat("x", maxAvatar+1)}[i]
		w.stub.mu.Unlock()
		presence(fmt.Sprint("c", i))
		done()
	}
	if did := w.did(); len(did) != n {
		t.Errorf("%q", did)
	}
	// A profile that is changed keeps it; none, and off, take it back.
	w.says(romeo, "profile Romeo Montague")
	shows("https://xmpp.example/asset/image/png/7")
	w.stub.mu.Lock()
	typ, picture = "image/png", ""
	w.stub.mu.Unlock()
	presence("")
	shows("")
	w.stub.mu.Lock()
	picture = "one"
	w.stub.mu.Unlock()
	presence("aa")
	shows("https://xmpp.example/asset/image/png/3")
	w.says(romeo, "settings avatar off")
	shows("")
	if did := w.did(); !slices.Contains(did, "profile Romeo Montague ") {
		t.Errorf("%q", did)
	}
}
