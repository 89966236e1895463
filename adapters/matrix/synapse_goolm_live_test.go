//go:build live && goolm

package matrix

func init() {
	onSynapse["Encrypted"] = TestEncrypted
	onSynapse["Keys"] = TestKeys
}
