"""The floor: a bare grpc.aio server that answers every method with so many bytes and does nothing else.

python -m bench.load.floor SIZES --ready-file FILE, where SIZES is JSON: {"/package.Service/Method": bytes}
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, sizes: dict[str, int]) -> None:
        self._handlers = {method: _handler(bytes(size)) for method, size in sizes.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(handler_call_details.method)


def _handler(reply: bytes) -> Any:
    async def call(request: bytes, context: Any) -> bytes:
        return reply

    return grpc.unary_unary_rpc_method_handler(call)


async def main() -> None:
    """See the module."""
    sizes, ready_file = json.loads(sys.argv[1]), Path(sys.argv[3])
    limit = 64 * 2**20
    options = [("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((_Handlers(sizes),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(ready_file.write_text, json.dumps({"address": f"127.0.0.1:{port}"}))
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
