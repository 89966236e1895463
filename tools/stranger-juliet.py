"""@juliet:example.org: opens a room, invites bob, writes when bob is there, and ends when bob has answered."""

import hashlib
import hmac
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

SERVER = "http://127.0.0.1:8008"
BOB = "@mimi_bob=other.example:example.org"


def ask(method, path, body=None, token=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = "Bearer " + token
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(SERVER + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def register():
    for _ in range(100):
        try:
            nonce = ask("GET", "/_synapse/admin/v1/register")["nonce"]
            break
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    mac = hmac.new(b"shared", "\0".join([nonce, "juliet", "secret", "notadmin"]).encode(), hashlib.sha1).hexdigest()
    ask("POST", "/_synapse/admin/v1/register", {"nonce": nonce, "username": "juliet", "password": "secret", "admin": False, "mac": mac})


def talk():
    login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "juliet"}, "password": "secret"}
    token = ask("POST", "/_matrix/client/v3/login", login)["access_token"]
    room = ask("POST", "/_matrix/client/v3/createRoom", {"name": "Balcony", "invite": [BOB]}, token)["room_id"]
    said, since = False, ""
    while True:
        got = ask("GET", "/_matrix/client/v3/sync?timeout=10000" + since, token=token)
        since = "&since=" + urllib.parse.quote(got["next_batch"])
        news = got.get("rooms", {}).get("join", {}).get(room, {})
        for event in news.get("state", {}).get("events", []) + news.get("timeline", {}).get("events", []):
            content = event["content"]
            if event["type"] == "m.room.member" and event["state_key"] == BOB and content["membership"] == "join" and not said:
                said = True
                print("juliet sees %s enter" % BOB, flush=True)
                path = "/_matrix/client/v3/rooms/%s/send/m.room.message/1" % urllib.parse.quote(room)
                ask("PUT", path, {"msgtype": "m.text", "body": "wherefore art thou"}, token)
            if event["type"] == "m.room.message" and event["sender"] == BOB:
                print("juliet sees: <%s> %s" % (BOB, content["body"]), flush=True)
                return


if sys.argv[1:] == ["register"]:
    register()
else:
    talk()
