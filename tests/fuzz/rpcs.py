"""The RPCs of our services, found from the descriptors: one that is new is fuzzed without anybody remembering."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from google.protobuf.descriptor import Descriptor, MethodDescriptor

from burnish_services.runtime.config import ALL_ROLES


@dataclass(frozen=True)
class Rpc:
    """One method of one service."""

    role: str
    method: MethodDescriptor

    @property
    def name(self) -> str:
        """`scoring.ScoreSamples`."""
        return f"{self.role}.{self.method.name}"

    @property
    def path(self) -> str:
        """What gRPC calls it."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def request(self) -> Descriptor:
        """What it takes."""
        return self.method.input_type

    @property
    def response(self) -> Descriptor:
        """What it answers with."""
        return self.method.output_type

    @property
    def field_names(self) -> frozenset[str]:
        """The words that a rejection may name: every field of the request, at any depth."""
        names: set[str] = set()
        seen: set[str] = set()
        left = [self.request]
        while left:
            message = left.pop()
            if message.full_name in seen:
                continue
            seen.add(message.full_name)
            names |= {field.name for field in message.fields}
            left += [field.message_type for field in message.fields if field.message_type is not None]
        return frozenset(names)


def all_rpcs() -> list[Rpc]:
    """Every method of the services of all roles, in the protos' order."""
    services = [
        (role, service)
        for role in ALL_ROLES
        for service in import_module(f"burnish.api.{role}.v1.{role}_pb2").DESCRIPTOR.services_by_name.values()
    ]
    return [Rpc(role, method) for role, service in services for method in service.methods]
