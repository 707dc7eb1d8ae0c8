#!/usr/bin/env python3
"""The smallest MessageBase client that survives the death of a node. It needs Python 3.11 and nothing more.

    MESSAGEBASE_PASSWORD=... python3 examples/client.py messagebase.toml anna ben

logs in as anna (and makes the account if there is none), sends each line of standard input to ben, and
prints what arrives. docs/PROTOCOL.md explains it under "The smallest client".
"""
import asyncio, collections, getpass, itertools, json, os, pathlib
import random, secrets, ssl, sys, threading, time, tomllib

ANSWERED_WITHIN = 4  # seconds; a node that takes longer is lost
PING_AFTER = 20  # seconds of silence
LINE_MAX = 131_072  # bytes


class Refused(Exception):
    """Code and message of a request that was not carried out."""


class Client:
    def __init__(self, config, user, peer, password):
        settings = tomllib.loads(config.read_text())
        self.nodes = [node["client"].rsplit(":", 1) for node in settings["node"]]
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
        self.tls.load_verify_locations(config.parent / settings.get("pki_dir", "pki") / "ca.pem")
        self.user, self.peer, self.password = user, peer, password
        self.cluster = self.token = self.writer = None
        self.last = 0  # the greatest id that was printed
        self.outbox = collections.deque()  # what was typed and has no answer yet
        self.typing = True  # until standard input ends
        self.ids = itertools.count(1)
        self.heard = asyncio.Queue()

    async def run(self):
        keyboard = threading.Thread(target=self.read_keyboard, args=[asyncio.get_running_loop()], daemon=True)
        keyboard.start()
        pause = 0.05
        for host, port in itertools.cycle(self.nodes):
            try:
                await self.connect(host, port)
                pause = 0.05
                return await self.converse()
            except (OSError, EOFError) as e:  # a timeout is an OSError, too
                print(f"* {host}:{port}: {e or 'no answer'}; trying the next node", file=sys.stderr)
            if self.writer:
                self.writer.close()
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, 2)

    def read_keyboard(self, loop):
        for line in sys.stdin:
            # The key is made before the first attempt: whoever repeats the request gets the first answer.
            key = f"{time.time_ns():x}-{secrets.token_hex(8)}"
            loop.call_soon_threadsafe(self.typed, {"to": self.peer, "body": line.rstrip("\n"), "key": key})
        loop.call_soon_threadsafe(self.typed, None)

    def typed(self, message):
        if message is None:
            self.typing = False
        else:
            self.outbox.append(message)
        self.heard.put_nowait({})  # wakes `converse`

    async def connect(self, host, port):
        """To a connection with a session, after which nothing is missing of what arrived meanwhile."""
        self.heard, self.events = asyncio.Queue(), collections.deque()
        dialed = asyncio.open_connection(host, int(port), ssl=self.tls, limit=LINE_MAX)
        reader, self.writer = await asyncio.wait_for(dialed, ANSWERED_WITHIN)
        self.reading = asyncio.create_task(self.read_lines(reader, self.heard))
        cluster = (await self.ask("hello"))["cluster_id"]
        if cluster is None:
            raise ConnectionError("the node belongs to no cluster yet")
        if cluster != (self.cluster or cluster):
            raise Refused("another cluster", "its sessions and ids are others")
        self.cluster = cluster
        await self.log_in()
        after, more = self.last, True
        while more:  # `inbox` the first time; later another session may have acknowledged, so `sync`
            page = await self.ask("sync" if self.last else "inbox", after=after)
            for message in page["messages"]:
                after = message["id"]
                self.show(message)
            more = page["more"]
        if self.last:
            await self.ask("ack", through=self.last)

    async def log_in(self):
        who = {"user": self.user, "password": self.password}
        try:
            if self.token:
                return await self.ask("resume", token=self.token)
        except Refused:  # the session has ended
            self.token = None
        try:
            session = await self.ask("login", **who)
        except Refused as e:  # an unknown user and a wrong password are not told apart
            if e.args[0] != "bad_credentials":
                raise
            await self.ask("register", **who, key=secrets.token_hex(16))
            session = await self.ask("login", **who)
        self.user, self.token = session["user"], session["token"]

    async def converse(self):
        while self.events or self.outbox or self.typing:
            if self.events:
                self.show(self.events.popleft())
                if self.last:
                    await self.ask("ack", through=self.last)
            elif self.outbox:
                try:
                    print("sent", (await self.ask("send", **self.outbox[0]))["id"], flush=True)
                except Refused as e:
                    print("not sent:", *e.args, flush=True)
                self.outbox.popleft()
            else:
                try:
                    await self.hear(PING_AFTER)
                except TimeoutError:
                    await self.ask("ping")
        await self.ask("logout")

    def show(self, message):
        if message["to"] == self.user and message["id"] > self.last:
            print(f"{message['from']}: {message['body']}", flush=True)
            self.last = message["id"]

    async def ask(self, op, **fields):
        """One request and its answer. An unknown outcome ends the connection: the next one repeats it."""
        number, until = next(self.ids), time.monotonic() + ANSWERED_WITHIN
        self.writer.write(json.dumps({"id": number, "op": op, **fields}).encode() + b"\n")
        while (line := await self.hear(until - time.monotonic())).get("id") != number:
            pass
        if "ok" in line:
            return line["ok"]
        error = line["error"]
        if error["outcome"] == "unknown" or error["code"] in ("closing", "not_logged_in", "busy"):
            raise ConnectionError(error["message"])
        raise Refused(error["code"], error["message"])

    async def hear(self, seconds):
        line = await asyncio.wait_for(self.heard.get(), seconds)
        if line is None:
            raise EOFError("the connection broke")
        if line.get("event") == "message":
            self.events.append(line["message"])
        return line

    @staticmethod
    async def read_lines(reader, heard):
        try:
            while line := await reader.readline():
                heard.put_nowait(json.loads(line))
        except OSError:
            pass
        heard.put_nowait(None)


if len(sys.argv) != 4:
    sys.exit("usage: client.py CONFIGURATION MY-NAME OTHER-NAME")
secret = os.environ.get("MESSAGEBASE_PASSWORD") or getpass.getpass()
try:
    asyncio.run(Client(pathlib.Path(sys.argv[1]), *sys.argv[2:], secret).run())
except Refused as e:
    sys.exit(" ".join(e.args))
except KeyboardInterrupt:
    pass
