"""Runs a built image's root file system as a container would, without a container engine, and asks for its health.

    python -m tools.images.run_rootfs TARGET ROOTFS

ROOTFS: where the image is mounted (`buildah mount`). For machines on which no containers run: a mount namespace in
which it is read-only but for fresh /tmp, /state and /runs, then chroot, the image's user, no capability. Needs root.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tools.images.check import fake_model
from tools.images.recipe import ROLES, UID, Image, Recipe

_SECONDS = 300.0
_UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
_SETPRIV = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
_WRITES = "touch /opt/burnish/x /etc/x /x; id -u; grep CapBnd /proc/self/status"


@dataclass(frozen=True)
class Jail:
    """An image's files, and what is mounted over them to write to."""

    rootfs: Path
    image: Image
    mounts: dict[str, Path]

    def command(self, words: list[str], **environment: str) -> list[str]:
        """What runs `words` in there."""
        root = self.rootfs
        script = f"mount --bind {root} {root} && mount --rbind /dev {root}/dev && mount -t proc proc {root}/proc"
        script += "".join(f" && mount --bind {source} {root}{place}" for place, source in self.mounts.items())
        script += f' && mount -o remount,bind,ro {root} && exec env -i "$@"'
        env = [f"{name}={value}" for name, value in {**self.image.env, **environment}.items()]
        return [*_UNSHARE, "sh", "-ec", script, "sh", *env, "/usr/sbin/chroot", str(root), *_SETPRIV, *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `words` to their end."""
        return subprocess.run(self.command(list(words)), capture_output=True, text=True, check=False)

    def serve(self) -> float:
        """Starts the server on the fake engine; seconds until its probe is content. Raises AssertionError."""
        model = f"/state/{fake_model(self.mounts['/state']).name}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        words = [*self.image.entrypoint.words, "--engine", "fake", "--model", model]
        command = self.command(words, BURNISH_SERVER_HOST="127.0.0.1", BURNISH_SERVER_PORT=port)
        began = time.monotonic()
        server = subprocess.Popen(command)
        try:
            while self.run("python", "-m", "burnish_services.probe", f"127.0.0.1:{port}").returncode:
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < began + _SECONDS, "the server does not serve"
            return time.monotonic() - began
        finally:
            server.kill()
            server.wait()


def main() -> int:
    """Prints what was found as JSON. Raises AssertionError where the image does not do as it should."""
    target, rootfs = sys.argv[1], Path(sys.argv[2]).resolve()
    image = Recipe({"BASE": "scratch", "DEVICE": "cpu"}).image(target)
    with tempfile.TemporaryDirectory() as folder:
        places = ["/tmp", "/runs", *(["/state"] if target in ROLES else [])]  # noqa: S108 - of the image
        jail = Jail(rootfs, image, {place: Path(folder, place[1:]) for place in places})
        for path in jail.mounts.values():
            path.mkdir()
            subprocess.run(["chown", f"{UID}:{UID}", path], check=True)  # noqa: S607
        written = jail.run("/bin/sh", "-c", _WRITES)
        assert written.stdout.split() == [str(UID), "CapBnd:", "0" * 16], written
        assert written.stderr.count("Read-only file system") == 3, written
        found: dict[str, object] = {"target": target}
        if target in ROLES:
            found["serving_s"] = round(jail.serve(), 1)
        else:
            done = jail.run(*image.entrypoint.words, "--version")
            assert done.returncode == 0, done.stderr
            found["version"] = done.stdout.strip()
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
