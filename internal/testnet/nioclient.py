"""A Matrix client, matrix-nio, driven by JSON lines: one command a line on stdin, answers and events on stdout.

Command: {"id": 1, "cmd": "join", ...}; answer: {"id": 1, "ok": true, ...} or {"id": 1, "ok": false, "code", "error"}.
Events: {"event": "timeline" | "state" | "ephemeral" | "invite" | "leave" | "synced" | "sync_error", "room", "data"}.
Commands run one after the other, in the order given; syncing goes on beside them. End of input ends the program.
"""

import asyncio
import base64
import io
import json
import logging
import sys

try:
    import nio
    from nio import AsyncClient, AsyncClientConfig
    from nio.responses import ErrorResponse
except ImportError as exc:
    print(json.dumps({"event": "fatal", "error": str(exc)}), flush=True)
    sys.exit(3)

FILTER = {
    "room": {"timeline": {"limit": 2000}, "state": {"lazy_load_members": False}},
    "presence": {"types": []},
}


def out(obj):
    sys.stdout.write(json.dumps(obj) + "\n")
    sys.stdout.flush()


class Failed(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def check(resp):
    if isinstance(resp, ErrorResponse):
        raise Failed(resp.status_code or "", resp.message or "")
    return resp


class Driver:
    def __init__(self):
        self.client = None
        self.task = None

    async def syncing(self):
        # The raw answer is read, not nio's view of it: a test wants to see what the homeserver said.
        since = None
        first = True
        while True:
            try:
                method, path = nio.Api.sync(
                    self.client.access_token, since=since, timeout=0 if first else 20000,
                    filter=FILTER, full_state=False)
                resp = await self.client.send(method, path, timeout=60)
                body = await resp.json()
                if resp.status != 200:
                    raise Failed(body.get("errcode", ""), body.get("error", ""))
            except asyncio.CancelledError:
                raise
            except Exception as exc:  # a homeserver that is down, mostly
                out({"event": "sync_error", "error": repr(exc)})
                await asyncio.sleep(0.2)
                continue
            since = body["next_batch"]
            rooms = body.get("rooms", {})
            for room, data in rooms.get("invite", {}).items():
                out({"event": "invite", "room": room, "data": data.get("invite_state", {}).get("events", [])})
            for room, data in rooms.get("join", {}).items():
                for ev in data.get("state", {}).get("events", []):
                    out({"event": "state", "room": room, "data": ev})
                timeline = data.get("timeline", {})
                if timeline.get("limited") and timeline.get("prev_batch"):
                    out({"event": "limited", "room": room, "data": timeline["prev_batch"]})
                for ev in timeline.get("events", []):
                    out({"event": "timeline", "room": room, "data": ev})
                for ev in data.get("ephemeral", {}).get("events", []):
                    out({"event": "ephemeral", "room": room, "data": ev})
            for room, data in rooms.get("leave", {}).items():
                for ev in data.get("timeline", {}).get("events", []):
                    out({"event": "timeline", "room": room, "data": ev})
                out({"event": "leave", "room": room})
            if first:
                first = False
                out({"event": "synced"})

    async def raw(self, method, path, body=None):
        token = {"Authorization": "Bearer " + self.client.access_token}
        resp = await self.client.send(
            method, path, data=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json", **token})
        data = await resp.json()
        if resp.status // 100 != 2:
            raise Failed(data.get("errcode", ""), data.get("error", ""))
        return data

    async def do(self, c):
        cmd = c["cmd"]
        if cmd == "login":
            config = AsyncClientConfig(encryption_enabled=False, store_sync_tokens=False)
            self.client = AsyncClient(c["homeserver"], c["user"], config=config)
            resp = check(await self.client.login(c["password"], device_name="nioclient"))
            self.task = asyncio.create_task(self.syncing())
            return {"user_id": resp.user_id, "device_id": resp.device_id}
        cl = self.client
        room = c.get("room")
        if cmd == "join":
            return {"room": check(await cl.join(room)).room_id}
        if cmd == "leave":
            check(await cl.room_leave(room))
            return {}
        if cmd == "invite":
            check(await cl.room_invite(room, c["user"]))
            return {}
        if cmd == "kick":
            check(await cl.room_kick(room, c["user"], c.get("reason")))
            return {}
        if cmd == "ban":
            check(await cl.room_ban(room, c["user"], c.get("reason")))
            return {}
        if cmd == "unban":
            check(await cl.room_unban(room, c["user"]))
            return {}
        if cmd == "send":
            resp = check(await cl.room_send(room, c["type"], c["content"], tx_id=c.get("txn") or None))
            return {"event_id": resp.event_id}
        if cmd == "put_state":
            resp = check(await cl.room_put_state(room, c["type"], c["content"], c.get("key", "")))
            return {"event_id": resp.event_id}
        if cmd == "redact":
            resp = check(await cl.room_redact(room, c["event_id"], tx_id=c.get("txn") or None))
            return {"event_id": resp.event_id}
        if cmd == "create_room":
            resp = check(await cl.room_create(
                name=c.get("name"), invite=c.get("invite") or [], is_direct=bool(c.get("direct")),
                initial_state=c.get("initial_state") or [],
                preset=nio.RoomPreset.private_chat))
            return {"room": resp.room_id}
        if cmd == "state":
            resp = check(await cl.room_get_state(room))
            return {"events": resp.events}
        if cmd == "messages":
            # The whole timeline this user may see, oldest first.
            events, token = [], None
            while True:
                query = {"dir": "b", "limit": "200"}
                if token:
                    query["from"] = token
                path = nio.Api._build_path(["rooms", room, "messages"], query)
                data = await self.raw("GET", path)
                events += data.get("chunk", [])
                if not data.get("end") or not data.get("chunk") or data["end"] == token:
                    break
                token = data["end"]
            events.reverse()
            return {"events": events}
        if cmd == "download":
            # Since Matrix 1.11 downloads need authentication; Dendrite has the old path only.
            token = {"Authorization": "Bearer " + cl.access_token}
            for path in ("/_matrix/client/v1/media/download/", "/_matrix/media/v3/download/"):
                resp = await cl.send("GET", path + c["mxc"].removeprefix("mxc://"), headers=token)
                if resp.status == 200:
                    return {"data": base64.b64encode(await resp.read()).decode()}
            raise Failed("M_NOT_FOUND", "cannot be downloaded")
        if cmd == "upload":
            data = base64.b64decode(c["data"])
            resp, _ = await cl.upload(lambda *_: io.BytesIO(data), content_type=c["type"], filename=c.get("name"), filesize=len(data))
            return {"mxc": check(resp).content_uri}
        if cmd == "read":
            await self.raw("POST", nio.Api._build_path(["rooms", room, "receipt", "m.read", c["event_id"]]), {})
            return {}
        if cmd == "raw":
            return {"body": await self.raw(c["method"], c["path"], c.get("body"))}
        if cmd == "set_displayname":
            check(await cl.set_displayname(c["name"]))
            return {}
        raise Failed("UNKNOWN_COMMAND", cmd)

    async def run(self):
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 24)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while True:
            line = await reader.readline()
            if not line:
                break
            c = json.loads(line)
            try:
                answer = {"id": c["id"], "ok": True, **(await self.do(c))}
            except Failed as exc:
                answer = {"id": c["id"], "ok": False, "code": str(exc.code), "error": str(exc)}
            except Exception as exc:
                answer = {"id": c["id"], "ok": False, "code": type(exc).__name__, "error": repr(exc)}
            out(answer)
        if self.task:
            self.task.cancel()
        if self.client:
            await self.client.close()


logging.disable(logging.CRITICAL)
asyncio.run(Driver().run())
