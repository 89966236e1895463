package xmpp

import (
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
)

// The reason of an invitation reaches local people in both forms, also when they are asked again; from a daemon started anew, too.
func TestInvitationReason(t *testing.T) {
	covers(t, "reasons of invitations, within this server", "XEP-0045 7.8, XEP-0249", "both", "stanzas")
	w := newBalcony(t)
	invite := func(reason string) {
		t.Helper()
		w.toRooms("<message id='i1' from='%s' to='%s'><x xmlns='%s'><invite to='benvolio@xmpp.example'><reason>%s</reason></invite></x></message>", romeo, balcony, nsMUCUser, reason)
	}
	invited := func(mark int, reason string) {
		t.Helper()
		e := w.expect(mark, "ben is invited", func(e *element) bool {
			return e.attr("to") == "benvolio@xmpp.example" && e.child(nsDirect, "x") != nil
		})
		if got := e.child(nsMUCUser, "x").child(nsMUCUser, "invite").text(nsMUCUser, "reason"); got != reason || e.child(nsDirect, "x").attr("reason") != reason || !strings.HasSuffix(bodyText(e), ": "+reason) {
			t.Errorf("%s", e)
		}
	}
	w.tw.do(func() { w.tw.hold = true })
	mark := w.mark()
	invite("  come &amp; see ")
	w.tw.must(w.tw.until("it is handed in", func() bool { return len(w.tw.held) == 1 }))
	w.restart()
	w.tw.release()
	invited(mark, "come & see")
	mark = w.mark()
	invite("again " + strings.Repeat("x", 500))
	invited(mark, "again "+strings.Repeat("x", maxReason-6))
	// By XEP-0249 to somebody elsewhere: MIMI has no reasons, the invitation is as without.
	w.tw.do(func() { w.tw.refuse = func(adapter.Intent) error { return fault.New(fault.Forbidden, "not them") } })
	mark = w.mark()
	w.toUsers("<message id='d1' from='%s' to='nurse%%matrix.example@%s'><x xmlns='%s' jid='%s' reason='come'/></message>", romeo, testUsers, nsDirect, balcony)
	w.expect(mark, "romeo is told", func(e *element) bool { return e.attr("id") == "d1" && e.attr("type") == "error" })
	if in := w.last(); in.Kind != adapter.Invite || in.Target.ID != "nurse" {
		t.Errorf("%+v", in)
	}
}
