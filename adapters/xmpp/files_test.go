package xmpp

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// The twin's assets are the files themselves, by their hash.
func (tw *twin) Upload(_ context.Context, _ mimiuri.URI, r io.Reader, size int64, typ, name string) (content.Part, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return content.Part{}, err
	}
	u := fmt.Sprintf("mimi-asset://%d", len(b))
	tw.do(func() {
		if tw.people.files == nil {
			tw.people.files = map[string][]byte{}
		}
		tw.people.files[u] = b
	})
	return content.ExternalBody(content.Attachment, typ, content.External{URL: u, Size: uint64(len(b) + 16), EncAlg: content.AEADAES128GCM, Key: make([]byte, 16), Nonce: make([]byte, 12),
		HashAlg: content.HashSHA256, ContentHash: make([]byte, 32), Filename: name}), nil
}

func (tw *twin) Download(_ context.Context, _, _ mimiuri.URI, e *content.External) (io.ReadCloser, int64, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	b, ok := tw.people.files[e.URL]
	if !ok {
		return nil, 0, fault.New(fault.NotFound, "no such file")
	}
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
}

// uploadServer lets the stub offer XEP-0363, with an HTTP server behind it.
func uploadServer(w *world) (files func() map[string]string, base string) {
	var mu sync.Mutex
	stored := map[string]string{}
	hs := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.Method {
		case http.MethodPut:
			b, err := io.ReadAll(r.Body)
			if err != nil || r.Header.Get("Authorization") != "slot" || r.ContentLength != int64(len(b)) {
				http.Error(rw, "bad", http.StatusBadRequest)
				return
			}
			stored[r.URL.Path] = string(b)
			rw.WriteHeader(http.StatusCreated)
		case http.MethodGet:
			b, ok := stored[r.URL.Path]
			if !ok {
				http.NotFound(rw, r)
				return
			}
			io.WriteString(rw, b)
		}
	}))
	w.t.Cleanup(hs.Close)
	n := 0
	w.mu.Lock()
	w.received = func(e *element) {
		if e.Local != "iq" || e.attr("type") != "get" || !strings.HasSuffix(e.attr("to"), testDomain) || e.attr("to") == testUsers {
			return
		}
		payload := ""
		switch q := e.Kids[0]; {
		case q.Space == nsDiscoItem:
			payload = "<query xmlns='" + nsDiscoItem + "'><item jid='upload." + testDomain + "'/></query>"
		case q.Space == nsDiscoInfo && e.attr("to") == "upload."+testDomain:
			payload = "<query xmlns='" + nsDiscoInfo + "'><feature var='" + nsUpload + "'/><x xmlns='jabber:x:data' type='result'>" + aField("FORM_TYPE", nsUpload) + aField("max-file-size", "1000000") + "</x></query>"
		case q.Space == nsDiscoInfo:
			payload = "<query xmlns='" + nsDiscoInfo + "'/>"
		case q.Space == nsUpload:
			n++
			u := fmt.Sprintf("%s/%d/%s", hs.URL, n, q.attr("filename"))
			payload = "<slot xmlns='" + nsUpload + "'><put url='" + u + "'><header name='Authorization'>slot</header><header name='Host'>evil</header></put><get url='" + u + "'/></slot>"
		}
		c := w.conns[testUsers]
		fmt.Fprintf(c, "<iq type='result' id='%s' from='%s' to='%s'>%s</iq>", e.attr("id"), e.attr("to"), e.attr("from"), payload)
	}
	w.mu.Unlock()
	return func() map[string]string {
		mu.Lock()
		defer mu.Unlock()
		out := map[string]string{}
		for k, v := range stored {
			out[k] = v
		}
		return out
	}, hs.URL
}

// What XMPP clients share, in each of the ways, becomes a part.
func TestFilesIn(t *testing.T) {
	covers(t, "files, images, voice, stickers", "XEP-0066, XEP-0385, XEP-0447, XEP-0448, XEP-0449", "to MIMI", "stanzas")
	w := newBalcony(t)
	_, base := uploadServer(w)
	req, _ := http.NewRequest(http.MethodPut, base+"/77/cat.png", strings.NewReader("meow"))
	req.Header.Set("Authorization", "slot")
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != 201 {
		t.Fatal(err)
	}
	own, other := base+"/77/cat.png", "https://files.example/dog.jpg"
	key, iv, sum := base64.StdEncoding.EncodeToString(make([]byte, 32)), base64.StdEncoding.EncodeToString(make([]byte, 12)), base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	sfs := func(source string) string {
		return "<file-sharing xmlns='urn:xmpp:sfs:0'><file xmlns='urn:xmpp:file:metadata:0'><media-type>image/png</media-type><name>cat.png</name><size>4</size><desc>a cat</desc></file><sources>" + source + "</sources></file-sharing>"
	}
	for i, c := range []struct {
		clause, kids string
		check        func(m *content.Message, files []content.Chosen) bool
	}{
		{"XEP-0066", "<body>" + own + "</body><x xmlns='jabber:x:oob'><url>" + own + "</url></x>", func(m *content.Message, files []content.Chosen) bool {
			p := files[0].Part
			return m.Body.Cardinality == content.ExternalPart && p.External.EncAlg != 0 && p.External.Filename == "cat.png" && p.ContentType == "image/png" && p.Disposition == content.Render
		}},
		{"XEP-0447", "<body>" + own + "</body>" + sfs("<url-data xmlns='http://jabber.org/protocol/url-data' target='"+own+"'/>") + "<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:sfs:0'><body/></fallback>", func(m *content.Message, files []content.Chosen) bool {
			return m.Body.Cardinality == content.ExternalPart && files[0].Part.External.Description == "a cat"
		}},
		{"XEP-0447 with a text", "<body>look!</body>" + sfs("<url-data xmlns='http://jabber.org/protocol/url-data' target='"+own+"'/>"), func(m *content.Message, files []content.Chosen) bool {
			text, _, _ := m.ReadableText(nil)
			return m.Body.Cardinality == content.MultiPart && text == "look!" && len(files) == 1
		}},
		{"XEP-0385", "<body>" + own + "</body><reference xmlns='urn:xmpp:reference:0' type='data' begin='0' end='5'><media-sharing xmlns='urn:xmpp:sims:1'><file xmlns='urn:xmpp:jingle:apps:file-transfer:5'><media-type>audio/ogg</media-type><name>voice.ogg</name></file><sources><reference xmlns='urn:xmpp:reference:0' type='data' uri='" + own + "'/></sources></media-sharing></reference>", func(m *content.Message, files []content.Chosen) bool {
			return len(files) == 1 && files[0].Part.ContentType == "audio/ogg" && files[0].Part.External.Filename == "voice.ogg"
		}},
		{"XEP-0449", "<body>:cat:</body><sticker xmlns='urn:xmpp:stickers:0'/>" + sfs("<url-data xmlns='http://jabber.org/protocol/url-data' target='"+own+"'/>"), func(m *content.Message, files []content.Chosen) bool {
			return m.Body.Cardinality == content.ExternalPart && len(files) == 1
		}},
		{"a URL elsewhere goes on as it is", "<body>" + other + "</body><x xmlns='jabber:x:oob'><url>" + other + "</url></x>", func(m *content.Message, files []content.Chosen) bool {
			return files[0].Part.External.URL == other && files[0].Part.External.EncAlg == 0
		}},
		{"XEP-0448", "<body>x</body>" + sfs("<encrypted xmlns='urn:xmpp:esfs:0' cipher='urn:xmpp:ciphers:aes-256-gcm-nopadding:0'><key>"+key+"</key><iv>"+iv+"</iv><hash xmlns='urn:xmpp:hashes:2' algo='sha-256'>"+sum+"</hash><sources xmlns='urn:xmpp:sfs:0'><url-data xmlns='http://jabber.org/protocol/url-data' target='"+other+"'/></sources></encrypted>"), func(m *content.Message, files []content.Chosen) bool {
			x := files[0].Part.External
			return x.URL == other && x.EncAlg == content.AEADAES256GCM && x.Size == 20 && x.ContentHash[0] == 7
		}},
		{"a URL that is none", "<body>just text</body><x xmlns='jabber:x:oob'><url>file:///etc/passwd</url></x>", func(m *content.Message, files []content.Chosen) bool {
			return len(files) == 0
		}},
		{"http elsewhere", "<body>just text</body><x xmlns='jabber:x:oob'><url>http://10.0.0.1/x</url></x>", func(m *content.Message, files []content.Chosen) bool {
			return len(files) == 0
		}},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			in := w.talks(fmt.Sprint("f", i), c.kids)
			if k := in.Content.Classify(); !c.check(in.Content, k.Files) {
				t.Errorf("%+v %+v", in.Content.Body, k.Files)
			}
		})
	}
	t.Run("a file that is not there", func(t *testing.T) {
		w.t = t
		mark := w.mark()
		w.toRooms("<message type='groupchat' id='e' from='%s' to='%s'><body>%s/9/x</body><x xmlns='jabber:x:oob'><url>%s/9/x</url></x></message>", romeo, balcony, base, base)
		wantError(t, w.expect(mark, "an error", isError(romeo, "e")), "not-acceptable")
	})
}

// What comes from elsewhere is put into the upload service, once, and shown in each of the ways.
func TestFilesOut(t *testing.T) {
	covers(t, "files", "XEP-0363, XEP-0066, XEP-0385, XEP-0447", "from MIMI", "stanzas")
	covers(t, "long texts as a preview with a file", "–", "from MIMI", "stanzas")
	w := newBalcony(t)
	files, base := uploadServer(w)
	p, err := w.tw.Upload(t.Context(), julietURI, strings.NewReader("meow"), 4, "image/png", "../cat.png")
	if err != nil {
		t.Fatal(err)
	}
	mark := w.mark()
	w.tell(balconyURI, julietURI, content.New(content.Together(content.TextPart("look!"), p)))
	e := w.expect(mark, "the text", isMessage(romeo, "look!"))
	f := w.expect(mark, "the file", func(e *element) bool { return e.attr("to") == romeo && e.child(nsOOB, "x") != nil })
	u := f.child(nsOOB, "x").text(nsOOB, "url")
	if !strings.HasPrefix(u, base) || files()[strings.TrimPrefix(u, base)] != "meow" || bodyText(f) != u {
		t.Errorf("%s %v", f, files())
	}
	sh := f.child(nsSFS, "file-sharing")
	if m := sh.child(nsFile, "file"); m.text(nsFile, "name") != "..cat.png" || m.text(nsFile, "size") != "4" || m.text(nsFile, "media-type") != "image/png" ||
		sh.child(nsSFS, "sources").child(nsURLData, "url-data").attr("target") != u || f.child(nsReference, "reference").child(nsSIMS, "media-sharing") == nil {
		t.Error(f)
	}
	if f.attr("id") != e.attr("id")+".f1" {
		t.Error(f)
	}
	n := len(files())
	w.join("romeo@xmpp.example/new", balcony, "Romeo")
	if len(files()) != n {
		t.Error("stored again")
	}
	// Alone it is the message itself; a reply to it has its id.
	mark = w.mark()
	id := w.tell(balconyURI, julietURI, content.New(content.ExternalBody(content.Render, "image/png", content.External{URL: "https://files.example/x.png", Size: 9})))
	if e := w.shown(mark); e.attr("id") != id.String() || bodyText(e) != "https://files.example/x.png" || e.child(nsSFS, "file-sharing").attr("disposition") != "inline" {
		t.Error(e)
	}
	// A text that fits into no stanza.
	mark = w.mark()
	long := strings.Repeat("But, soft! what light through yonder window breaks?\n", 3000)
	w.tell(balconyURI, julietURI, content.Text(long))
	e = w.shown(mark)
	f = w.expect(mark, "the file", func(e *element) bool { return e.attr("to") == romeo && e.child(nsOOB, "x") != nil })
	if len(bodyText(e)) > 3000 || !strings.HasSuffix(bodyText(e), textLong) || files()[strings.TrimPrefix(bodyText(f), base)] != long {
		t.Errorf("%s", e)
	}
	// What cannot be had is said in words.
	mark = w.mark()
	p.External.URL = "mimi-asset://gone"
	w.tell(balconyURI, julietURI, content.New(p))
	if e := w.shown(mark); !strings.HasPrefix(bodyText(e), "[a file, ..cat.png (image/png)") {
		t.Error(e)
	}
}

// Without an upload service people read that there was a file.
func TestFilesWithoutService(t *testing.T) {
	w := newBalcony(t)
	w.mu.Lock()
	w.received = func(e *element) {
		if e.Local == "iq" && e.attr("to") == testDomain {
			fmt.Fprintf(w.conns[testUsers], "<iq type='error' id='%s' from='%s' to='%s'><error type='cancel'><service-unavailable xmlns='%s'/></error></iq>", e.attr("id"), testDomain, e.attr("from"), nsStanzas)
		}
	}
	w.mu.Unlock()
	p, _ := w.tw.Upload(t.Context(), julietURI, strings.NewReader("meow"), 4, "image/png", "cat.png")
	mark := w.mark()
	w.tell(balconyURI, julietURI, content.New(p))
	if e := w.shown(mark); bodyText(e) != fmt.Sprintf(textFile, "cat.png", "image/png") {
		t.Error(e)
	}
}

// A server that does not answer questions about its services holds nothing up but the file: what is said in other rooms is shown
// meanwhile, and then people read that there was a file.
func TestSilentServer(t *testing.T) {
	w := newBalcony(t)
	other := mimiuri.MustParse("mimi://xmpp.example/r/orchard")
	w.join(romeo, "orchard@"+testRooms, "Romeo")
	w.tw.do(func() { w.tw.add(w.tw.room(other), julietURI, romeoURI, nil) })
	w.tw.must(w.tw.delivered(other))
	w.mu.Lock()
	w.received = func(*element) {} // takes all and answers nothing
	w.mu.Unlock()
	part, err := w.tw.Upload(context.Background(), julietURI, strings.NewReader("a portrait"), -1, "image/jpeg", "juliet.jpg")
	if err != nil {
		t.Fatal(err)
	}
	mark := w.mark()
	w.tw.do(func() { w.tw.message(w.tw.room(balconyURI), julietURI, &content.Message{Body: part}, nil) })
	w.expect(mark, "the question", func(e *element) bool { return e.Local == "iq" && e.child(nsDiscoItem, "query") != nil })
	w.tw.say(other, julietURI, "meanwhile")
	line := w.expect(mark, "the other room", isMessage(romeo, "meanwhile"))
	w.expect(mark, "the file in words", func(e *element) bool { return e.Local == "message" && strings.Contains(bodyText(e), "juliet.jpg") })
	shown := w.since(mark, func(e *element) bool { return e.Local == "message" && bodyText(e) != "" })
	if shown[0] != line {
		t.Errorf("the other room waited: %s", shown[0])
	}
}
