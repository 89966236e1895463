//go:build live

package xmpp

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// put asks the server's upload service, as a client does, for a place for a file, and puts the file there.
func (l *live) put(c *testnet.SlixClient, name, typ, what string) (get string) {
	l.t.Helper()
	answer, err := c.IQ(l.ctx, "get", "upload."+testDomain, fmt.Sprintf("<request xmlns='urn:xmpp:http:upload:0' filename='%s' size='%d' content-type='%s'/>", name, len(what), typ))
	l.must(err)
	var iq struct {
		Slot struct {
			Put struct {
				URL    string `xml:"url,attr"`
				Header []struct {
					Name  string `xml:"name,attr"`
					Value string `xml:",chardata"`
				} `xml:"header"`
			} `xml:"put"`
			Get struct {
				URL string `xml:"url,attr"`
			} `xml:"get"`
		} `xml:"slot"`
	}
	l.must(xml.Unmarshal([]byte(answer), &iq))
	req, err := http.NewRequestWithContext(l.ctx, http.MethodPut, iq.Slot.Put.URL, strings.NewReader(what))
	l.must(err)
	for _, h := range iq.Slot.Put.Header {
		req.Header.Set(h.Name, h.Value)
	}
	req.Header.Set("Content-Type", typ)
	resp, err := http.DefaultClient.Do(req)
	l.must(err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		l.t.Fatalf("the upload service answered %s", resp.Status)
	}
	return iq.Slot.Get.URL
}

func (l *live) fetch(url string) string {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.ctx, http.MethodGet, url, nil)
	l.must(err)
	resp, err := http.DefaultClient.Do(req)
	l.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	l.must(err)
	if resp.StatusCode != http.StatusOK {
		l.t.Fatalf("%s: %s", url, resp.Status)
	}
	return string(b)
}

// Files through the upload services of real servers (XEP-0363): what a client shares becomes an encrypted asset; what comes, encrypted or
// within the message, can be fetched by every client.
func TestLiveFiles(t *testing.T) {
	for _, kind := range []string{prosody, ejabberd} {
		t.Run(kind, func(t *testing.T) {
			liveFiles(t, newLiveWith(t, kind, false, func(l *live, _ *Config) {
				l.prosody = func(o *testnet.ProsodyOptions) { o.Upload = "upload." + testDomain }
				l.ejabberd = func(o *testnet.EjabberdOptions) { o.Upload = "upload." + testDomain }
			}))
		})
	}
}

func liveFiles(t *testing.T, l *live) {
	covers(t, "files, images, voice through the upload service", "XEP-0363, XEP-0066, XEP-0385, XEP-0447", "both", "slixmpp")
	romeo := l.login("romeo@xmpp.example/orchard")
	l.join(romeo, balcony, "Romeo")
	l.tw.do(func() { l.tw.add(l.tw.room(balconyURI), julietURI, romeoURI, nil) })
	l.tw.must(l.tw.delivered(balconyURI))

	kept := func(p *content.Part) string {
		body, _, err := l.tw.Download(context.Background(), romeoURI, balconyURI, p.External)
		l.must(err)
		b, _ := io.ReadAll(body)
		return string(b)
	}
	for i, f := range []struct{ name, typ, what, how string }{
		{"rose.png", "image/png", "a picture of a rose", "<body>%[1]s</body><x xmlns='jabber:x:oob'><url>%[1]s</url></x>"},
		{"voice.ogg", "audio/ogg", "But soft, in his own voice", "<body>%[1]s</body><reference xmlns='urn:xmpp:reference:0' type='data'><media-sharing xmlns='urn:xmpp:sims:1'>" +
			"<file xmlns='urn:xmpp:jingle:apps:file-transfer:5'><media-type>audio/ogg</media-type><name>voice.ogg</name></file>" +
			"<sources><reference xmlns='urn:xmpp:reference:0' type='data' uri='%[1]s'/></sources></media-sharing></reference>"},
		{"letter.txt", "text/plain", strings.Repeat("a letter ", 10_000), "<body>%[1]s</body><file-sharing xmlns='urn:xmpp:sfs:0'><file xmlns='urn:xmpp:file:metadata:0'>" +
			"<media-type>text/plain</media-type><name>letter.txt</name></file><sources><url-data xmlns='http://jabber.org/protocol/url-data' target='%[1]s'/></sources></file-sharing>" +
			"<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:sfs:0'><body/></fallback>"},
	} {
		n := l.tw.count(adapter.SendMessage)
		l.must(romeo.Raw(l.ctx, fmt.Sprintf("<message type='groupchat' id='f%d' to='%s'>%s</message>", i, balcony, fmt.Sprintf(f.how, l.put(romeo, f.name, f.typ, f.what)))))
		in := l.sent(n)
		k := in.Content.Classify()
		if len(k.Files) != 1 {
			t.Fatalf("%s: %+v", f.name, in.Content)
		}
		p := k.Files[0].Part
		if p.External == nil || p.External.EncAlg == 0 || p.External.Filename != f.name || p.ContentType != f.typ || kept(p) != f.what {
			t.Errorf("%s: %+v", f.name, p)
		}
	}

	// From elsewhere: an encrypted part that the provider fetches and decrypts, and one that is in the message itself.
	var part content.Part
	part, err := l.tw.Upload(context.Background(), julietURI, strings.NewReader("a portrait"), -1, "image/jpeg", "juliet.jpg")
	l.must(err)
	inline := content.Part{Cardinality: content.SinglePart, Disposition: content.Attachment, ContentType: "audio/ogg", Content: []byte("her voice")}
	for _, f := range []struct {
		part content.Part
		name string
		typ  string
		what string
	}{{part, "juliet.jpg", "image/jpeg", "a portrait"}, {inline, "file", "audio/ogg", "her voice"}} {
		mark := romeo.Mark()
		l.tell(&content.Message{Body: f.part})
		ev := l.wait(romeo, mark, "the file", func(e testnet.SlixEvent) bool {
			return e.Nick() == "juliet" && strings.HasPrefix(e.Body, "http://127.0.0.1:")
		})
		if !strings.Contains(ev.Body, f.name) || l.fetch(ev.Body) != f.what {
			t.Errorf("%s: %s", f.name, ev.XML)
		}
		for _, want := range []string{"jabber:x:oob", "urn:xmpp:sfs:0", "urn:xmpp:sims:1", f.typ} {
			if !strings.Contains(ev.XML, want) {
				t.Errorf("%s: %s is missing in %s", f.name, want, ev.XML)
			}
		}
	}
	// A text that is too long for a stanza has itself as a file behind its beginning.
	mark := romeo.Mark()
	long := strings.Repeat("O Romeo, Romeo! ", 10_000)
	l.tell(content.Text(long))
	l.wait(romeo, mark, "the beginning", func(e testnet.SlixEvent) bool {
		return strings.HasPrefix(e.Body, "O Romeo, Romeo!") && len(e.Body) < 3000
	})
	ev := l.wait(romeo, mark, "the whole", func(e testnet.SlixEvent) bool { return strings.Contains(e.XML, "message.txt") })
	i := strings.Index(ev.XML, "http://127.0.0.1:")
	url, _, _ := strings.Cut(ev.XML[i:], "<")
	url, _, _ = strings.Cut(url, "\"")
	if l.fetch(url) != long {
		t.Errorf("%.500s", ev.XML)
	}
}
