package mls

import (
	"fmt"
	"slices"
)

// greaseValues are the code points of RFC 9420 section 13.5.
var greaseValues = [...]uint16{0x0a0a, 0x1a1a, 0x2a2a, 0x3a3a, 0x4a4a, 0x5a5a, 0x6a6a, 0x7a7a,
	0x8a8a, 0x9a9a, 0xaaaa, 0xbaba, 0xcaca, 0xdada, 0xeaea}

// insertRandom puts a value at a random place unless it is there.
func insertRandom[T ~uint16](list []T, v T, at byte) []T {
	if slices.Contains(list, v) {
		return list
	}
	return slices.Insert(slices.Clone(list), int(at)%(len(list)+1), v)
}

// grease adds random values to the capabilities and extensions of a LeafNode
// that is not signed yet (RFC 9420 section 13.5), if the Config asks for it.
func (c *Config) grease(n *LeafNode) error {
	if !c.GREASE {
		return nil
	}
	b, err := c.random(10)
	if err != nil {
		return err
	}
	v := func(i int) uint16 { return greaseValues[int(b[i])%len(greaseValues)] }
	caps := &n.Capabilities
	caps.CipherSuites = insertRandom(caps.CipherSuites, CipherSuite(v(0)), b[5])
	caps.Extensions = insertRandom(caps.Extensions, ExtensionType(v(1)), b[6])
	caps.Proposals = insertRandom(caps.Proposals, ProposalType(v(2)), b[7])
	caps.Credentials = insertRandom(caps.Credentials, CredentialType(v(3)), b[8])
	// What stands in the extensions is listed: section 7.3.
	t := ExtensionType(v(4))
	caps.Extensions = insertRandom(caps.Extensions, t, b[9])
	n.Extensions, err = c.greaseExtensions(n.Extensions, t)
	return err
}

// greaseExtensions adds an extension of that type with random content.
func (c *Config) greaseExtensions(e Extensions, t ExtensionType) (Extensions, error) {
	if _, ok := e.Get(t); ok {
		return e, nil
	}
	b, err := c.random(8)
	if err != nil {
		return nil, fmt.Errorf("mls: GREASE: %w", err)
	}
	return slices.Insert(e.Clone(), int(b[0])%(len(e)+1), Extension{t, b[1 : 1+b[1]%8]}), nil
}

// randomGREASE picks one of the values.
func (c *Config) randomGREASE() (uint16, error) {
	b, err := c.random(1)
	if err != nil {
		return 0, err
	}
	return greaseValues[int(b[0])%len(greaseValues)], nil
}
