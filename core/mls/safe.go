package mls

import "github.com/mimibridge/mimibridge/core/mls/tlspl"

// componentLabel is the ComponentOperationLabel of draft-ietf-mls-extensions
// (section "Component IDs"), the label of whatever a component does with the
// keys of MLS.
func componentLabel(id ComponentID, label string) string {
	var w tlspl.Writer
	w.String("MLS Component")
	w.Uint16(uint16(id))
	w.String(label)
	return string(w.Bytes())
}

// SafeSignWithLabel signs for a component (draft-ietf-mls-extensions section
// "Signature Keys").
func (k *SignatureKey) SafeSignWithLabel(id ComponentID, label string, content []byte) ([]byte, error) {
	return k.SignWithLabel(componentLabel(id, label), content)
}

// SafeVerifyWithLabel verifies what SafeSignWithLabel signed.
func SafeVerifyWithLabel(suite CipherSuite, pub []byte, id ComponentID, label string, content, sig []byte) error {
	return VerifyWithLabel(suite, pub, componentLabel(id, label), content, sig)
}

// SafeEncryptWithLabel encrypts for a component (draft-ietf-mls-extensions
// section "Hybrid Public Key Encryption (HPKE) Keys").
func SafeEncryptWithLabel(suite CipherSuite, pub []byte, id ComponentID, label string, context, plaintext []byte) (HPKECiphertext, error) {
	return EncryptWithLabel(suite, pub, componentLabel(id, label), context, plaintext)
}

// SafeDecryptWithLabel decrypts what SafeEncryptWithLabel encrypted.
func SafeDecryptWithLabel(suite CipherSuite, priv []byte, id ComponentID, label string, context []byte, ct HPKECiphertext) ([]byte, error) {
	return DecryptWithLabel(suite, priv, componentLabel(id, label), context, ct)
}
