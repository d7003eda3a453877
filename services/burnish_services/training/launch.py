"""torchrun as the services start it: `python -m burnish_services.training.launch PARENT_PID [torchrun's arguments]`.

Adds two things to torch's own: it ends when whoever started it does, and the store by which processes find each other
listens on the address that it was given, where torch's would listen on all that the machine has.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence

from torch.distributed import PrefixStore, TCPStore, run
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from burnish_services.training.parents import die_with

BACKEND = "burnish"


class BoundRendezvous(StaticTCPRendezvous):
    """torchrun's static rendezvous, in which each machine knows its rank, with a store that is bound to its address.
    Port 0 takes a free one, for a machine alone."""

    master_port: int

    def get_backend(self) -> str:
        """See RendezvousHandler."""
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """See RendezvousHandler. Raises OSError where the address is not this machine's or the port is taken."""
        listening = None
        if self.rank == 0:
            server = socket.create_server((self.master_addr, self.master_port), family=self._family())
            self.master_port = server.getsockname()[1]
            listening = server.detach()  # the store's from here on
        self._store = TCPStore(
            self.master_addr,
            self.master_port,
            self.world_size,
            is_master=self.rank == 0,
            timeout=self.timeout,
            multi_tenant=True,
            master_listen_fd=listening,
        )
        # What two attempts say never mixes, even if they should meet in one store.
        store = PrefixStore(self.run_id, self._store)
        return RendezvousInfo(
            store, self.rank, self.world_size, RendezvousStoreInfo(self.master_addr, self.master_port)
        )

    def _family(self) -> int:
        """Of this machine's own address. Its name may be new to the name service: a cluster needs a while."""
        give_up = time.monotonic() + self.timeout.total_seconds()
        while True:
            try:
                return socket.getaddrinfo(self.master_addr, self.master_port, type=socket.SOCK_STREAM)[0][0]
            except socket.gaierror:
                if time.monotonic() > give_up:
                    raise
                time.sleep(1)


def create_handler(parameters: RendezvousParameters) -> RendezvousHandler:
    """The rendezvous that torchrun's options ask for: `--rdzv-endpoint`, `--rdzv-id`, and `rank` and `timeout` (s) in
    `--rdzv-conf`."""
    host, port = parse_rendezvous_endpoint(parameters.endpoint, 0)
    rank, timeout = parameters.get_as_int("rank", 0), parameters.get_as_int("timeout", 300)
    assert rank is not None
    assert timeout is not None
    return BoundRendezvous(host, port, rank, parameters.max_nodes, parameters.run_id, timeout)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs torchrun until all processes of this machine have ended. Raises what it raises."""
    parent, *rest = sys.argv[1:] if arguments is None else arguments
    die_with(int(parent))
    rendezvous_handler_registry.register(BACKEND, create_handler)
    run.main(rest)


if __name__ == "__main__":
    main()
