package policy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
)

// ClientURI is the URI of a user's client, mimi://domain/d/<user>/<device>. A "/" in device would be taken for
// part of the user and becomes "-".
func ClientURI(user mimiuri.URI, device string) mimiuri.URI {
	return mimiuri.URI{
		Domain: user.Domain, Kind: mimiuri.Client,
		ID: user.ID + "/" + strings.ReplaceAll(device, "/", "-"),
	}
}

// LeafUser gives the user and the client that a leaf's credential names: the identity of a basic credential is the
// client's URI; a certificate has it as a URI subject alternative name, and may have the user's beside it. Whether
// the credential is to be believed is decided elsewhere (mls.Config.VerifyCredential). A credential that names
// nobody is a fault of kind Malformed.
func LeafUser(leaf *mls.LeafNode) (user, client mimiuri.URI, err error) {
	if leaf == nil {
		return user, client, badCredential(errors.New("no leaf"))
	}
	switch c := &leaf.Credential; c.Type {
	case mls.CredentialBasic:
		if client, err = mimiuri.ParseKind(string(c.Identity), mimiuri.Client); err != nil {
			return mimiuri.URI{}, mimiuri.URI{}, badCredential(err)
		}
	case mls.CredentialX509:
		if user, client, err = certificateUser(c.Certificates); err != nil {
			return mimiuri.URI{}, mimiuri.URI{}, badCredential(err)
		}
	default:
		return user, client, badCredential(fmt.Errorf("credential of type %d", c.Type))
	}
	if user.IsZero() {
		i := strings.LastIndexByte(client.ID, '/')
		if i <= 0 || i == len(client.ID)-1 {
			return mimiuri.URI{}, mimiuri.URI{}, badCredential(errors.New("the client URI is not /d/<user>/<device>"))
		}
		user = mimiuri.URI{Domain: client.Domain, Kind: mimiuri.User, ID: client.ID[:i]}
	}
	if user.Domain != client.Domain {
		return mimiuri.URI{}, mimiuri.URI{}, badCredential(errors.New("user and client are of different providers"))
	}
	return user, client, nil
}

func badCredential(err error) error {
	return fault.Wrap(fault.Malformed, "the credential does not name a client and its user", fmt.Errorf("policy: credential: %w", err))
}

// certificateUser reads the MIMI URIs of the end-entity certificate: exactly one client, at most one user.
func certificateUser(chain [][]byte) (user, client mimiuri.URI, err error) {
	if len(chain) == 0 {
		return user, client, errors.New("no certificate")
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return user, client, err
	}
	for _, u := range cert.URIs {
		if !strings.EqualFold(u.Scheme, "mimi") {
			continue
		}
		m, err := mimiuri.Parse(u.String())
		if err != nil {
			return user, client, err
		}
		switch {
		case m.Kind == mimiuri.User && user.IsZero():
			user = m
		case m.Kind == mimiuri.Client && client.IsZero():
			client = m
		default:
			return user, client, errors.New("the certificate names several users or clients")
		}
	}
	if client.IsZero() {
		return user, client, errors.New("the certificate names no client")
	}
	return user, client, nil
}

// LeafAppData is the app_data_dictionary of our leaves: what components they understand in a GroupContext and in
// authenticated data (draft-ietf-mls-extensions section "Negotiating Extensions and Components").
func LeafAppData() mls.AppDataDictionary {
	var d mls.AppDataDictionary
	d.Set(mls.ComponentAppComponents, componentsList(knownComponents()))
	d.Set(mls.ComponentSafeAAD, componentsList([]mls.ComponentID{ComponentFrankAAD}))
	return d
}
