"""Runs a built image's root file system as a container would, without a container engine, and asks for its health.

    python -m tools.images.run_rootfs TARGET ROOTFS

ROOTFS: where the image is mounted (`buildah mount`). For machines on which containers cannot run, such as CI's: a mount
namespace in which it is read-only but for fresh /tmp, /state and /runs, then chroot, the image's user, no capability.
Needs root. `make images-buildah` does all of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.images.check import fake_model
from tools.images.recipe import ROLES, UID, Recipe

_SECONDS = 300.0


def command(rootfs: Path, image_env: dict[str, str], mounts: dict[str, Path], words: list[str]) -> list[str]:
    """What runs `words` in there."""
    bound = "".join(f"mount --bind '{source}' '{rootfs}{place}' && " for place, source in mounts.items())
    script = (
        f"mount --bind '{rootfs}' '{rootfs}' && mount --rbind /dev '{rootfs}/dev' && mount -t proc proc '{rootfs}/proc'"
        f" && {bound}"
        f"mount -o remount,bind,ro '{rootfs}' && exec env -i \"$@\""
    )
    env = [f"{name}={value}" for name, value in image_env.items()]
    confined = [
        "setpriv",
        f"--reuid={UID}",
        f"--regid={UID}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ]
    inside = ["/usr/sbin/chroot", str(rootfs), *confined, *words]
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", script, "sh",
            *env, *inside]  # fmt: skip


def main() -> int:
    """Prints what was found as JSON; returns 1 where the image does not do as it should."""
    target, rootfs = sys.argv[1], Path(sys.argv[2]).resolve()
    image = Recipe({"BASE": "scratch", "DEVICE": "cpu"}).image(target)
    with tempfile.TemporaryDirectory() as folder:
        mounts = {"/tmp": Path(folder, "tmp"), "/runs": Path(folder, "runs")}  # noqa: S108 - of the image
        if target in ROLES:
            mounts["/state"] = Path(folder, "state")
        for path in mounts.values():
            path.mkdir()
            subprocess.run(["chown", f"{UID}:{UID}", path], check=True)  # noqa: S607

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            line = command(rootfs, dict(image.env), mounts, list(words))
            return subprocess.run(line, capture_output=True, text=True, check=False)

        written = run("/bin/sh", "-c", "touch /opt/burnish/x /etc/x /x; id -u; grep CapBnd /proc/self/status")
        assert written.stdout.split() == [str(UID), "CapBnd:", "0" * 16], written
        assert written.stderr.count("Read-only file system") == 3, written
        if target not in ROLES:
            done = run(*image.entrypoint.words, "--version")
            assert done.returncode == 0, done.stderr
            doctor = run(*image.entrypoint.words, "doctor")
            print(
                json.dumps({"target": target, "version": done.stdout.strip(), "doctor": doctor.stdout.splitlines()[:1]})
            )
            return 0
        return _serve(target, rootfs, dict(image.env), mounts, list(image.entrypoint.words), run)


def _serve(target: str, rootfs: Path, env: dict[str, str], mounts: dict[str, Path], entry: list[str], run) -> int:  # type: ignore[no-untyped-def]
    model = fake_model(mounts["/state"])
    served = env | {"BURNISH_SERVER_HOST": "127.0.0.1", "BURNISH_SERVER_PORT": "50951"}
    words = [*entry, "--engine", "fake", "--model", f"/state/{model.name}"]
    began = time.monotonic()
    server = subprocess.Popen(command(rootfs, served, mounts, words), stderr=subprocess.PIPE, text=True)
    try:
        while (probe := run(entry[0], "-m", "burnish_services.probe", "127.0.0.1:50951")).returncode:
            assert server.poll() is None, server.stderr and server.stderr.read()
            assert time.monotonic() < began + _SECONDS, probe.stderr
        print(json.dumps({"target": target, "serving_s": round(time.monotonic() - began, 1)}))
        return 0
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
