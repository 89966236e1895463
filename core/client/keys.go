package client

import (
	"context"
	"crypto/rand"
	"runtime/debug"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// identity is a local user's MLS client.
type identity struct {
	user, client mimiuri.URI
	key          *mls.SignatureKey
}

func (i *identity) credential() mls.Credential { return mls.BasicCredential([]byte(i.client.String())) }

// identity reads a local user's identity, or makes it when it is first needed.
func (c *Client) identity(ctx context.Context, user mimiuri.URI) (*identity, error) {
	id := user.String()
	var row *store.Identity
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		row, err = tx.Identity(id)
		return err
	})
	if err != nil {
		return nil, err
	}
	if row == nil {
		key, err := mls.GenerateSignatureKey(rand.Reader, Suite)
		if err != nil {
			return nil, err
		}
		secret, err := key.MarshalBinary()
		if err != nil {
			return nil, err
		}
		name := "console"
		if len(c.cfg.Adapters) > 0 {
			name = c.cfg.Adapters[0].Name()
		}
		row = &store.Identity{User: id, Device: newDevice(name), Suite: uint16(Suite), Secret: secret}
		err = c.cfg.Store.Update(ctx, func(tx *store.Tx) error {
			if err := tx.InsertIdentity(row); err != nil {
				return err
			}
			row, err = tx.Identity(id) // somebody may have been faster
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	key := new(mls.SignatureKey)
	if err := key.UnmarshalBinary(row.Secret); err != nil {
		return nil, err
	}
	return &identity{user: user, client: policy.ClientURI(user, row.Device), key: key}, nil
}

// leafOptions is what a new leaf of the identity says of itself.
func (i *identity) leafOptions() mls.LeafOptions {
	return mls.LeafOptions{Credential: i.credential(), Signature: i.key, Extensions: leafExtensions()}
}

func leafExtensions() mls.Extensions { return mls.Extensions{policy.LeafAppData().Extension()} }

// KeyMaterial implements port.Keys: KeyPackages are made on demand, each for one request.
func (c *Client) KeyMaterial(ctx context.Context, from string, target mimiuri.URI, body []byte) ([]byte, error) {
	req, err := wire.ParseKeyMaterialRequest(body)
	if err != nil {
		return nil, fault.Wrap(fault.Malformed, "the KeyMaterialRequest cannot be read", err)
	}
	if err := req.Verify(); err != nil {
		return nil, fault.Wrap(fault.Forbidden, "the request's signature does not verify", err)
	}
	user, _, err := policy.LeafUser(&mls.LeafNode{Credential: req.Credential})
	switch {
	case req.TargetUser != target || target.Kind != mimiuri.User:
		return nil, fault.New(fault.Malformed, "path and body name different users")
	case target.Domain != c.cfg.Domain:
		return nil, fault.New(fault.NotFound, "this provider has no such users")
	case err != nil || user != req.RequestingUser:
		return nil, fault.New(fault.Forbidden, "the credential is not the requesting user's")
	case !req.RoomID.IsZero() && req.RoomID.Domain != from:
		return nil, fault.New(fault.Forbidden, "key material for a room is asked for by its hub")
	case req.RoomID.IsZero() && user.Domain != from:
		return nil, fault.New(fault.Forbidden, "the requester is not of the asking provider")
	}
	answer := func(code wire.KeyMaterialUserCode) ([]byte, error) {
		return (&wire.KeyMaterialResponse{Protocol: wire.MLS10, UserStatus: code, UserURI: target}).Marshal(), nil
	}
	ok := false
	for _, s := range req.Suites {
		ok = ok || s == Suite
	}
	if !ok {
		return answer(wire.IncompatibleProtocol)
	}
	// From here on everything is done for everybody alike: who asks does not learn whether there is such a user, neither by
	// what is answered (noConsent is the catch-all) nor by what that takes.
	if err := c.cfg.People.Invited(ctx, user, req.RoomID, from); err != nil {
		return nil, err
	}
	exists := false
	for _, a := range c.cfg.Adapters {
		ok, err := c.cfg.LocalUser(ctx, a, target)
		if err != nil {
			return nil, fault.Wrap(fault.Unavailable, "it cannot be said now; please try again", err)
		}
		exists = exists || ok
	}
	may, err := c.cfg.People.May(ctx, target, user, req.RoomID)
	if err != nil {
		return nil, err
	}
	if !exists || !may {
		return answer(wire.NoConsent)
	}
	id, err := c.identity(ctx, target)
	if err != nil {
		return nil, err
	}
	kp, err := c.keyPackage(ctx, id, from, req.RoomID.String())
	if err != nil {
		return nil, err
	}
	return (&wire.KeyMaterialResponse{Protocol: wire.MLS10, UserStatus: wire.KeyMaterialSuccess, UserURI: target,
		Clients: []wire.ClientKeyMaterial{{Status: wire.ClientSuccess, ClientURI: id.client, KeyPackage: kp}}}).Marshal(), nil
}

// keyPackage makes a KeyPackage for one use. A peer that holds too many of the user's without having used them is given that of
// last resort, which is made once and lasts until it was used.
func (c *Client) keyPackage(ctx context.Context, id *identity, peer, room string) (*mls.KeyPackage, error) {
	user := id.user.String()
	var held int
	var last *store.KeyPackage
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		if held, err = tx.CountKeyPackages(peer, user); err == nil && held >= maxOutstanding {
			last, err = tx.LastResort(user)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	exhausted := held >= maxOutstanding
	if exhausted {
		c.Counters.LastResort.Add(1)
		c.cfg.Log.Warn().Str("peer", peer).Msg("a peer has claimed too many key packages of one user without using them; it gets the one of last resort")
	}
	now := c.cfg.Now()
	if exhausted && last != nil && last.Expires > now.Add(24*time.Hour).UnixMilli() {
		kp := new(mls.KeyPackage)
		return kp, tlspl.Unmarshal(last.Package, kp)
	}
	kp, secrets, err := mls.NewKeyPackage(c.cfg.MLS, Suite, mls.KeyPackageOptions{
		Credential: id.credential(), Signature: id.key, LeafExtensions: leafExtensions(), LastResort: exhausted,
		Lifetime: &mls.Lifetime{NotBefore: uint64(now.Add(-time.Hour).Unix()), NotAfter: uint64(now.Add(keyPackageLife).Unix())},
	})
	if err != nil {
		return nil, err
	}
	ref, err := kp.Ref(Suite)
	if err != nil {
		return nil, err
	}
	secret, err := secrets.MarshalBinary()
	if err != nil {
		return nil, err
	}
	row := &store.KeyPackage{Ref: ref, User: user, Room: room, Peer: peer, Package: tlspl.Marshal(kp), Secret: secret, Expires: now.Add(keyPackageLife).UnixMilli()}
	if exhausted { // for any room
		row.Peer, row.Room = store.PeerLastResort, ""
	}
	err = c.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if exhausted {
			last, err := tx.LastResort(user)
			if err != nil {
				return err
			}
			if last != nil { // it is about to expire
				if err := tx.DeleteKeyPackage(last.Ref, last.Expires); err != nil {
					return err
				}
			}
		}
		return tx.InsertKeyPackage(row)
	})
	if err != nil {
		return nil, err
	}
	return kp, nil
}

// claim is key material for one intent: asked for, or there.
type claim struct {
	done   chan struct{}
	kps    []*mls.KeyPackage
	err    error
	waited bool // for as long as one waits
}

// errClaiming: the answer is still out; the room's goroutine looks again when it has come.
var errClaiming = fault.New(fault.Unavailable, "their provider has not answered yet")

// claim gives a user's KeyPackages for an intent, asked for through the room's hub. It waits a moment, so that what follows
// an invitation usually comes after it, but not for a provider that is down. What was claimed is kept until the
// intent has ended, however often its commit is overtaken.
func (r *room) claim(ctx context.Context, seq uint64, by, target mimiuri.URI) ([]*mls.KeyPackage, error) {
	c := r.claims[seq]
	if c == nil {
		id, err := r.c.identity(ctx, by)
		if err != nil {
			return nil, err
		}
		c = &claim{done: make(chan struct{})}
		r.claims[seq] = c
		suite := r.g.CipherSuite()
		r.c.workers.Add(1)
		go func() {
			defer r.c.workers.Done()
			defer func() {
				if p := recover(); p != nil {
					r.log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Msg("asking for key packages panicked")
				}
			}()
			c.err = fault.New(fault.Internal, "")
			defer r.c.rooms.Post(r.id, func(r *room) {
				if c.waited { // else it is put off, if it is, for another reason
					delete(r.deferred, seq)
				}
				r.step()
			})
			defer close(c.done)
			c.kps, c.err = r.askKeys(ctx, id, target, suite)
		}()
	}
	wait := time.NewTimer(claimPatience)
	defer wait.Stop()
	if c.waited {
		wait.Reset(0)
	}
	select {
	case <-c.done:
	case <-wait.C:
		c.waited = true
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-c.done:
	default:
		return nil, errClaiming
	}
	if c.err != nil {
		delete(r.claims, seq)
	}
	return c.kps, c.err
}

// askKeys asks the hub for a user's KeyPackages. It is called on a goroutine of its own: nothing of the room is touched.
func (r *room) askKeys(ctx context.Context, by *identity, target mimiuri.URI, suite mls.CipherSuite) ([]*mls.KeyPackage, error) {
	req := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: by.user, TargetUser: target, RoomID: r.uri,
		Suites: []mls.CipherSuite{suite}, Required: requiredCapabilities(), SignatureKey: by.key.Public(), Credential: by.credential()}
	if err := req.Sign(by.key); err != nil {
		return nil, err
	}
	b, err := r.c.cfg.Hub.KeyMaterial(ctx, r.c.cfg.Domain, r.uri, target, req.Marshal())
	if err != nil {
		return nil, err
	}
	res, err := wire.ParseKeyMaterialResponse(b)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the other provider's answer cannot be read", err)
	}
	switch res.UserStatus {
	case wire.KeyMaterialSuccess, wire.KeyMaterialPartial:
	case wire.UserUnknown, wire.UserDeleted:
		return nil, fault.New(fault.NotFound, "there is no such user")
	case wire.NoConsent, wire.NoConsentForThisRoom:
		return nil, errNoConsent
	default:
		return nil, fault.New(fault.Forbidden, "this user's software is not compatible with this room")
	}
	var kps []*mls.KeyPackage
	for _, c := range res.Clients {
		if c.KeyPackage == nil {
			continue
		}
		if err := c.KeyPackage.Verify(r.c.cfg.MLS); err != nil {
			return nil, fault.Wrap(fault.Unavailable, "the other provider's key material is not valid", err)
		}
		if u, _, err := policy.LeafUser(&c.KeyPackage.LeafNode); err != nil || u != target {
			return nil, fault.New(fault.Forbidden, "the other provider's key material is another user's")
		}
		kps = append(kps, c.KeyPackage)
	}
	if len(kps) == 0 {
		return nil, &fault.Error{Kind: fault.Limited, Message: "this user's clients cannot be added now; please try later", RetryAfter: time.Minute}
	}
	return kps, nil
}

func requiredCapabilities() mls.RequiredCapabilities {
	return mls.RequiredCapabilities{
		Extensions:  []mls.ExtensionType{mls.ExtensionAppDataDictionary},
		Proposals:   []mls.ProposalType{mls.ProposalAppDataUpdate, mls.ProposalSelfRemove},
		Credentials: []mls.CredentialType{mls.CredentialBasic},
	}
}
