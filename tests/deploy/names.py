"""The cluster's name server: answers for the host names of Services with the addresses of pods, on this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset


@contextmanager
def name_server(addresses: Mapping[str, str]) -> Iterator[int]:
    """Its port, for the length of a block. What it does not know has no address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=_answer, args=(listening, addresses), daemon=True)
        thread.start()
        port = int(listening.getsockname()[1])
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"", ("127.0.0.1", port))
            thread.join(5)


def _answer(listening: socket.socket, addresses: Mapping[str, str]) -> None:
    while True:
        data, sender = listening.recvfrom(4096)
        if not data:
            return
        asked = dns.message.from_wire(data)
        reply = dns.message.make_response(asked)
        reply.flags |= dns.flags.AA
        question = asked.question[0]
        found = addresses.get(str(question.name).rstrip("."))
        if found and dns.rdatatype.to_text(question.rdtype) == "A":
            reply.answer.append(dns.rrset.from_text(question.name, 1, "IN", "A", found))
        listening.sendto(reply.to_wire(), sender)
