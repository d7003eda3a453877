"""A client that speaks just enough HTTP/2 to misbehave: it begins calls and stalls, or takes no replies.

gRPC's own client always reads and always sends; what a stuck or hostile one does must be done by hand.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_INITIAL_WINDOW_SETTING = 0x4


def message_head(length: int, *, compressed: bool = False) -> bytes:
    """What precedes a gRPC message of so many bytes."""
    return struct.pack(">?I", compressed, length)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header(name: str, value: str) -> bytes:
    # A literal without indexing and without Huffman coding; both are shorter than 127 bytes.
    assert len(name) < 127 > len(value)
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class RawConnection:
    """One connection. Answers pings, so that keepalive finds nothing wrong with it; sends as fast as it is let.

    `window`: how many bytes of each reply the server may send without this side having read.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next_stream = 1
        self._initial_window = 65_535
        self._room = {0: 65_535}
        self._more_room = asyncio.Event()
        self.ended: set[int] = set()  # streams that the server has ended
        self.closed = False
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, address: str, *, window: int = 65_535) -> Self:
        """Connects to `host:port`."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        settings = struct.pack(">HI", _INITIAL_WINDOW_SETTING, window)
        writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings))
        return cls(reader, writer)

    def begin(self, method: str, **headers: str) -> int:
        """Begins a call of `/package.Service/Method`; returns its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        named = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "test",
            "content-type": "application/grpc",
            "te": "trailers",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        block = b"".join(_header(name, value) for name, value in named.items())
        self._room[stream] = self._initial_window
        self._writer.write(_frame(_HEADERS, _END_HEADERS, stream, block))
        return stream

    async def send(self, stream: int, data: bytes, *, last: bool = False) -> None:
        """Sends bytes of a call as the server gives room; returns when all are on their way."""
        rest = memoryview(data)
        while rest or last:
            while rest and (min(self._room[0], self._room[stream]) <= 0) and stream not in self.ended:
                if self.closed:
                    raise ConnectionError("the server closed the connection")
                self._more_room.clear()
                await self._more_room.wait()
            if stream in self.ended:
                return
            size = min(self._room[0], self._room[stream], len(rest), 16_384)
            part, rest = rest[:size], rest[size:]
            self._room[0] -= size
            self._room[stream] -= size
            self._writer.write(_frame(_DATA, _END_STREAM if last and not rest else 0, stream, bytes(part)))
            await self._writer.drain()
            last = last and bool(rest)

    async def close(self) -> None:
        """Ends the connection."""
        self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                stream = int.from_bytes(head[5:], "big")
                self._take(kind, flags, stream, await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed = True
            self._more_room.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                setting, value = struct.unpack_from(">HI", payload, at)
                if setting == _INITIAL_WINDOW_SETTING:
                    for known in self._room.keys() - {0}:
                        self._room[known] += value - self._initial_window
                    self._initial_window = value
            self._writer.write(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._writer.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW:
            self._room[stream] = self._room.get(stream, 0) + int.from_bytes(payload, "big")
        elif kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            self.ended.add(stream)
        self._more_room.set()
