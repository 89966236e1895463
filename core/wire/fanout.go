package wire

import (
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// FanoutMessage is one message from the hub (section "Fanout Messages and Room Events").
type FanoutMessage struct {
	Timestamp uint64 // the hub's acceptance, ms since the Unix epoch
	// Message is a PrivateMessage with application content, a PublicMessage with a Proposal or a Commit, or a Welcome.
	Message *mls.MLSMessage

	Frank             *Frank                 // with application content, may be nil
	Tree              *mls.RatchetTreeOption // with a Welcome
	MoreProposals     []*mls.MLSMessage      // with a Proposal: those of the same UpdateRequest
	ExternalProposals []*mls.MLSMessage      // with a Commit: the hub's, for the new epoch
}

// Marshal gives the encoding. Encodings may be concatenated into one body.
func (m *FanoutMessage) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Uint64(m.Timestamp)
		m.Message.MarshalTLS(w)
		switch {
		case m.Message.Welcome != nil:
			tree := m.Tree
			if tree == nil {
				tree = new(mls.RatchetTreeOption) // reserved: no parser takes it
			}
			tree.MarshalTLS(w)
		case m.Message.ContentType() == mls.ContentApplication:
			writeFrank(w, m.Frank)
		case m.Message.ContentType() == mls.ContentProposal:
			writeMessages(w, m.MoreProposals)
		case m.Message.ContentType() == mls.ContentCommit:
			writeMessages(w, m.ExternalProposals)
		}
	})
}

func (m *FanoutMessage) unmarshal(r *tlspl.Reader) {
	m.Timestamp = r.Uint64()
	m.Message = readMessage(r)
	switch c := m.Message; {
	case r.Err() != nil:
	case c.Welcome != nil:
		m.Tree = new(mls.RatchetTreeOption)
		m.Tree.UnmarshalTLS(r)
	case isApplication(c):
		m.Frank = readFrank(r)
	case c.PublicMessage != nil && c.ContentType() == mls.ContentProposal:
		m.MoreProposals = readProposals(r)
	case c.PublicMessage != nil && c.ContentType() == mls.ContentCommit:
		m.ExternalProposals = readProposals(r)
	default:
		r.Failf("%v with %v in a FanoutMessage", c.WireFormat, c.ContentType())
	}
}

// ParseFanout reads the body of a notify request, one or more concatenated FanoutMessages: all or nothing.
func ParseFanout(b []byte) ([]*FanoutMessage, error) {
	var list []*FanoutMessage
	err := parse("FanoutMessage", MaxBody, b, func(r *tlspl.Reader) {
		for r.Err() == nil && (r.Remaining() > 0 || len(list) == 0) {
			readCount(r, len(list), MaxMessages, "FanoutMessages")
			m := new(FanoutMessage)
			m.unmarshal(r)
			list = append(list, m)
		}
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// MLSMessages gives the octets of each MLSMessage inside, Message first: what duplicates are told by. An MLSMessage has one
// encoding only, so these are the octets that arrived.
func (m *FanoutMessage) MLSMessages() [][]byte {
	out := [][]byte{m.Message.Bytes()}
	for _, list := range [][]*mls.MLSMessage{m.MoreProposals, m.ExternalProposals} {
		for _, x := range list {
			out = append(out, x.Bytes())
		}
	}
	return out
}
