"""The name server of a network of hosts: `python -m tests.scale.names ADDRESS FILE`.

The file, JSON, holds the addresses of each name, and is read anew for every question, as a headless Service's name
follows the pods that are ready.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

_SECONDS = 1  # that an answer may be kept


def serve(address: str, names: Path) -> None:
    """Answers until the process ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((address, 53))
        while True:
            raw, who = listening.recvfrom(4096)
            listening.sendto(_answer(raw, json.loads(names.read_text())), who)


def _answer(raw: bytes, names: dict[str, list[str]]) -> bytes:
    question = dns.message.from_wire(raw)
    answer = dns.message.make_response(question)
    answer.flags |= dns.flags.AA
    asked = question.question[0]
    name = asked.name.to_text(omit_final_dot=True)
    if name not in names:
        answer.set_rcode(dns.rcode.NXDOMAIN)
    elif dns.rdatatype.to_text(asked.rdtype) == "A" and names[name]:
        answer.answer.append(dns.rrset.from_text(asked.name, _SECONDS, "IN", "A", *names[name]))
    return answer.to_wire()


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
