"""The Pico W's radio with a gate behind it: any network name is joined, and the only way out is
to this machine and to what the bench opens.

rp2040py emulates the radio chip and relays the board's TCP through sockets of this machine.
"""

import asyncio
import contextlib
from typing import Any

from rp2040py.external.cyw43 import Cyw43439

GATEWAY = "10.0.0.1"  # the address that the emulated network's DHCP tells the board


class Radio(Cyw43439):
    """`open` maps addresses the board may reach to hosts, `{"10.0.0.1": "127.0.0.1"}`: TCP to any
    other is refused, datagrams are lost. While `dead`, every frame that the board sends is lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open = {GATEWAY: "127.0.0.1"}
        self.dead = False

    def attach(self, rp2040: Any) -> None:
        super().attach(rp2040)
        bridge: Any = self.bus.nat_bridge
        bridge._tcp._connect_fn = self._connect
        bridge._udp.maybe_handle = lambda _: True
        pass_on = bridge.handle_outbound_ethernet_frame

        def frame(data: bytes) -> None:
            if not self.dead:
                pass_on(data)

        bridge.handle_outbound_ethernet_frame = frame

    @property
    def connected(self) -> bool:
        """Whether a connection of the board is open, or about to."""
        bridge: Any = self.bus.nat_bridge
        return bool(bridge._tcp._flows)

    async def _connect(self, host: str, port: int) -> Any:
        if host not in self.open:
            raise ConnectionRefusedError(host)
        reader, writer = await asyncio.open_connection(self.open[host], port)
        half_close = writer.write_eof

        def write_eof() -> None:
            with contextlib.suppress(OSError):  # the far end has reset it already
                half_close()

        setattr(writer, "write_eof", write_eof)  # noqa: B010
        return reader, writer
