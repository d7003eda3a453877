"""Between the wire and `_response_types`."""

from __future__ import annotations

from burnish import _response_types as t
from burnish._convert import floats, ints, message_to_proto, refused_as_usage, status_from_proto
from burnish._convert_replies import rejection_word
from burnish._words import Words
from burnish.api.rewriting.v1 import rewriting_pb2 as pb

FINISH_REASONS = Words(pb.FinishReason.DESCRIPTOR, t.FinishReason)


def prompt_to_proto(prompt: t.Prompt) -> pb.Prompt:
    """A prompt on the wire."""
    with refused_as_usage(f"prompt {prompt.id!r}"):
        return pb.Prompt(id=prompt.id, messages=[message_to_proto(message) for message in prompt.messages])


def responses_from_proto(result: pb.PromptResponses) -> t.PromptResponses:
    """What was said to one prompt; a failed one has no responses."""
    status = status_from_proto(result.status)
    responses = tuple(_response(response) for response in result.responses) if status.ok else ()
    return t.PromptResponses(result.prompt_id, status, responses)


def _response(response: pb.GeneratedResponse) -> t.GeneratedResponse:
    token_ids, logprobs = ints(response.token_ids), floats(response.logprobs)
    for name, array in (("token ids", token_ids), ("log-probabilities", logprobs)):
        if array is not None and len(array) != response.num_tokens:
            raise ValueError(f"a response of {response.num_tokens} tokens came with {len(array)} {name}")
    return t.GeneratedResponse(
        text=response.text,
        finish_reason=FINISH_REASONS.word(response.finish_reason),
        num_tokens=response.num_tokens,
        mean_logprob=response.mean_logprob,
        token_ids=token_ids,
        logprobs=logprobs,
        rejection=rejection_word(response.rejection),
        rejection_detail=response.rejection_detail,
    )
