"""romeo@example.org: opens a room, invites bob, writes when bob is there, and ends when bob has answered."""

import sys

import slixmpp

ROOM = "balcony@rooms.mimi.example.org"
BOB = "bob%other.example@mimi.example.org"


class Romeo(slixmpp.ClientXMPP):
    def __init__(self):
        super().__init__("romeo@example.org/orchard", "secret")
        for plugin in ("xep_0030", "xep_0045"):
            self.register_plugin(plugin)
        self.said = False
        self.answered = False
        self.add_event_handler("session_start", self.start)
        self.add_event_handler("groupchat_message", self.message)
        self.add_event_handler("groupchat_presence", self.presence)

    async def start(self, _):
        self.send_presence()
        await self.plugin["xep_0045"].join_muc_wait(ROOM, "romeo", timeout=60)
        self.plugin["xep_0045"].invite(ROOM, BOB, reason="a talk")

    def presence(self, p):
        nick = p["from"].resource
        if not self.said and nick.startswith("bob"):
            self.said = True
            print("romeo sees %s enter" % nick, flush=True)
            self.send_message(mto=ROOM, mbody="wherefore art thou", mtype="groupchat")

    def message(self, m):
        if m["from"].resource.startswith("bob") and m["body"]:
            print("romeo sees: <%s> %s" % (m["from"].resource, m["body"]), flush=True)
            self.answered = True
            self.disconnect()


client = Romeo()
client["feature_mechanisms"].unencrypted_plain = True
client.connect(("127.0.0.1", 5222), disable_starttls=True, force_starttls=False)
client.process(forever=False)
sys.exit(0 if client.answered else 1)
