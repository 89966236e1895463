package mls

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	peersuite "github.com/thomas-vilte/mls-go/ciphersuite"
	"github.com/thomas-vilte/mls-go/credentials"
	"github.com/thomas-vilte/mls-go/framing"
	"github.com/thomas-vilte/mls-go/group"
	"github.com/thomas-vilte/mls-go/keypackages"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Other implementations look at the clock of the machine.
var clock = time.Now

const interopLifetime = 28 * 24 * time.Hour

func TestInteropMLSGo(t *testing.T) {
	for _, suite := range []CipherSuite{1, 2, 3, 5} { // all that it implements
		t.Run(suite.String(), func(t *testing.T) {
			t.Parallel()
			t.Run("ours creates", func(t *testing.T) { playInterop(t, suite, ours{}, mlsGo{}) })
			t.Run("theirs creates", func(t *testing.T) { playInterop(t, suite, mlsGo{}, ours{}) })
		})
	}
}

// mlsGo is github.com/thomas-vilte/mls-go.
type mlsGo struct{}

func (mlsGo) name() string { return "mls-go" }

func (mlsGo) lacks(step string) string {
	switch step {
	case lackCommitAAD:
		return "mls-go takes no authenticated_data for a Commit (RFC 9420 section 6)"
	}
	return ""
}

type mlsGoMember struct {
	suite peersuite.CipherSuite
	cred  *credentials.CredentialWithKey
	sig   *peersuite.SignaturePrivateKey
	kp    *keypackages.KeyPackage
	priv  *keypackages.KeyPackagePrivateKeys
	g     *group.Group
}

func (mlsGo) newMember(t *testing.T, suite CipherSuite, name string) groupMember {
	return newMLSGoMember(t, suite, name)
}

func newMLSGoMember(t testing.TB, suite CipherSuite, name string) *mlsGoMember {
	m := &mlsGoMember{suite: peersuite.CipherSuite(suite)}
	var err error
	m.cred, m.sig, err = credentials.GenerateCredentialWithKeyForCS([]byte(name), m.suite)
	must(t, err)
	return m
}

func (m *mlsGoMember) keyPackage() (b []byte, err error) {
	if m.kp, m.priv, err = keypackages.Generate(m.cred, m.suite); err != nil {
		return nil, err
	}
	kp := new(KeyPackage)
	if err := tlspl.Unmarshal(m.kp.Marshal(), kp); err != nil {
		return nil, err
	}
	return NewMessage(kp).Bytes(), nil
}

func (m *mlsGoMember) create(groupID []byte) (err error) {
	m.g, err = group.NewGroup(group.NewGroupID(groupID), m.suite, m.kp, m.priv)
	return m.ready(err)
}

func (m *mlsGoMember) ready(err error) error {
	if err == nil {
		m.g.LoadPsk(interopPSKID, interopPSK)
	}
	return err
}

func (m *mlsGoMember) join(welcome []byte) error {
	msg, err := framing.UnmarshalMLSMessage(welcome)
	if err != nil {
		return err
	}
	w, err := group.UnmarshalWelcome(msg.Welcome)
	if err != nil {
		return err
	}
	m.g, err = group.JoinFromWelcome(w, m.kp, m.priv, nil)
	return m.ready(err)
}

func (m *mlsGoMember) joinExternal(groupInfo []byte) ([]byte, error) {
	// group.UnmarshalGroupInfo takes a GroupInfo without its MLSMessage.
	info, err := group.UnmarshalGroupInfo(groupInfo[4:])
	if err != nil {
		return nil, err
	}
	g, staged, err := group.ExternalCommit(info, m.suite, m.sig, m.sig.PublicKey(), nil, m.cred.Credential)
	if err != nil {
		return nil, err
	}
	m.g = g
	ac := staged.AuthenticatedContent()
	return framing.NewMLSMessagePublic(&framing.PublicMessage{Content: ac.Content, Auth: ac.Auth}).Marshal(), m.ready(nil)
}

func (m *mlsGoMember) commit(c interopCommit) ([]byte, []byte, error) {
	var kps []*keypackages.KeyPackage
	if c.add != nil {
		kp, err := keypackages.UnmarshalKeyPackage(c.add[4:])
		if err != nil {
			return nil, nil, err
		}
		if _, err := m.g.AddMember(kp); err != nil {
			return nil, nil, err
		}
		kps = append(kps, kp)
	}
	if c.remove != "" {
		for _, o := range m.g.GetMembers() {
			if bytes.Equal(o.Credential.Identity, []byte(c.remove)) {
				if _, err := m.g.RemoveMember(o.LeafIndex); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	if c.psk {
		// RFC 9420 section 8.4: psk_nonce is KDF.Nh random bytes;
		// NewPreSharedKeyProposal leaves it empty.
		p := group.NewPreSharedKeyProposal(1, interopPSKID)
		p.PreSharedKey.PskID.Nonce = bytes.Repeat([]byte{9}, m.suite.HashLength())
		m.g.StoreProposalWithRef(p, m.g.OwnLeafIndex(), nil) // without a reference: by value
	}
	format := framing.WireFormatPublicMessage
	if c.private {
		format = framing.WireFormatPrivateMessage
	}
	staged, err := m.g.CommitWithFormat(m.sig, m.sig.PublicKey(), nil, format)
	if err != nil {
		return nil, nil, err
	}
	ac := staged.AuthenticatedContent()
	var msg *framing.MLSMessage
	if c.private {
		// The package signs a Commit for a PrivateMessage and leaves the
		// encryption to its caller.
		pm, err := framing.Encrypt(framing.EncryptParams{AuthContent: ac, SenderLeafIndex: uint32(m.g.OwnLeafIndex()), CipherSuite: m.suite,
			SenderDataSecret: m.g.EpochSecrets().SenderDataSecret, SecretTree: m.g.SecretTree(), GroupContext: m.g.GroupContext().Marshal()})
		if err != nil {
			return nil, nil, err
		}
		msg = framing.NewMLSMessagePrivate(pm)
	} else {
		msg = framing.NewMLSMessagePublic(&framing.PublicMessage{Content: ac.Content, Auth: ac.Auth, MembershipTag: staged.MembershipTag()})
	}
	joiner := staged.JoinerSecret()
	if err := m.g.MergeCommit(staged); err != nil {
		return nil, nil, err
	}
	if kps == nil {
		return msg.Marshal(), nil, nil
	}
	w, err := m.g.CreateWelcomeWithOpts(kps, m.sig, group.WithJoinerSecret(joiner), group.WithPSKIDs(staged.PskIDs()),
		group.WithPSKSecret(staged.RawPskSecret()), group.WithStagedCommit(staged))
	if err != nil {
		return nil, nil, err
	}
	return msg.Marshal(), (&framing.MLSMessage{Welcome: w.Marshal()}).Marshal(), nil
}

func (m *mlsGoMember) process(b []byte) error {
	msg, err := framing.UnmarshalMLSMessage(b)
	if err != nil {
		return err
	}
	if pub, ok := msg.AsPublic(); ok {
		return m.g.ProcessPublicMessage(pub)
	}
	if priv, ok := msg.AsPrivate(); ok {
		return m.g.ProcessPrivateMessage(priv)
	}
	return errors.New("neither public nor private")
}

func (m *mlsGoMember) groupInfo() ([]byte, error) {
	i, err := m.g.GetGroupInfoWithOptions(m.sig, group.WithExternalPub(true), group.WithRatchetTree(true))
	if err != nil {
		return nil, err
	}
	info := new(GroupInfo)
	if err := tlspl.Unmarshal(i.Marshal(), info); err != nil {
		return nil, err
	}
	return NewMessage(info).Bytes(), nil
}

func (m *mlsGoMember) encrypt(text, aad []byte) ([]byte, error) {
	pm, err := m.g.SendMessage(text, m.sig, group.WithAAD(aad))
	if err != nil {
		return nil, err
	}
	return framing.NewMLSMessagePrivate(pm).Marshal(), nil
}

func (m *mlsGoMember) decrypt(b []byte) (text, aad []byte, err error) {
	msg, err := framing.UnmarshalMLSMessage(b)
	if err != nil {
		return nil, nil, err
	}
	pm, ok := msg.AsPrivate()
	if !ok {
		return nil, nil, fmt.Errorf("no PrivateMessage")
	}
	text, aad, _, err = m.g.ReceiveApplicationMessage(pm)
	return text, aad, err
}

func (m *mlsGoMember) export(label string, context []byte, n int) ([]byte, error) {
	return m.g.Export(label, context, n)
}

func (m *mlsGoMember) authenticator() ([]byte, error) { return m.g.EpochAuthenticator(), nil }

func (m *mlsGoMember) proposeUpdate() ([]byte, error) {
	p, err := m.g.SelfUpdate(m.sig)
	if err != nil {
		return nil, err
	}
	return m.g.SignProposalAsPublicMessage(p, m.sig)
}
