// A Matrix client, matrix-js-sdk with its rust crypto, driven by JSON lines: one command a line on stdin, answers and events
// on stdout, as nioclient.py. Events: {"event": "message", "room", "data": {event_id, sender, type, content, shield, reason}},
// {"event": "invite", "room"}, {"event": "synced"}.
import * as readline from "node:readline";
import * as sdk from "matrix-js-sdk";

const out = (o) => process.stdout.write(JSON.stringify(o) + "\n");
for (const level of ["log", "info", "debug", "warn", "error", "trace"]) console[level] = () => {};
const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, getChild: () => quiet };

// Node 20, which Debian has, does not know it yet.
Promise.withResolvers ??= function () {
    const w = {};
    w.promise = new Promise((resolve, reject) => Object.assign(w, { resolve, reject }));
    return w;
};

let client;

async function show(ev) {
    if (ev.isState() || ev.getType() === "m.room.encrypted" && !ev.isDecryptionFailure()) return;
    let shield = "none", reason = "";
    // Somebody new to a room may have a message before the keys of its sender; apps ask again when those come, and so does this.
    for (let tries = 0; ev.isEncrypted() && client.getCrypto(); tries++) {
        const info = await client.getCrypto().getEncryptionInfoForEvent(ev);
        shield = ["none", "grey", "red"][info?.shieldColour ?? 0];
        reason = String(info?.shieldReason ?? "");
        if (shield === "none" || tries === 40) break;
        await new Promise((done) => setTimeout(done, 250));
    }
    out({ event: "message", room: ev.getRoomId(), data: {
        event_id: ev.getId(), sender: ev.getSender(), type: ev.getType(), content: ev.getContent(),
        encrypted: ev.isEncrypted(), failed: ev.isDecryptionFailure(), shield, reason } });
}

const commands = {
    async login(c) {
        const plain = sdk.createClient({ baseUrl: c.homeserver, logger: quiet });
        const who = await plain.loginRequest({ type: "m.login.password", identifier: { type: "m.id.user", user: c.user }, password: c.password });
        client = sdk.createClient({ baseUrl: c.homeserver, userId: who.user_id, deviceId: who.device_id, accessToken: who.access_token, logger: quiet });
        await client.initRustCrypto({ useIndexedDB: false });
        client.getCrypto().globalBlacklistUnverifiedDevices = false;
        client.on(sdk.RoomEvent.Timeline, (ev, room, toStart) => {
            if (toStart) return;
            if (ev.isBeingDecrypted() || ev.isEncrypted()) client.decryptEventIfNeeded(ev).then(() => show(ev)).catch(() => {});
            else show(ev);
        });
        client.on(sdk.MatrixEventEvent.Decrypted, (ev) => { if (!ev.isDecryptionFailure()) show(ev); });
        client.on(sdk.RoomEvent.MyMembership, (room, membership) => {
            if (membership === "invite") out({ event: "invite", room: room.roomId });
        });
        await client.startClient({ initialSyncLimit: 50, lazyLoadMembers: false });
        await new Promise((done) => client.on(sdk.ClientEvent.Sync, (state) => { if (state === "PREPARED") done(); }));
        out({ event: "synced" });
        return { user_id: who.user_id };
    },
    async sign() { // this user's own cross-signing keys
        await client.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: async (f) => { await f(null); } });
        return {};
    },
    async create_room(c) {
        const state = c.encrypted ? [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }] : [];
        const r = await client.createRoom({ name: c.name, preset: "private_chat", invite: c.invite ?? [], initial_state: state });
        return { room: r.room_id };
    },
    async invite(c) { await client.invite(c.room, c.user); return {}; },
    async join(c) { return { room: (await client.joinRoom(c.room)).roomId }; },
    async send(c) {
        const began = performance.now();
        const r = await client.sendEvent(c.room, c.type, c.content);
        return { event_id: r.event_id, ms: performance.now() - began };
    },
    async react(c) {
        return await client.sendEvent(c.room, "m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: c.event_id, key: c.key } });
    },
    async redact(c) { return await client.redactEvent(c.room, c.event_id); },
    async reply(c) {
        return await client.sendEvent(c.room, "m.room.message", { msgtype: "m.text", body: c.body, "m.relates_to": { "m.in_reply_to": { event_id: c.event_id } } });
    },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
    const c = JSON.parse(line);
    commands[c.cmd](c)
        .then((r) => out({ id: c.id, ok: true, ...r }))
        .catch((e) => out({ id: c.id, ok: false, code: String(e?.errcode ?? ""), error: String(e?.message ?? e) }));
}
process.exit(0);
