"""Several hosts on this machine, on one network: a namespace each, with an address, a name server, and files that no
other host sees.

Needs the right to make them (root, or CAP_SYS_ADMIN and CAP_NET_ADMIN), `ip` and `mount`. A process of a host sees
`HERE`, a folder of its own, at the same path as those of all other hosts see theirs; the others' are hidden from it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.214.0"
NAMES, STORE, FIRST = 2, 3, 10  # last numbers of addresses: the name server, the store, hosts from here on

# Puts the host's own folder, or a volume, at each place, then hides where all of them lie.
_ON_HOST = """
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
mount -t tmpfs none "$2"; cd "$3"; shift 3; exec "$@"
"""


@dataclass(frozen=True)
class Host:
    """A namespace, its address, and its folder as the test sees it."""

    name: str
    namespace: str
    address: str
    folder: Path

    def __str__(self) -> str:
        return self.name


class Network:
    """Hosts on a common wire. `here` is the path at which each of them sees its own folder."""

    def __init__(self, base: Path) -> None:
        self._id = f"burnish-{os.getpid()}"
        self._all = base / "all"
        self.here = base / "here"
        self.here.mkdir(parents=True)
        self._made = 0
        self._namespaces: list[str] = []

    def host(self, name: str, number: int = 0) -> Host:
        """A host more; `number`, the last one of its address, is the next free one unless it is told."""
        self._made += not number
        number = number or FIRST + self._made
        host = Host(name, f"{self._id}-{number}", f"{NETWORK}.{number}", self._all / "hosts" / name)
        host.folder.mkdir(parents=True)
        self._add(host.namespace)
        wire = f"w{os.getpid() % 100000}-{number}"
        _ip("link", "add", wire, "netns", self._switch, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _ip("-n", self._switch, "link", "set", wire, "master", "switch", "up")
        _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", host.namespace, "link", "set", device, "up")
        # `ip netns exec` puts these in the places of those in /etc.
        settings = _settings(host.namespace)
        settings.mkdir(parents=True)
        (settings / "resolv.conf").write_text(f"nameserver {NETWORK}.{NAMES}\noptions timeout:1 attempts:2\n")
        return host

    def volume(self, name: str) -> Path:
        """A disk that is put into one host after the other."""
        volume = self._all / "volumes" / name
        volume.mkdir(parents=True, exist_ok=True)
        return volume

    def start(
        self,
        host: Host,
        *words: str,
        log: str,
        environment: Mapping[str, str],
        volumes: Mapping[str, Path] | None = None,
    ) -> subprocess.Popen[bytes]:
        """A Python process on a host, in its folder, with volumes at names there; its output goes to a file there."""
        places = [str(host.folder), str(self.here)]
        for name, volume in (volumes or {}).items():
            (host.folder / name).mkdir(exist_ok=True)
            places += [str(volume), str(self.here / name)]
        entered = [
            "ip",
            "netns",
            "exec",
            host.namespace,
            "sh",
            "-ec",
            _ON_HOST,
            "sh",
            *places,
            "--",
            str(self._all),
            str(self.here),
        ]
        with (host.folder / log).open("ab") as output:
            return subprocess.Popen(
                [*entered, sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def _switch(self) -> str:
        return f"{self._id}-switch"

    def _add(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._namespaces.append(namespace)

    def _begin(self) -> None:
        self._add(self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")

    def _end(self) -> None:
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
            shutil.rmtree(_settings(namespace), ignore_errors=True)


@contextmanager
def network(base: Path) -> Iterator[Network]:
    """A network without hosts, for the length of a block; what runs on its hosts must have ended by then."""
    made = Network(base)
    try:
        made._begin()
        yield made
    finally:
        made._end()


def _settings(namespace: str) -> Path:
    return Path("/etc/netns") / namespace


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
