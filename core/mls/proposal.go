package mls

import (
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// ProposalType is a value of RFC 9420 section 17.4.
type ProposalType uint16

// Proposal types.
const (
	ProposalAdd                    ProposalType = 0x0001
	ProposalUpdate                 ProposalType = 0x0002
	ProposalRemove                 ProposalType = 0x0003
	ProposalPSK                    ProposalType = 0x0004
	ProposalReInit                 ProposalType = 0x0005
	ProposalExternalInit           ProposalType = 0x0006
	ProposalGroupContextExtensions ProposalType = 0x0007
	ProposalAppDataUpdate          ProposalType = 0x0008 // draft-ietf-mls-extensions
	ProposalAppEphemeral           ProposalType = 0x0009 // likewise
	ProposalSelfRemove             ProposalType = 0x000a // likewise
)

func (t ProposalType) isDefault() bool { return t >= 1 && t <= 7 }

func (t ProposalType) String() string {
	if i, ok := proposalTypes[t]; ok {
		return i.Name
	}
	return fmt.Sprintf("ProposalType(0x%04x)", uint16(t))
}

// ProposalBody is the content of a Proposal of one type.
type ProposalBody interface {
	ProposalType() ProposalType
	tlspl.Marshaler
	tlspl.Unmarshaler
}

// ProposalInfo is an entry of the registry of proposal types: the columns of
// RFC 9420 section 17.4 and a parser, since a Proposal carries no length.
type ProposalInfo struct {
	Name     string
	New      func() ProposalBody
	External bool // an external sender may send it
	Path     bool // a Commit that covers it needs a path
	// InExternalCommit: an external Commit may contain it (RFC 9420 section
	// 12.2, with the additions of draft-ietf-mls-extensions).
	InExternalCommit bool
	// RefOnly and ValueOnly: how a Commit may cover it, if not both ways.
	RefOnly, ValueOnly bool
}

var proposalTypes = map[ProposalType]ProposalInfo{
	ProposalAdd:                    {Name: "Add", New: func() ProposalBody { return new(Add) }, External: true},
	ProposalUpdate:                 {Name: "Update", New: func() ProposalBody { return new(Update) }, Path: true},
	ProposalRemove:                 {Name: "Remove", New: func() ProposalBody { return new(Remove) }, External: true, Path: true, InExternalCommit: true},
	ProposalPSK:                    {Name: "PreSharedKey", New: func() ProposalBody { return new(PreSharedKey) }, External: true, InExternalCommit: true},
	ProposalReInit:                 {Name: "ReInit", New: func() ProposalBody { return new(ReInit) }, External: true},
	ProposalExternalInit:           {Name: "ExternalInit", New: func() ProposalBody { return new(ExternalInit) }, Path: true, InExternalCommit: true},
	ProposalGroupContextExtensions: {Name: "GroupContextExtensions", New: func() ProposalBody { return new(GroupContextExtensions) }, External: true, Path: true},
	ProposalAppDataUpdate:          {Name: "AppDataUpdate", New: func() ProposalBody { return new(AppDataUpdate) }, External: true, InExternalCommit: true},
	ProposalAppEphemeral:           {Name: "AppEphemeral", New: func() ProposalBody { return new(AppEphemeral) }, External: true, InExternalCommit: true},
	ProposalSelfRemove:             {Name: "SelfRemove", New: func() ProposalBody { return new(SelfRemove) }, Path: true, InExternalCommit: true, RefOnly: true},
}

// RegisterProposal adds a proposal type to those that can be read and
// committed. It changes nothing about the group's tree or context when applied:
// its effect is the application's, which sees it in [StagedPublicCommit]. To be
// called from init functions only; it panics for a type that is taken.
func RegisterProposal(t ProposalType, info ProposalInfo) {
	if _, ok := proposalTypes[t]; ok || info.New == nil {
		panic(fmt.Sprintf("mls: proposal type 0x%04x registered twice or without New", uint16(t)))
	}
	proposalTypes[t] = info
}

// Proposal is RFC 9420 section 12.1. Body is a pointer to one of Add, Update,
// Remove, PreSharedKey, ReInit, ExternalInit, GroupContextExtensions,
// AppDataUpdate, AppEphemeral, SelfRemove or a registered type. It must not be
// changed once in a message.
type Proposal struct{ Body ProposalBody }

// Type gives the type of the body, 0 without one.
func (p *Proposal) Type() ProposalType {
	if p.Body == nil {
		return 0
	}
	return p.Body.ProposalType()
}

// MarshalTLS writes p.
func (p *Proposal) MarshalTLS(w *tlspl.Writer) {
	w.Uint16(uint16(p.Type()))
	p.Body.MarshalTLS(w)
}

// UnmarshalTLS reads p; a type that is not registered is a failure.
func (p *Proposal) UnmarshalTLS(r *tlspl.Reader) {
	t := ProposalType(r.Uint16())
	if r.Err() != nil {
		return
	}
	info, ok := proposalTypes[t]
	if !ok {
		r.Fail(fmt.Errorf("%w: 0x%04x", ErrProposalType, uint16(t)))
		return
	}
	p.Body = info.New()
	p.Body.UnmarshalTLS(r)
}

// Add asks for a new member (RFC 9420 section 12.1.1).
type Add struct{ KeyPackage KeyPackage }

// ProposalType is ProposalAdd.
func (*Add) ProposalType() ProposalType { return ProposalAdd }

// MarshalTLS writes p.
func (p *Add) MarshalTLS(w *tlspl.Writer) { p.KeyPackage.MarshalTLS(w) }

// UnmarshalTLS reads p.
func (p *Add) UnmarshalTLS(r *tlspl.Reader) { p.KeyPackage.UnmarshalTLS(r) }

// Update replaces the sender's LeafNode (RFC 9420 section 12.1.2).
type Update struct{ LeafNode LeafNode }

// ProposalType is ProposalUpdate.
func (*Update) ProposalType() ProposalType { return ProposalUpdate }

// MarshalTLS writes p.
func (p *Update) MarshalTLS(w *tlspl.Writer) { p.LeafNode.MarshalTLS(w) }

// UnmarshalTLS reads p.
func (p *Update) UnmarshalTLS(r *tlspl.Reader) { p.LeafNode.UnmarshalTLS(r) }

// Remove removes a member (RFC 9420 section 12.1.3).
type Remove struct{ Removed LeafIndex }

// ProposalType is ProposalRemove.
func (*Remove) ProposalType() ProposalType { return ProposalRemove }

// MarshalTLS writes p.
func (p *Remove) MarshalTLS(w *tlspl.Writer) { w.Uint32(uint32(p.Removed)) }

// UnmarshalTLS reads p.
func (p *Remove) UnmarshalTLS(r *tlspl.Reader) { p.Removed = LeafIndex(r.Uint32()) }

// PreSharedKey puts a PSK into the key schedule (RFC 9420 section 12.1.4).
type PreSharedKey struct{ PSK PreSharedKeyID }

// ProposalType is ProposalPSK.
func (*PreSharedKey) ProposalType() ProposalType { return ProposalPSK }

// MarshalTLS writes p.
func (p *PreSharedKey) MarshalTLS(w *tlspl.Writer) { p.PSK.MarshalTLS(w) }

// UnmarshalTLS reads p.
func (p *PreSharedKey) UnmarshalTLS(r *tlspl.Reader) { p.PSK.UnmarshalTLS(r) }

// ReInit closes the group in favour of another one (RFC 9420 section 12.1.5).
type ReInit struct {
	GroupID     []byte
	Version     ProtocolVersion
	CipherSuite CipherSuite
	Extensions  Extensions
}

// ProposalType is ProposalReInit.
func (*ReInit) ProposalType() ProposalType { return ProposalReInit }

// MarshalTLS writes p.
func (p *ReInit) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(p.GroupID)
	w.Uint16(uint16(p.Version))
	w.Uint16(uint16(p.CipherSuite))
	p.Extensions.MarshalTLS(w)
}

// UnmarshalTLS reads p.
func (p *ReInit) UnmarshalTLS(r *tlspl.Reader) {
	p.GroupID = r.Opaque()
	p.Version = ProtocolVersion(r.Uint16())
	p.CipherSuite = CipherSuite(r.Uint16())
	p.Extensions.UnmarshalTLS(r)
}

// ExternalInit carries the init secret of an external Commit (RFC 9420 section
// 12.1.6).
type ExternalInit struct{ KEMOutput []byte }

// ProposalType is ProposalExternalInit.
func (*ExternalInit) ProposalType() ProposalType { return ProposalExternalInit }

// MarshalTLS writes p.
func (p *ExternalInit) MarshalTLS(w *tlspl.Writer) { w.Opaque(p.KEMOutput) }

// UnmarshalTLS reads p.
func (p *ExternalInit) UnmarshalTLS(r *tlspl.Reader) { p.KEMOutput = r.Opaque() }

// GroupContextExtensions replaces the GroupContext's extensions (RFC 9420
// section 12.1.7).
type GroupContextExtensions struct{ Extensions Extensions }

// ProposalType is ProposalGroupContextExtensions.
func (*GroupContextExtensions) ProposalType() ProposalType { return ProposalGroupContextExtensions }

// MarshalTLS writes p.
func (p *GroupContextExtensions) MarshalTLS(w *tlspl.Writer) { p.Extensions.MarshalTLS(w) }

// UnmarshalTLS reads p.
func (p *GroupContextExtensions) UnmarshalTLS(r *tlspl.Reader) { p.Extensions.UnmarshalTLS(r) }

// AppDataOp is what an AppDataUpdate does.
type AppDataOp uint8

// Operations of an AppDataUpdate.
const (
	AppDataOpUpdate AppDataOp = 1
	AppDataOpRemove AppDataOp = 2
)

// AppDataUpdate changes one component of the GroupContext's
// app_data_dictionary (draft-ietf-mls-extensions section "Updating Application
// Data in the GroupContext").
type AppDataUpdate struct {
	ComponentID ComponentID
	Op          AppDataOp
	Update      []byte // with AppDataOpUpdate
}

// ProposalType is ProposalAppDataUpdate.
func (*AppDataUpdate) ProposalType() ProposalType { return ProposalAppDataUpdate }

// MarshalTLS writes p.
func (p *AppDataUpdate) MarshalTLS(w *tlspl.Writer) {
	w.Uint16(uint16(p.ComponentID))
	w.Uint8(uint8(p.Op))
	if p.Op == AppDataOpUpdate {
		w.Opaque(p.Update)
	}
}

// UnmarshalTLS reads p.
func (p *AppDataUpdate) UnmarshalTLS(r *tlspl.Reader) {
	p.ComponentID = ComponentID(r.Uint16())
	p.Op = AppDataOp(r.Uint8())
	switch p.Op {
	case AppDataOpUpdate:
		p.Update = r.Opaque()
	case AppDataOpRemove:
	default:
		r.Failf("AppDataUpdate operation %d", p.Op)
	}
}

// AppEphemeral ties data of a component to a Commit (draft-ietf-mls-extensions
// section "Attaching Application Data to a Commit").
type AppEphemeral struct {
	ComponentID ComponentID
	Data        []byte
}

// ProposalType is ProposalAppEphemeral.
func (*AppEphemeral) ProposalType() ProposalType { return ProposalAppEphemeral }

// MarshalTLS writes p.
func (p *AppEphemeral) MarshalTLS(w *tlspl.Writer) {
	w.Uint16(uint16(p.ComponentID))
	w.Opaque(p.Data)
}

// UnmarshalTLS reads p.
func (p *AppEphemeral) UnmarshalTLS(r *tlspl.Reader) {
	p.ComponentID = ComponentID(r.Uint16())
	p.Data = r.Opaque()
}

// SelfRemove removes its sender (draft-ietf-mls-extensions section "SelfRemove
// Proposal").
type SelfRemove struct{}

// ProposalType is ProposalSelfRemove.
func (*SelfRemove) ProposalType() ProposalType { return ProposalSelfRemove }

// MarshalTLS writes p, which is empty.
func (*SelfRemove) MarshalTLS(*tlspl.Writer) {}

// UnmarshalTLS reads p, which is empty.
func (*SelfRemove) UnmarshalTLS(*tlspl.Reader) {}

// ProposalOrRef is RFC 9420 section 12.4: exactly one field is set.
type ProposalOrRef struct {
	Proposal *Proposal
	Ref      ProposalRef
}

// MarshalTLS writes p.
func (p *ProposalOrRef) MarshalTLS(w *tlspl.Writer) {
	if p.Proposal != nil {
		w.Uint8(1)
		p.Proposal.MarshalTLS(w)
		return
	}
	w.Uint8(2)
	w.Opaque(p.Ref)
}

// UnmarshalTLS reads p.
func (p *ProposalOrRef) UnmarshalTLS(r *tlspl.Reader) {
	switch t := r.Uint8(); t {
	case 1:
		p.Proposal = new(Proposal)
		p.Proposal.UnmarshalTLS(r)
	case 2:
		p.Ref = r.Opaque()
	default:
		r.Failf("ProposalOrRef type %d", t)
	}
}

// Commit is RFC 9420 section 12.4.
type Commit struct {
	Proposals []ProposalOrRef
	Path      *UpdatePath
}

// MarshalTLS writes c.
func (c *Commit) MarshalTLS(w *tlspl.Writer) {
	writeVectorOf(w, c.Proposals)
	w.Optional(c.Path != nil, func(w *tlspl.Writer) { c.Path.MarshalTLS(w) })
}

// UnmarshalTLS reads c.
func (c *Commit) UnmarshalTLS(r *tlspl.Reader) {
	c.Proposals = vectorOf[ProposalOrRef](r)
	r.Optional(func(r *tlspl.Reader) {
		c.Path = new(UpdatePath)
		c.Path.UnmarshalTLS(r)
	})
}

// HPKECiphertext is RFC 9420 section 7.6.
type HPKECiphertext struct{ KEMOutput, Ciphertext []byte }

// MarshalTLS writes c.
func (c *HPKECiphertext) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(c.KEMOutput)
	w.Opaque(c.Ciphertext)
}

// UnmarshalTLS reads c.
func (c *HPKECiphertext) UnmarshalTLS(r *tlspl.Reader) {
	c.KEMOutput = r.Opaque()
	c.Ciphertext = r.Opaque()
}

// UpdatePathNode is RFC 9420 section 7.6.
type UpdatePathNode struct {
	EncryptionKey []byte
	// EncryptedPathSecret has one entry for each node of the resolution of the
	// copath child, without the leaves the Commit adds.
	EncryptedPathSecret []HPKECiphertext
}

// MarshalTLS writes n.
func (n *UpdatePathNode) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(n.EncryptionKey)
	writeVectorOf(w, n.EncryptedPathSecret)
}

// UnmarshalTLS reads n.
func (n *UpdatePathNode) UnmarshalTLS(r *tlspl.Reader) {
	n.EncryptionKey = r.Opaque()
	n.EncryptedPathSecret = vectorOf[HPKECiphertext](r)
}

// UpdatePath is RFC 9420 section 7.6.
type UpdatePath struct {
	LeafNode LeafNode
	Nodes    []UpdatePathNode // in the order of the filtered direct path, upwards
}

// MarshalTLS writes p.
func (p *UpdatePath) MarshalTLS(w *tlspl.Writer) {
	p.LeafNode.MarshalTLS(w)
	writeVectorOf(w, p.Nodes)
}

// UnmarshalTLS reads p.
func (p *UpdatePath) UnmarshalTLS(r *tlspl.Reader) {
	p.LeafNode.UnmarshalTLS(r)
	p.Nodes = vectorOf[UpdatePathNode](r)
}

// PSKType says where a PSK comes from (RFC 9420 section 8.4).
type PSKType uint8

// PSK types.
const (
	PSKExternal    PSKType = 1
	PSKResumption  PSKType = 2
	PSKApplication PSKType = 3 // draft-ietf-mls-extensions section "Pre-Shared Keys"
)

// ResumptionUsage is what a resumption PSK is for (RFC 9420 section 8.4).
type ResumptionUsage uint8

// Usages of a resumption PSK.
const (
	ResumptionApplication ResumptionUsage = 1
	ResumptionReInit      ResumptionUsage = 2
	ResumptionBranch      ResumptionUsage = 3
)

// PreSharedKeyID is RFC 9420 section 8.4.
type PreSharedKeyID struct {
	Type      PSKType
	ID        []byte          // with PSKExternal and PSKApplication
	Component ComponentID     // with PSKApplication
	Usage     ResumptionUsage // with PSKResumption, as are the next two
	GroupID   []byte
	Epoch     uint64
	Nonce     []byte // KDF.Nh bytes; empty in a proposal to be made: filled in
}

// MarshalTLS writes p.
func (p *PreSharedKeyID) MarshalTLS(w *tlspl.Writer) {
	w.Uint8(uint8(p.Type))
	switch p.Type {
	case PSKExternal:
		w.Opaque(p.ID)
	case PSKResumption:
		w.Uint8(uint8(p.Usage))
		w.Opaque(p.GroupID)
		w.Uint64(p.Epoch)
	case PSKApplication:
		w.Uint16(uint16(p.Component))
		w.Opaque(p.ID)
	}
	w.Opaque(p.Nonce)
}

// UnmarshalTLS reads p.
func (p *PreSharedKeyID) UnmarshalTLS(r *tlspl.Reader) {
	p.Type = PSKType(r.Uint8())
	switch p.Type {
	case PSKExternal:
		p.ID = r.Opaque()
	case PSKResumption:
		p.Usage = ResumptionUsage(r.Uint8())
		if p.Usage < ResumptionApplication || p.Usage > ResumptionBranch {
			r.Failf("resumption PSK usage %d", p.Usage)
		}
		p.GroupID = r.Opaque()
		p.Epoch = r.Uint64()
	case PSKApplication:
		p.Component = ComponentID(r.Uint16())
		p.ID = r.Opaque()
	default:
		r.Failf("PSK type %d", p.Type)
	}
	p.Nonce = r.Opaque()
}
