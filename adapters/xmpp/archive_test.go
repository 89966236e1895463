package xmpp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/content"
)

// query asks the archive of the balcony and returns the bodies of the page and the end.
func (w *world) query(who, fields, set string) (bodies []string, ids []string, fin *element) {
	w.t.Helper()
	x := ""
	if fields != "" {
		x = "<x xmlns='jabber:x:data' type='submit'>" + fields + "</x>"
	}
	if set != "" {
		set = "<set xmlns='http://jabber.org/protocol/rsm'>" + set + "</set>"
	}
	mark := w.mark()
	a := w.ask(testRooms, who, balcony, "set", "<query xmlns='urn:xmpp:mam:2' queryid='q'>"+x+set+"</query>")
	for _, e := range w.since(mark, func(e *element) bool { return e.attr("to") == who && e.child(nsMAM, "result") != nil }) {
		r := e.child(nsMAM, "result")
		m := r.child(nsForward, "forwarded").child("", "message")
		if r.attr("queryid") != "q" || m == nil || r.child(nsForward, "forwarded").child(nsDelay, "delay") == nil {
			w.t.Errorf("%s", e)
			continue
		}
		text := m.text("", "body")
		if m.child(nsRetract, "retracted") != nil {
			text = "[tombstone]"
		}
		bodies = append(bodies, text)
		ids = append(ids, r.attr("id"))
	}
	if a.attr("type") == "error" {
		return bodies, ids, a
	}
	return bodies, ids, a.child(nsMAM, "fin")
}

func aField(name, value string) string {
	return "<field var='" + name + "'><value>" + value + "</value></field>"
}

// XEP-0313: what the room's archive answers, also after a restart: it is not in memory.
func TestArchive(t *testing.T) {
	covers(t, "archive by pages, times, ids, occupants", "XEP-0313, XEP-0059", "from MIMI", "stanzas")
	w := newBalcony(t)
	var ids []content.MessageID
	for i := range 7 {
		ids = append(ids, w.tell(balconyURI, julietURI, content.Text(fmt.Sprint("line ", i))))
	}
	w.talks("mine", "<body>mine</body>")
	w.tw.must(w.tw.delivered(balconyURI))
	w.tell(balconyURI, julietURI, content.Delete(ids[5], nil))
	w.restart()
	for _, c := range []struct {
		clause, fields, set, want string
		complete                  bool
	}{
		{"3 all", "", "", "line 0,line 1,line 2,line 3,line 4,[tombstone],line 6,mine," + textRetracted, true},
		{"4.3 the first page", "", "<max>2</max>", "line 0,line 1", false},
		{"4.3 the next page", "", "<max>2</max><after>" + ids[1].String() + "</after>", "line 2,line 3", false},
		{"4.3 the last page", "", "<max>2</max><before/>", "mine," + textRetracted, false},
		{"4.3 the page before", "", "<max>2</max><before>" + ids[2].String() + "</before>", "line 0,line 1", true},
		{"4.1.1 with", aField("with", balcony+"/Romeo"), "", "mine", true},
		{"4.1.1 with an address", aField("with", juliet), "<max>2</max>", "line 0,line 1", false},
		{"4.1.2 before the time", aField("end", "2001-01-01T00:00:00Z"), "", "", true},
		{"4.1.2 from a time", aField("start", "2001-01-01T00:00:00Z"), "<max>1</max>", "line 0", false},
		{"4.1.4 between ids", aField("after-id", ids[0].String()) + aField("before-id", ids[3].String()), "", "line 1,line 2", true},
		{"4.1.5 ids", "<field var='ids'><value>" + ids[1].String() + "</value><value>" + ids[4].String() + "</value></field>", "", "line 1,line 4", true},
		{"only the number", "", "<max>0</max>", "", false},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			got, list, fin := w.query(romeo, c.fields, c.set)
			if strings.Join(got, ",") != c.want || (fin.attr("complete") == "true") != c.complete {
				t.Errorf("%q %s", got, fin)
			}
			if set := fin.child(nsRSM, "set"); len(list) > 0 && (set.text(nsRSM, "first") != list[0] || set.text(nsRSM, "last") != list[len(list)-1]) {
				t.Errorf("%s", fin)
			}
		})
	}
	t.Run("an id that is not there", func(t *testing.T) {
		w.t = t
		for _, c := range [][2]string{{aField("after-id", "nothing"), ""}, {"", "<after>nothing</after>"}, {aField("ids", "x"), ""}} {
			_, _, e := w.query(romeo, c[0], c[1])
			wantError(t, e, "item-not-found")
		}
	})
	t.Run("flipped", func(t *testing.T) {
		w.t = t
		mark := w.mark()
		w.ask(testRooms, romeo, balcony, "set", "<query xmlns='urn:xmpp:mam:2'><flip-page/><set xmlns='http://jabber.org/protocol/rsm'><max>2</max></set></query>")
		got := w.since(mark, func(e *element) bool { return e.child(nsMAM, "result") != nil })
		if len(got) != 2 || got[0].child(nsMAM, "result").attr("id") != ids[1].String() {
			t.Errorf("%v", got)
		}
	})
	t.Run("metadata", func(t *testing.T) {
		w.t = t
		e := w.ask(testRooms, romeo, balcony, "get", "<metadata xmlns='urn:xmpp:mam:2'/>")
		if e.child(nsMAM, "metadata").child(nsMAM, "start").attr("id") != ids[0].String() {
			t.Error(e)
		}
	})
	t.Run("not a participant", func(t *testing.T) {
		w.t = t
		_, _, e := w.query(benvolio, "", "")
		wantError(t, e, "forbidden")
	})
	t.Run("from one's own join on", func(t *testing.T) {
		w.t = t
		w.addLocal(benURI)
		w.tell(balconyURI, julietURI, content.Text("for both"))
		if got, _, fin := w.query(benvolio, "", ""); strings.Join(got, ",") != "for both" || fin.attr("complete") != "true" {
			t.Errorf("%q %s", got, fin)
		}
		w.tw.do(func() { w.tw.room(balconyURI).info.History = true })
		if got, _, _ := w.query(benvolio, "", "<max>1</max>"); strings.Join(got, ",") != "line 0" {
			t.Errorf("with the room's history: %q", got)
		}
	})
	t.Run("the end of the retention", func(t *testing.T) {
		w.t = t
		w.tw.do(func() {
			r := w.tw.room(balconyURI)
			r.forgotten = uint64(len(r.events) - 1)
		})
		for range 2 {
			if got, _, fin := w.query(romeo, "", ""); strings.Join(got, ",") != "for both" || fin.attr("complete") != "true" {
				t.Errorf("%q %s", got, fin)
			}
		}
	})
}
