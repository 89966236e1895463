"""An XMPP client, slixmpp, driven by JSON lines: one command a line on stdin, answers and events on stdout.

Command: {"id": 1, "cmd": "join", ...}; answer: {"id": 1, "ok": true, ...} or {"id": 1, "ok": false, "code", "error"}.
Events: every message, presence and unanswered iq as {"event": "message" | "presence" | "iq", ...} with the stanza's
XML, and {"event": "disconnected"}. Commands run one after the other, in the order given. End of input ends the program.
"""

import asyncio
import json
import logging
import sys
import xml.etree.ElementTree as ET

try:
    import slixmpp
    from slixmpp.exceptions import IqError, IqTimeout
    from slixmpp.xmlstream.handler import Callback
    from slixmpp.xmlstream.matcher import MatchXPath
    from slixmpp.xmlstream.tostring import tostring
except ImportError as exc:
    print(json.dumps({"event": "fatal", "error": str(exc)}), flush=True)
    sys.exit(3)

CLIENT = "jabber:client"
MUC = "http://jabber.org/protocol/muc"
MUC_USER = MUC + "#user"
MUC_OWNER = MUC + "#owner"
DATA = "jabber:x:data"
COMMANDS = "http://jabber.org/protocol/commands"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"


def out(obj):
    sys.stdout.write(json.dumps(obj) + "\n")
    sys.stdout.flush()


class Failed(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def q(ns, name):
    return "{%s}%s" % (ns, name)


def condition(xml):
    for err in xml:
        if err.tag == q(CLIENT, "error"):
            cond, text = "undefined-condition", ""
            for c in err:
                if c.tag == q(STANZAS, "text"):
                    text = c.text or ""
                elif c.tag.startswith("{" + STANZAS + "}"):
                    cond = c.tag[len(STANZAS) + 2:]
            return cond, text
    return "", ""


def describe(stanza):
    xml = stanza.xml
    ev = {
        "event": xml.tag.split("}")[-1],
        "from": xml.get("from", ""),
        "to": xml.get("to", ""),
        "type": xml.get("type", ""),
        "id": xml.get("id", ""),
        "xml": tostring(xml),
    }
    body = xml.find(q(CLIENT, "body"))
    if body is not None:
        ev["body"] = body.text or ""
    subject = xml.find(q(CLIENT, "subject"))
    if subject is not None:
        ev["subject"] = subject.text or ""
    sid = xml.find("{urn:xmpp:sid:0}stanza-id")
    if sid is not None:
        ev["stanza_id"] = sid.get("id", "")
    oid = xml.find("{urn:xmpp:sid:0}origin-id")
    if oid is not None:
        ev["origin_id"] = oid.get("id", "")
    if xml.find("{urn:xmpp:delay}delay") is not None:
        ev["delayed"] = True
    user = xml.find(q(MUC_USER, "x"))
    if user is not None:
        ev["status"] = [int(s.get("code", "0")) for s in user.findall(q(MUC_USER, "status"))]
        item = user.find(q(MUC_USER, "item"))
        if item is not None:
            ev["item"] = dict(item.attrib)
        invite = user.find(q(MUC_USER, "invite"))
        if invite is not None:
            reason = invite.find(q(MUC_USER, "reason"))
            ev["invite"] = {"from": invite.get("from", ""), "reason": (reason.text or "") if reason is not None else ""}
    cond, text = condition(xml)
    if cond:
        ev["condition"], ev["error"] = cond, text
    return ev


class Client(slixmpp.ClientXMPP):
    def __init__(self, jid, password):
        super().__init__(jid, password)
        self.use_aiodns = False
        self.ready = asyncio.get_running_loop().create_future()
        self.add_event_handler("session_start", self.started)
        self.add_event_handler("failed_auth", lambda _: self.broken("not-authorized"))
        self.add_event_handler("connection_failed", lambda e: self.broken(str(e)))
        self.add_event_handler("disconnected", self.lost)
        self.register_plugin("xep_0030")
        self.register_plugin("xep_0199")
        for plugin in ("xep_0184", "xep_0308", "xep_0313", "xep_0333", "xep_0424", "xep_0425", "xep_0444", "xep_0461", "xep_0191", "xep_0055", "xep_0084", "xep_0172", "xep_0363"):
            self.register_plugin(plugin)
        # What slixmpp itself makes of stanzas, beside the stanzas as they are.
        self.understands("message_correction", lambda m: ("correction", m["replace"]["id"], m["body"]))
        self.understands("message_retract", lambda m: ("retraction", m["apply_to"]["id"], ""))
        self.understands("moderated_message", lambda m: ("moderation", m["apply_to"]["id"], str(m["apply_to"]["moderated"]["by"])))
        self.understands("reactions", lambda m: ("reactions", m["reactions"]["id"], " ".join(sorted(m["reactions"]["values"]))))
        self.understands("message_reply", lambda m: ("reply", m["reply"]["id"], m["feature_fallback"].get_stripped_body() if m.xml.find("{urn:xmpp:feature-fallback:0}fallback") is not None else m["body"]))
        self.understands("marker_displayed", lambda m: ("displayed", m["displayed"]["id"], ""))
        self.understands("receipt_received", lambda m: ("receipt", m["receipt"], ""))
        for name in ("message", "presence"):
            self.register_handler(Callback("every " + name, MatchXPath("{%s}%s" % (CLIENT, name)), self.incoming))

    def understands(self, event, read):
        def handler(m):
            try:
                what, ref, value = read(m)
            except Exception as exc:
                what, ref, value = "broken " + event, "", repr(exc)
            out({"event": "understood", "what": what, "ref": ref, "value": value, "from": str(m["from"]), "type": m["type"], "id": m["id"]})
        self.add_event_handler(event, handler)

    def incoming(self, stanza):
        out(describe(stanza))

    def lost(self, why):
        out({"event": "disconnected", "error": str(why or "")})
        self.broken(str(why or "the connection was closed"))

    def broken(self, why):
        if not self.ready.done():
            self.ready.set_exception(Failed("connect", why))

    async def started(self, _):
        self.send_presence()
        if not self.ready.done():
            self.ready.set_result(None)


class Driver:
    def __init__(self):
        self.client = None

    async def iq(self, c, to, typ, payload, timeout=60):
        iq = self.client.make_iq(ito=to, itype=typ)
        if c.get("from"):
            iq["from"] = c["from"]
        if payload is not None:
            iq.append(payload)
        try:
            result = await iq.send(timeout=timeout)
        except IqError as exc:
            cond, text = condition(exc.iq.xml)
            raise Failed(cond, text)
        except IqTimeout:
            raise Failed("timeout", "no answer")
        return result

    async def form(self, c, to, session, node, result, fields):
        """Goes on with an ad-hoc command (XEP-0050) until it is completed, giving the fields that are asked for."""
        while True:
            command = result.xml.find(q(COMMANDS, "command"))
            status, session = command.get("status"), command.get("sessionid", session)
            notes = [n.text or "" for n in command.findall(q(COMMANDS, "note"))]
            form = command.find(q(DATA, "x"))
            values = {}
            if form is not None:
                for f in form.findall(q(DATA, "field")):
                    values[f.get("var", "")] = [v.text or "" for v in f.findall(q(DATA, "value"))]
            if status != "executing":
                return {"status": status, "notes": notes, "fields": values, "xml": tostring(result.xml)}
            nxt = ET.Element(q(COMMANDS, "command"), {"node": node, "sessionid": session})
            actions = command.find(q(COMMANDS, "actions"))
            if actions is not None and actions.find(q(COMMANDS, "next")) is not None:
                nxt.set("action", "next")
            else:
                nxt.set("action", "complete")
            x = ET.SubElement(nxt, q(DATA, "x"), {"type": "submit"})
            for var, value in fields.items():
                if var in values:
                    f = ET.SubElement(x, q(DATA, "field"), {"var": var})
                    for v in value if isinstance(value, list) else [value]:
                        ET.SubElement(f, q(DATA, "value")).text = v
            result = await self.iq(c, to, "set", nxt)

    async def do(self, c):
        cmd = c["cmd"]
        if cmd == "connect":
            self.client = Client(c["jid"], c["password"])
            tls = bool(c.get("ca"))
            if tls:
                self.client.ca_certs = c["ca"]
            # Without TLS slixmpp would not send the password in the clear, and does not have to: SCRAM.
            self.client.connect((c["host"], c["port"]), disable_starttls=not tls, force_starttls=tls)
            await asyncio.wait_for(asyncio.shield(self.client.ready), 60)
            return {"jid": self.client.boundjid.full}
        cl = self.client
        if cmd == "raw":
            cl.send_raw(c["xml"])
            return {}
        if cmd == "presence":
            cl.send_presence(pto=c.get("to"), ptype=c.get("type"))
            return {}
        if cmd == "join":
            p = cl.make_presence(pto="%s/%s" % (c["room"], c["nick"]))
            x = ET.Element(q(MUC, "x"))
            if "history" in c:
                ET.SubElement(x, q(MUC, "history"), {"maxstanzas": str(c["history"])})
            p.append(x)
            p.send()
            return {}
        if cmd == "part":
            cl.send_presence(pto="%s/%s" % (c["room"], c["nick"]), ptype="unavailable")
            return {}
        if cmd == "message":
            m = cl.make_message(mto=c["to"], mbody=c.get("body"), mtype=c.get("type", "chat"))
            if c.get("mid"):
                m["id"] = c["mid"]
                m.append(ET.Element("{urn:xmpp:sid:0}origin-id", {"id": c["mid"]}))
            else:
                m["id"] = cl.new_id()
            m.send()
            return {"mid": m["id"]}
        if cmd in ("correct", "react", "reply", "displayed"):  # XEP-0308, XEP-0444, XEP-0461, XEP-0333
            m = cl.make_message(mto=c["to"], mbody=c.get("body"), mtype=c.get("type", "groupchat"))
            m["id"] = c.get("mid") or cl.new_id()
            if cmd == "correct":
                m["replace"]["id"] = c["ref"]
            elif cmd == "react":
                cl["xep_0444"].set_reactions(m, c["ref"], c["reactions"])
                m.enable("store")
            elif cmd == "reply":
                m["reply"]["to"] = c["author"]
                m["reply"]["id"] = c["ref"]
            else:
                m["displayed"]["id"] = c["ref"]
            m.send()
            return {"mid": m["id"]}
        if cmd == "retract":  # XEP-0424
            cl["xep_0424"].send_retraction(slixmpp.JID(c["to"]), c["ref"], c.get("type", "groupchat"))
            return {}
        if cmd == "moderate":  # XEP-0425
            try:
                await cl["xep_0425"].moderate(slixmpp.JID(c["to"]), c["ref"], c.get("reason", ""), timeout=60)
            except IqError as exc:
                raise Failed(*condition(exc.iq.xml))
            return {}
        if cmd == "archive":  # XEP-0313, by its pages
            found = []
            async for m in cl["xep_0313"].iterate(slixmpp.JID(c["to"]), rsm={"max": c.get("page", 10)}, total=c.get("total")):
                found.append(tostring(m.xml))
            return {"xml": "".join(found)}
        if cmd == "block":  # XEP-0191
            await (cl["xep_0191"].unblock if c.get("off") else cl["xep_0191"].block)([slixmpp.JID(c["jid"])])
            return {}
        if cmd == "upload":  # XEP-0363
            import io
            url = await cl["xep_0363"].upload_file(c["name"], size=len(c["text"]), content_type=c["type"], input_file=io.BytesIO(c["text"].encode()), domain=slixmpp.JID(c["domain"]))
            return {"xml": url}
        if cmd == "invite":  # mediated, XEP-0045 section 7.8.2
            m = cl.make_message(mto=c["room"])
            del m["type"]
            m["id"] = c.get("mid") or cl.new_id()
            x = ET.Element(q(MUC_USER, "x"))
            i = ET.SubElement(x, q(MUC_USER, "invite"), {"to": c["jid"]})
            if c.get("reason"):
                ET.SubElement(i, q(MUC_USER, "reason")).text = c["reason"]
            m.append(x)
            m.send()
            return {"mid": m["id"]}
        if cmd == "instant":  # an instant room, XEP-0045 section 10.1.2
            query = ET.Element(q(MUC_OWNER, "query"))
            ET.SubElement(query, q(DATA, "x"), {"type": "submit"})
            await self.iq(c, c["room"], "set", query)
            return {}
        if cmd == "iq":
            payload = ET.fromstring(c["payload"]) if c.get("payload") else None
            result = await self.iq(c, c["to"], c.get("type", "get"), payload, c.get("timeout", 60))
            return {"xml": tostring(result.xml)}
        if cmd == "command":  # ad-hoc, XEP-0050
            first = ET.Element(q(COMMANDS, "command"), {"node": c["node"], "action": "execute"})
            result = await self.iq(c, c["to"], "set", first)
            return await self.form(c, c["to"], "", c["node"], result, c.get("fields") or {})
        if cmd == "disconnect":
            cl.disconnect(wait=1.0)
            return {}
        if cmd == "abort":  # without closing the stream
            cl.abort()
            return {}
        raise Failed("unknown-command", cmd)

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
        if self.client is not None and self.client.is_connected():
            self.client.disconnect(wait=0.5)
            try:
                await asyncio.wait_for(self.client.disconnected, 2)
            except asyncio.TimeoutError:
                pass


logging.basicConfig(level=logging.WARNING)
ET.register_namespace("", CLIENT)
asyncio.get_event_loop_policy().set_event_loop(asyncio.new_event_loop())
asyncio.get_event_loop_policy().get_event_loop().run_until_complete(Driver().run())
