"""A wire that can be cut: a TCP proxy between the command and the services, with faults due at a number of bytes.

Bytes are counted over all connections together, in each direction: a fault strikes wherever the traffic is then.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.chaos.children import ANSWERED, SENT, Counters

_PIECE = 64  # bytes that go through at a time on a throttled connection
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class WireFault:
    """`kind`: see `schedule.KINDS["answers"]`. Due once `after` bytes have gone that way; lasts `seconds`."""

    kind: str
    after: int
    seconds: float


@dataclass
class _Way:
    """One direction: where its bytes are counted, what is due, and how it is slowed down."""

    place: int
    faults: list[WireFault] = field(default_factory=list)
    delay: float = 0.0
    piece: int = 0


class Proxy:
    """Forwards `port` of a `host` to another one there, which may be changed, from a thread of its own. Counts bytes in
    `counters`."""

    def __init__(self, counters: Counters, host: str) -> None:
        self.host = host
        self.struck: list[str] = []
        self.target = 0
        self.counters = counters
        self.requests, self.answers = _Way(SENT), _Way(ANSWERED)
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._in_loop(self._open)

    def arm(self, target: int, requests: Sequence[WireFault] = (), answers: Sequence[WireFault] = ()) -> None:
        """A fresh wire to port `target`, with these faults."""

        async def work() -> None:
            self._hang_up()
            await self._open()
            self.target, self.struck = target, []
            self.requests = _Way(SENT, sorted(requests, key=lambda fault: fault.after))
            self.answers = _Way(ANSWERED, sorted(answers, key=lambda fault: fault.after))

        self._in_loop(work)

    def close(self) -> None:
        """Ends everything."""

        async def work() -> None:
            self._hang_up()
            if self._server is not None:
                self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        self._in_loop(work)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _in_loop(self, work: Callable[[], object]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(30)  # type: ignore[arg-type]

    async def _open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, writer)
        self._connections.add(connection)
        try:
            await connection.carry(reader)
        finally:
            self._connections.discard(connection)

    def _hang_up(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    async def strike(self, fault: WireFault, connection: _Connection, way: _Way, towards: asyncio.StreamWriter) -> bool:
        """What the fault does; False where the bytes at hand are lost."""
        self.struck.append(fault.kind)
        match fault.kind:
            case "reset":
                connection.reset()
                return False
            case "half-closed":
                with contextlib.suppress(OSError, RuntimeError):
                    towards.write_eof()
                return False
            case "stalled":
                await asyncio.sleep(fault.seconds)
            case "delayed":
                way.delay = fault.seconds / 20
            case "throttled":
                way.piece = _PIECE
            case "swallowed":  # packets vanish for a while; the connection does not survive it
                await asyncio.sleep(fault.seconds)
                connection.reset()
                return False
            case "cut":
                await self._cut(fault.seconds)
                return False
        return True

    async def _cut(self, seconds: float) -> None:
        """No connection lives on, and none is accepted until it heals."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._hang_up()
        self._loop.call_later(seconds, lambda: self._loop.create_task(self._open()))


class _Connection:
    """One connection of the command, and the one to the services that belongs to it."""

    def __init__(self, proxy: Proxy, near: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._near = near
        self._far: asyncio.StreamWriter | None = None

    async def carry(self, reader: asyncio.StreamReader) -> None:
        """Until both ends have closed."""
        try:
            far_reader, self._far = await asyncio.open_connection(self._proxy.host, self._proxy.target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, self._far, self._proxy.requests))
                group.create_task(self._pump(far_reader, self._near, self._proxy.answers))
        except* (OSError, RuntimeError):  # one end is gone, or was closed by a fault
            pass
        finally:
            for writer in (self._near, self._far):
                if writer is not None:
                    writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way) -> None:
        counters = self._proxy.counters
        while data := await reader.read(65536):
            while data:
                left = way.faults[0].after - counters[way.place] if way.faults else len(data)
                size = max(0, min(len(data), left, way.piece or len(data)))
                if way.delay or way.piece:
                    await asyncio.sleep(way.delay or 0.001)
                counters[way.place] += size
                writer.write(data[:size])
                await writer.drain()
                data = data[size:]
                due = way.faults and counters[way.place] >= way.faults[0].after
                if due and not await self._proxy.strike(way.faults.pop(0), self, way, writer):
                    break
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    def reset(self) -> None:
        """Ends both connections with RST, whatever is on its way."""
        for writer in (self._near, self._far):
            if writer is not None:
                connected = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
                writer.transport.abort()
