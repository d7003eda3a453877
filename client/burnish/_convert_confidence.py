"""Between the wire and `_confidence_types`."""

from __future__ import annotations

from burnish import _confidence_types as t
from burnish._convert import message_to_proto, optional_float, refused_as_usage, status_from_proto
from burnish._convert_replies import choice_from_proto
from burnish._words import Words
from burnish.api.scoring.v1 import scoring_pb2 as pb

TIERS = Words(pb.ConfidenceTier.DESCRIPTOR, t.ConfidenceTier)
WINNERS = Words(pb.Winner.DESCRIPTOR, t.Winner)


def pair_to_proto(pair: t.ResponsePair) -> pb.ResponsePair:
    """A pair on the wire."""
    with refused_as_usage(f"pair {pair.id!r}"):
        prompt = [message_to_proto(message) for message in pair.prompt]
        return pb.ResponsePair(id=pair.id, prompt=prompt, first=pair.first, second=pair.second)


def estimate_from_proto(estimate: pb.ConfidenceEstimate) -> t.ConfidenceEstimate:
    """One sample's confidence; a failed sample has no numbers."""
    status = status_from_proto(estimate.status)
    if not status.ok:
        return t.ConfidenceEstimate(estimate.sample_id, status)
    return t.ConfidenceEstimate(
        sample_id=estimate.sample_id,
        status=status,
        confidence=estimate.confidence,
        consistency=optional_float(estimate, "consistency"),
        reflection=optional_float(estimate, "reflection"),
        covered_mass=estimate.covered_mass,
        reflections=tuple(choice_from_proto(choice) for choice in estimate.reflections),
        answers=tuple(_answer(answer) for answer in estimate.answers),
        mean_nll=estimate.mean_nll,
        mean_probability=estimate.mean_probability,
        min_probability=estimate.min_probability,
    )


def _answer(answer: pb.SampledAnswer) -> t.SampledAnswer:
    status = status_from_proto(answer.status)
    if not status.ok:
        return t.SampledAnswer(answer.text, answer.reply, status, None, None, None)
    return t.SampledAnswer(answer.text, answer.reply, status, answer.exact_match, answer.similarity, answer.agreement)


def preference_from_proto(preference: pb.Preference) -> t.Preference:
    """One pair's verdict; a failed pair has none."""
    status = status_from_proto(preference.status)
    if not status.ok:
        return t.Preference(preference.pair_id, status)
    return t.Preference(
        pair_id=preference.pair_id,
        status=status,
        p_second=preference.p_second,
        winner=WINNERS.word(preference.winner),
        orders=tuple(choice_from_proto(order) for order in preference.orders),
        flipped=preference.flipped,
        log_length_ratio=preference.log_length_ratio,
        length_guarded=preference.length_guarded,
    )
