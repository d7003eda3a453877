"""Two hosts on this machine: network namespaces, joined by a wire that can be cut, narrowed, or made long and lossy.

Needs the right to make them (root, or CAP_SYS_ADMIN and CAP_NET_ADMIN), `ip` and `tc`.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MTU = 1500


def why_not() -> str:
    """Why two hosts can't be had here; empty where they can."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    name = f"burnish-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces may not be made here: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


@dataclass(frozen=True)
class Hosts:
    """The namespaces by name, and the address of each as the other sees it."""

    near: str
    far: str
    near_address: str
    far_address: str

    def cut(self) -> None:
        """Takes the cable out, at the far end."""
        _ip("-n", self.far, "link", "set", "wire", "down")

    def heal(self) -> None:
        """Plugs it in again."""
        _ip("-n", self.far, "link", "set", "wire", "up")

    def narrow(self, rate: str) -> None:
        """Lets no more through than so much, in each direction."""
        for host in (self.near, self.far):
            words = ["tc", "-n", host, "qdisc", "replace", "dev", "wire", "root", "tbf"]
            subprocess.run([*words, "rate", rate, "burst", "16kbit", "latency", "400ms"], check=True)


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Two hosts with a cable between them, for the length of a block."""
    with _namespaces() as made:
        _ip("link", "add", "wire", "netns", made.near, "type", "veth", "peer", "name", "wire", "netns", made.far)
        _up(made)
        yield made


@contextmanager
def far_apart(*, delay: float, jitter: float, loss: float, seed: int = 0) -> Iterator[Hosts]:
    """Two hosts whose packets take `delay` seconds, `jitter` more or less, each way, and are lost with probability
    `loss`. In user space, since not every kernel has netem."""
    with _namespaces() as made, _Relay(made, delay, jitter, loss, random.Random(seed)):
        _up(made)
        yield made


@contextmanager
def _namespaces() -> Iterator[Hosts]:
    base = f"burnish-{os.getpid()}"
    made = Hosts(f"{base}-near", f"{base}-far", "10.213.77.1", "10.213.77.2")
    try:
        for name in (made.near, made.far):
            _ip("netns", "add", name)
        yield made
    finally:
        for name in (made.near, made.far):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _up(made: Hosts) -> None:
    for name, address in ((made.near, made.near_address), (made.far, made.far_address)):
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
        for device in ("lo", "wire"):
            _ip("-n", name, "link", "set", device, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class _Relay:
    """Carries packets between a TUN device in each namespace, in a thread."""

    def __init__(self, made: Hosts, delay: float, jitter: float, loss: float, rng: random.Random) -> None:
        self._made = made
        self._delay, self._jitter, self._loss, self._rng = delay, jitter, loss, rng
        self._ready = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._ready.wait(10), "the TUN devices could not be made"

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    def _carry(self) -> None:
        ends = [_tun(name) for name in (self._made.near, self._made.far)]
        other = {ends[0]: ends[1], ends[1]: ends[0]}
        on_the_way: list[tuple[float, int, int, bytes]] = []
        number = 0
        self._ready.set()
        try:
            while not self._over.is_set():
                now = time.monotonic()
                while on_the_way and on_the_way[0][0] <= now:
                    _, _, end, packet = heapq.heappop(on_the_way)
                    with suppress(OSError):  # the device is not up
                        os.write(end, packet)
                wait = min(0.05, max(0.0, on_the_way[0][0] - now)) if on_the_way else 0.05
                for end in select.select(ends, [], [], wait)[0]:
                    with suppress(OSError):
                        packet = os.read(end, _MTU + 64)
                        if self._rng.random() >= self._loss:
                            due = time.monotonic() + self._delay + self._rng.uniform(-1, 1) * self._jitter
                            heapq.heappush(on_the_way, (due, number, other[end], packet))
                            number += 1
        finally:
            for end in ends:
                os.close(end)


def _tun(namespace: str) -> int:
    """A TUN device named `wire` in a namespace. Changes the namespace of this thread."""
    with Path(f"/run/netns/{namespace}").open() as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"wire", _IFF_TUN | _IFF_NO_PI))
    return device
