// Members of groups by ts-mls, driven over standard input and output: a line in
// is a call {"id", "op", ...}, a line out its answer {"id", "error"} or {"id",
// ...}. Bytes are base64, messages are MLSMessages.
import { webcrypto } from "node:crypto"
import { createInterface } from "node:readline"
import {
  acceptAll, createApplicationMessage, createCommit, createGroup, decodeMlsMessage, defaultCapabilities,
  encodeMlsMessage, generateKeyPackageWithKey, getCiphersuiteFromName, getCiphersuiteImpl, joinGroup, joinGroupExternal,
  makePskIndex, mlsExporter, processMessage, ciphersuites,
} from "ts-mls"
import { createGroupInfo } from "ts-mls/createCommit.js"
import { ratchetTreeEncoder } from "ts-mls/ratchetTree.js"
import { varLenDataEncoder } from "ts-mls/codec/variableLength.js"
import { encode } from "ts-mls/codec/tlsEncoder.js"
import { p256, p384, p521 } from "@noble/curves/nist.js"

// Node 18, which Debian 12 has, lacks the global that newer ones have.
globalThis.crypto ??= webcrypto

const bytes = (s) => new Uint8Array(Buffer.from(s ?? "", "base64"))
const text = (b) => Buffer.from(b).toString("base64")
const members = new Map()

const now = () => BigInt(Math.floor(Date.now() / 1000))

function parse(message) {
  const m = decodeMlsMessage(bytes(message), 0)
  if (m === undefined) throw new Error("not an MLSMessage")
  return m[0]
}

const message = (m) => text(encodeMlsMessage({ version: "mls10", ...m }))

const ops = {
  async new(m, c) {
    const name = Object.keys(ciphersuites).find((n) => ciphersuites[n] === c.suite)
    members.set(c.member, { name: c.name, cs: await getCiphersuiteImpl(getCiphersuiteFromName(name)), psks: { [c.pskID]: bytes(c.psk) } })
  },

  async keyPackage(m) {
    const life = { notBefore: now() - 3600n, notAfter: now() + 28n * 86400n }
    const credential = { credentialType: "basic", identity: new TextEncoder().encode(m.name) }
    // RFC 9420 section 5.1.1: an ECDSA public key is an uncompressed point.
    // ts-mls makes compressed ones; it takes either when it is given them.
    const curve = { P256: p256, P384: p384, P521: p521 }[m.cs.name.split("_").at(-1)]
    m.keys ??= await m.cs.signature.keygen()
    if (curve) m.keys.publicKey = curve.getPublicKey(m.keys.signKey, false)
    m.kp = await generateKeyPackageWithKey(credential, defaultCapabilities(), life, [], m.keys, m.cs)
    return { message: message({ wireformat: "mls_key_package", keyPackage: m.kp.publicPackage }) }
  },

  async create(m, c) {
    m.state = await createGroup(bytes(c.groupID), m.kp.publicPackage, m.kp.privatePackage, [], m.cs)
  },

  async join(m, c) {
    m.state = await joinGroup(parse(c.message).welcome, m.kp.publicPackage, m.kp.privatePackage, makePskIndex(undefined, m.psks), m.cs)
  },

  async joinExternal(m, c) {
    await ops.keyPackage(m)
    const info = parse(c.message).groupInfo
    // RFC 9420 section 12.4.3.2: external_pub holds a struct whose only field is
    // an HPKEPublicKey, a vector with its length. ts-mls takes the bytes of the
    // extension for the key itself; the cipher suite it is handed takes the
    // length off.
    const pub = info.extensions.find((e) => e.extensionType === "external_pub").extensionData
    const hpke = Object.create(m.cs.hpke)
    hpke.importPublicKey = (k) => m.cs.hpke.importPublicKey(k === pub ? k.slice(encode(varLenDataEncoder)(pub.slice(2)).length - pub.length + 2) : k)
    const r = await joinGroupExternal(info, m.kp.publicPackage, m.kp.privatePackage, false, { ...m.cs, hpke })
    m.state = r.newState
    return { message: message({ wireformat: "mls_public_message", publicMessage: r.publicMessage }) }
  },

  async groupInfo(m) {
    // The same the other way: the length is put before the key.
    const pair = await m.cs.hpke.deriveKeyPair(m.state.keySchedule.externalSecret)
    const pub = await m.cs.hpke.exportPublicKey(pair.publicKey)
    const groupInfo = await createGroupInfo(m.state.groupContext, m.state.confirmationTag, m.state, [
      { extensionType: "external_pub", extensionData: encode(varLenDataEncoder)(pub) },
      { extensionType: "ratchet_tree", extensionData: encode(ratchetTreeEncoder)(m.state.ratchetTree) },
    ], m.cs)
    return { message: message({ wireformat: "mls_group_info", groupInfo }) }
  },

  async commit(m, c) {
    const extraProposals = []
    if (c.add) extraProposals.push({ proposalType: "add", add: { keyPackage: parse(c.add).keyPackage } })
    if (c.remove) {
      const at = m.state.ratchetTree.findIndex((n) => n?.nodeType === "leaf" && new TextDecoder().decode(n.leaf.credential.identity) === c.remove)
      extraProposals.push({ proposalType: "remove", remove: { removed: at / 2 } })
    }
    if (c.psk) {
      const preSharedKeyId = { psktype: "external", pskId: bytes(c.psk), pskNonce: m.cs.rng.randomBytes(m.cs.kdf.size) }
      extraProposals.push({ proposalType: "psk", psk: { preSharedKeyId } })
    }
    const r = await createCommit({ state: m.state, cipherSuite: m.cs, pskIndex: makePskIndex(m.state, m.psks) },
      { wireAsPublicMessage: !c.private, extraProposals, ratchetTreeExtension: true, authenticatedData: bytes(c.aad) })
    m.state = r.newState
    return { message: text(encodeMlsMessage(r.commit)), welcome: r.welcome && message({ wireformat: "mls_welcome", welcome: r.welcome }) }
  },

  async process(m, c) {
    const r = await processMessage(parse(c.message), m.state, makePskIndex(m.state, m.psks), acceptAll, m.cs)
    if (r.kind !== "newState" || r.actionTaken !== "accept") throw new Error("not taken as a handshake: " + r.kind)
    m.state = r.newState
  },

  async encrypt(m, c) {
    const r = await createApplicationMessage(m.state, bytes(c.text), m.cs, bytes(c.aad))
    m.state = r.newState
    return { message: message({ wireformat: "mls_private_message", privateMessage: r.privateMessage }) }
  },

  async decrypt(m, c) {
    const p = parse(c.message)
    const r = await processMessage(p, m.state, makePskIndex(m.state, m.psks), acceptAll, m.cs)
    if (r.kind !== "applicationMessage") throw new Error("no application message: " + r.kind)
    m.state = r.newState
    return { text: text(r.message), aad: text(p.privateMessage.authenticatedData) }
  },

  async export(m, c) {
    return { text: text(await mlsExporter(m.state.keySchedule.exporterSecret, c.label, bytes(c.context), c.n, m.cs)) }
  },

  async authenticator(m) {
    return { text: text(m.state.keySchedule.epochAuthenticator) }
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line)
  let answer
  try {
    answer = (await ops[call.op](members.get(call.member), call)) ?? {}
  } catch (e) {
    answer = { error: String(e?.stack ?? e) }
  }
  process.stdout.write(JSON.stringify({ id: call.id, ...answer }) + "\n")
}
