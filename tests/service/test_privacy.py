"""Texts of samples stay out of what is written down about calls: logs above DEBUG, metrics, spans, errors of calls.

Real services in a process of their own, every RPC of them, good calls and bad ones; then a text that was in all of
these is looked for in everything that the process wrote. Names (ids of samples, collections, files) may stand in
errors: that is what they are for.
"""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.message_factory import GetMessageClass

from burnish import Client, ClientOptions, Message, ModelRef, Prompt, Role, RunSpec, Sample
from burnish._confidence_types import ResponsePair
from burnish._errors import ServiceError
from burnish._types import RewriteItem, Strategy
from burnish.api.embedding.v1 import embedding_pb2
from burnish.api.rewriting.v1 import rewriting_pb2
from burnish.api.scoring.v1 import scoring_pb2
from burnish.api.training.v1 import training_pb2
from burnish.local import LocalServices
from burnish_services.engine.fake import write_fake_model
from burnish_services.runtime.logs import JsonFormatter, TextFormatter
from tests.collector import Collector, collecting

CANARY = "marmalade-xylophone-4711"
NAME = "quince-bassoon-0815"
SERVICES = [
    *(scoring_pb2.DESCRIPTOR.services_by_name.values()),
    *(embedding_pb2.DESCRIPTOR.services_by_name.values()),
    *(rewriting_pb2.DESCRIPTOR.services_by_name.values()),
    *(training_pb2.DESCRIPTOR.services_by_name.values()),
]
# Of the API's string fields, those that hold text of samples or of models.
TEXTS = {"content", "text", "reply", "first", "second", "reference"}
# Refuses a conversation in the conversation's own words, as the templates of some models do.
TEMPLATE = (
    "{% for m in messages %}{% if 'refuse' in m.content %}{{ raise_exception('not this: ' + m.content) }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Place:
    """Where the services are, and all that they wrote."""

    def __init__(self, folder: Path, local: LocalServices, collector: Collector) -> None:
        self.folder = folder
        self.address = local.endpoints.scoring
        self.collector = collector

    def written(self) -> dict[str, str]:
        """Logs of the server and of its workers, and the spans; the files of runs are the caller's own."""
        found = {str(path): path.read_text(errors="replace") for path in self.folder.rglob("*.log")}
        assert len(found) >= 2, f"a server's log and a worker's: {list(found)}"
        found["spans"] = "".join(raw.decode(errors="replace") for raw in self.collector.raw)
        return found

    def metrics(self) -> str:
        log = (self.folder / "state" / "services.log").read_text()
        (address,) = {line.rpartition("address=")[2] for line in log.splitlines() if " metrics address=" in line}
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as reply:
            return reply.read().decode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("privacy")
    (folder / "template.jinja").write_text(TEMPLATE)
    model = write_fake_model(folder / "model", name="base", seed=1)
    with pytest.MonkeyPatch.context() as patch, collecting() as collector:
        patch.setenv("BURNISH_SERVER_METRICS_PORT", "0")
        patch.setenv("BURNISH_SERVER_CHAT_TEMPLATE", str(folder / "template.jinja"))
        for name, value in collector.environment().items():
            patch.setenv(name, value)
        local = LocalServices(engine="fake", model=model, state_dir=folder / "state")
        with local:
            yield Place(folder, local, collector)


def filled(kind: descriptor.Descriptor, name: str, depth: int = 0) -> ProtoMessage:
    """A message with something in every field: CANARY where text belongs, `name` in all other strings."""
    message = GetMessageClass(kind)()
    chosen: set[str] = set()
    for field in kind.fields:
        group = field.containing_oneof
        if group is not None and group.name in chosen:
            continue
        chosen |= {group.name} if group is not None else set()
        if field.message_type is not None and (depth > 6 or field.message_type.GetOptions().map_entry):
            continue
        value: Any = _value(field, name, depth)
        if field.message_type is not None and not field.is_repeated:
            getattr(message, field.name).CopyFrom(value)
        elif field.is_repeated:
            getattr(message, field.name).extend([value])
        else:
            setattr(message, field.name, value)
    return message


def _value(field: descriptor.FieldDescriptor, name: str, depth: int) -> Any:
    if field.message_type is not None:
        return filled(field.message_type, name, depth + 1)
    if field.type == field.TYPE_STRING:
        return CANARY if field.name in TEXTS else name
    if field.type == field.TYPE_BYTES:
        return CANARY.encode()
    return True if field.type == field.TYPE_BOOL else 1


def call_everything(channel: grpc.Channel, name: str) -> list[str]:
    """Every RPC with every field filled; what the errors say."""
    said = []
    for service in SERVICES:
        for method in service.methods:
            request = filled(method.input_type, name)
            path = f"/{service.full_name}/{method.name}"
            read = GetMessageClass(method.output_type).FromString
            try:
                if method.client_streaming:
                    channel.stream_unary(path, _bytes, read)(iter([request]), timeout=60)
                elif method.server_streaming:
                    list(channel.unary_stream(path, _bytes, read)(request, timeout=60))
                else:
                    channel.unary_unary(path, _bytes, read)(request, timeout=60)
            except grpc.RpcError as error:
                said.append(f"{path}: {error.code().name}: {error.details()}")
    return said


def _bytes(message: ProtoMessage) -> bytes:
    return message.SerializeToString()


def conversations(text: str) -> list[Sample]:
    """Good ones and such as fail, each in another way."""
    user, assistant = (lambda content: Message(Role.USER, content)), (lambda content: Message(Role.ASSISTANT, content))
    return [
        Sample("good", (user(f"Say {text}"), assistant(text))),
        Sample("empty", (user(text), assistant(""))),
        Sample("roles", (assistant(text), assistant(text))),
        Sample("long", (user(f"{text} " * 2000), assistant(text))),
        Sample("template", (user(f"refuse {text}"), assistant(text))),
    ]


def work(client: Client, folder: Path) -> None:
    """What a pipeline does, with the canary in all of it."""
    samples = conversations(CANARY)
    prompts = [Prompt(one.id, one.messages[:1]) for one in samples]
    assert {one.status.reason for one in client.scoring.score(samples, return_tokens=True).scores} > {"TEMPLATE_FAILED"}
    client.scoring.judge(samples)
    client.scoring.confidence(samples)
    client.scoring.compare([ResponsePair("pair", samples[0].messages[:1], CANARY, f"{CANARY} {CANARY}")])
    client.embedding.create_collection("kept")
    client.embedding.embed(samples, collection="kept")
    client.rewriting.rewrite([RewriteItem(one) for one in samples[:1]], Strategy.SIMPLIFY)
    client.rewriting.respond(prompts, check=True)
    rows = [
        {"id": one.id, "messages": [{"role": str(m.role), "content": m.content} for m in one.messages]}
        for one in samples
    ]
    data = folder / "rows.jsonl"
    lines = [*map(json.dumps, rows), f'{{"messages": [{{"role": "{CANARY}", "content": "{CANARY}"}}]}}', CANARY]
    data.write_text("\n".join(lines))
    spec = RunSpec(base_model=ModelRef(str(folder / "model")), data_uri=client.training.upload(data).uri)
    result = client.training.create(spec, request_id="privacy").result()
    assert result.num_samples == 1
    with pytest.raises(ServiceError):
        client.scoring.score([Sample("s", samples[0].messages)], mean_hidden_state=None, model=ModelRef("nothing://x"))


def test_no_text_of_a_sample_is_written_down(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Client(place.address, options=ClientOptions()) as client:
        work(client, place.folder)
    with grpc.insecure_channel(place.address) as channel:
        said = call_everything(channel, NAME) + call_everything(channel, "")
    assert len(said) > 20, "most requests with something in every field make no sense"
    assert not [one for one in said if CANARY in one or " INTERNAL:" in one]
    assert any(NAME in one for one in said), "errors do say which name they are about"

    written = place.written()
    assert "TEMPLATE_FAILED" in "".join(written.values()), "what failed was logged, by its reason"
    assert written["spans"].count("ScoringService") > 5
    for where, text in {**written, "metrics": place.metrics(), "client": caplog.text}.items():
        assert CANARY not in text, f"{where}: {[line for line in text.splitlines() if CANARY in line][:3]}"
    assert NAME not in place.metrics()


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_tracebacks_are_told_without_what_exceptions_say(formatter: logging.Formatter) -> None:
    def fail() -> None:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise ExceptionGroup(CANARY, [RuntimeError(CANARY), OSError(CANARY)]) from error

    with pytest.raises(ExceptionGroup) as caught:
        fail()
    error = caught.value
    record = logging.makeLogRecord({"msg": "unexpected", "exc_info": (type(error), error, error.__traceback__)})
    told = formatter.format(record)
    assert CANARY not in told
    for kind in ("KeyError", "ExceptionGroup", "RuntimeError", "OSError"):
        assert kind in told
    assert "in fail" in told, "and where it happened"
    whole = type(formatter)(True).format(record)
    assert CANARY in whole, "at DEBUG all of it"
