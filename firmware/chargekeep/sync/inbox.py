# Takes what the operator publishes for this station and hands each object to the handler of its
# kind. It verifies nothing itself (every object is signed, and its handler opens it); it promises
# that a topic nobody knows, or a handler that refuses or fails, is counted and stops nothing.

from chargekeep import errors
from chargekeep.errors import ChargekeepError

BASE = "chargekeep/1/"


class Inbox:
    """Dispatches `.../down/<kind>` of this station and of `all` stations of its site.

    handlers: kind -> `async handler(payload)` with payload as bytes; where the topic has more
    levels (`allowlist/<version>/<n>`) they follow as str arguments. A retained object comes again
    on every connection: handlers are idempotent, as the objects' versions make them.
    count: `count(code, detail)` is told of every object that was refused (health.py).
    """

    def __init__(self, client, site, station, handlers, count):
        self.client = client
        self.handlers = handlers
        self.accepted = 0
        self.count = count
        self._bases = (BASE + site + "/" + station + "/down/", BASE + site + "/all/down/")
        client.on_message = self._dispatch

    async def start(self):
        """Subscribe to every kind of one level; deeper ones are asked for with `follow`.

        Called again, it brings the retained objects again: for those that were refused before the
        trust list came that vouches for them.
        """
        await self.follow("+")

    async def follow(self, levels):
        """Subscribe to `levels` below down/, for this station and for all."""
        for base in self._bases:
            await self.client.subscribe(base + levels)

    async def unfollow(self, levels):
        for base in self._bases:
            await self.client.unsubscribe(base + levels)

    async def _dispatch(self, topic, payload):
        kind = levels = None
        for base in self._bases:
            if topic.startswith(base):
                kind, *levels = topic[len(base) :].split("/")
        handler = self.handlers.get(kind)
        if handler is None:
            self.count(errors.SYNC_TOPIC, topic[:64])
        elif payload:  # an empty payload is a retained object that was taken away
            try:
                await handler(bytes(payload), *levels)
                self.accepted += 1
            except ChargekeepError as e:
                self.count(e.code, "%s: %s" % (kind, e.detail))
            except Exception as e:  # one bad object must not cut the connection for the others
                self.count(errors.UNEXPECTED, "%s: %r" % (kind, e))
