# Loads a bundle from the broker into the slot that does not run, while the charger charges, and
# starts it once nobody does. Imported when a manifest comes and given back after. What is there
# already is not fetched, so it goes on after any cut; writes wait for the meter's last reading.

import asyncio

from micropython import const

from chargekeep import errors, forget
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError
from chargekeep.update import manifest, slots
from chargekeep.update.stage import Stage
from chargekeep.update.trial import about

_CHUNK = const(2048)
_ENOSPC = const(28)
_PAUSE_MS = const(1500)  # after so long a write does not wait for the meter
_LOOK_MS = const(20)
_IDLE_MS = const(1000)

_TOPIC = const("firmware/")
_LOADING = const("loading")
_NEW = "files.new"  # the list, as it comes


class Download:
    """The bundle of the signed manifest `data`, for the charger `app` (app.py).

    Tells `app.trial.update` how it gets on.
    """

    def __init__(self, app, data):
        self._app = app
        self.data = data
        self._version = 0
        self._prefix = ""
        self._levels = None  # last two of the topic of the chunk that is awaited
        self._chunk = b""
        self._number = -1  # of the chunk that is here
        self._event = asyncio.Event()
        self._samples = 0

    def _tell(self, state, key=None, value=0):
        told = about(self.data, state, self._version)
        if key:
            told[key] = value
        self._app.trial.update = told

    async def run(self):
        """Load, prove, wait for an idle moment, restart. Ends where the bundle is refused."""
        app = self._app
        code = 0
        try:
            await self._load()
        except ChargekeepError as e:
            code, detail = e.code, e.detail
        except MemoryError:
            code, detail = errors.MEMORY, "update"
        except Exception as e:
            full = isinstance(e, OSError) and e.errno == _ENOSPC
            code, detail = errors.UPDATE_SPACE if full else errors.UNEXPECTED, repr(e)
        finally:
            if app.download is self:  # else a newer bundle has come
                app.download = None
                for name in ("stage", "manifest"):
                    forget("chargekeep.update." + name)
            await self._unfollow()
        if code:
            self._tell("refused", "error", code)
            app.health.count(code, detail)

    def take(self, levels, data):
        """A chunk: the last levels of its topic, and its bytes."""
        if "/".join(levels) == self._levels:
            self._chunk = data
            self._event.set()

    async def _load(self):
        app = self._app
        payload = await cose.open_sign1_async(
            self.data, cose.FIRMWARE_MANIFEST, app.objects.trust.key_for
        )
        listed = manifest.Manifest(payload)
        self._version = listed.version
        manifest.check(listed, app)
        manifest.check_newer(listed, app)
        if slots.on_trial():
            raise ChargekeepError(errors.UPDATE_TRIAL)  # the way back must stay
        self._prefix = listed.digest[:8].hex()
        self._tell(_LOADING)
        stage = Stage(listed, self.data)
        if not stage.has_list():
            await self._fetch_list(stage, listed.size)
        await self._work(stage.prepare())
        await self._fetch_files(stage, listed.size)
        await self._work(stage.finish())
        self._tell("staged")
        while app.machine.transaction or app.machine.ended:
            await asyncio.sleep_ms(_IDLE_MS)
        slots.switch(stage.slot)
        app.board.reset()

    async def _fetch_list(self, stage, size):
        await self._pause()
        with open(_NEW, "wb"):
            pass
        for offset in range(0, size, _CHUNK):
            data = await self._bytes(offset, min(_CHUNK, size - offset))
            await self._pause()
            with open(_NEW, "ab") as f:
                f.write(data)
        stage.take_list(_NEW)

    async def _fetch_files(self, stage, start):
        left = sum([item[1] for i, item in enumerate(stage.files()) if i in stage.needed])
        self._tell(_LOADING, "left", left)
        for index, item in enumerate(stage.files()):
            path, size, _ = item
            if index in stage.needed:
                offset = 0
                while True:
                    data = await self._bytes(start + offset, size - offset)
                    await self._pause()
                    stage.put(path, size, offset, data)
                    offset += len(data)
                    left -= len(data)
                    self._tell(_LOADING, "left", left)
                    if offset >= size:
                        break
            start += size

    async def _bytes(self, position, length):
        # At most `length` bytes of the stream of list and files: what one chunk has of them.
        if not length:
            return b""
        number = position // _CHUNK
        if number != self._number:
            await self._fetch(number)
        position %= _CHUNK
        data = memoryview(self._chunk)[position : position + length]
        if not len(data):
            raise ChargekeepError(errors.UPDATE_FILE, "chunk %d" % number)
        return data

    async def _fetch(self, number):
        # Waits as long as it takes: a broker that is back sends what is subscribed to.
        self._number = -1
        self._event.clear()
        self._levels = "%s/%d" % (self._prefix, number)
        try:
            await self._app.inbox.follow(_TOPIC + self._levels)
        except ChargekeepError:
            pass  # no connection; the next one subscribes
        await self._event.wait()
        await self._unfollow()
        self._number = number

    async def _unfollow(self):
        levels, self._levels = self._levels, None
        if levels:
            try:
                await self._app.inbox.unfollow(_TOPIC + levels)
            except ChargekeepError:
                pass

    async def _work(self, steps):
        for written in steps:
            if written:
                await self._pause()
            else:
                await asyncio.sleep_ms(0)

    async def _pause(self):
        # Flash may stand still for 45 to 400 ms: right after a reading nobody waits for the meter.
        sampler = self._app.sampler
        for _ in range(0, _PAUSE_MS, _LOOK_MS):
            if sampler.samples != self._samples:
                break
            await asyncio.sleep_ms(_LOOK_MS)
        self._samples = sampler.samples
