package wire

import (
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// AbuseType is a reason for a report. No value is registered yet; 0 is reserved and stands for none here.
type AbuseType uint8

// AbusiveMessage is a message as it was decrypted, and the hub's own proof that it went through its hands.
type AbusiveMessage struct {
	Content           []byte // the application_data, usually application/mimi-content
	Frank             Frank
	AcceptedTimestamp uint64 // ms since the Unix epoch
}

// AbuseReport is the body of a reportAbuse request (section "Report abuse").
type AbuseReport struct {
	Reporter   mimiuri.URI // who reports; zero for nobody who wants to be named
	Abuser     mimiuri.URI
	Reason     AbuseType
	Note       string // for people; may be empty
	Messages   []AbusiveMessage
	Extensions mls.AppDataDictionary
}

// Marshal gives the encoding.
func (a *AbuseReport) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		writeURI(w, a.Reporter)
		writeURI(w, a.Abuser)
		w.Uint8(uint8(a.Reason))
		w.String(a.Note)
		w.Vector(func(w *tlspl.Writer) {
			for i := range a.Messages {
				m := &a.Messages[i]
				w.Opaque(m.Content)
				m.Frank.marshal(w)
				w.Uint64(m.AcceptedTimestamp)
			}
		})
		a.Extensions.MarshalTLS(w)
	})
}

// ParseAbuseReport reads the body of a reportAbuse request.
func ParseAbuseReport(b []byte) (*AbuseReport, error) {
	a := new(AbuseReport)
	err := parse("AbuseReport", MaxReport, b, func(r *tlspl.Reader) {
		a.Reporter = readURI(r, mimiuri.User, true)
		a.Abuser = readURI(r, mimiuri.User, false)
		a.Reason = AbuseType(r.Uint8())
		a.Note = r.String()
		if r.Err() == nil && (len(a.Note) > MaxNote || !utf8.ValidString(a.Note)) {
			r.Failf("a note that is longer than %d octets or not UTF-8", MaxNote)
		}
		r.Vector(func(r *tlspl.Reader) {
			readCount(r, len(a.Messages), MaxReported, "messages")
			var m AbusiveMessage
			m.Content = r.Opaque()
			m.Frank.unmarshal(r)
			m.AcceptedTimestamp = r.Uint64()
			a.Messages = append(a.Messages, m)
		})
		a.Extensions.UnmarshalTLS(r)
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}
