"""What learnt weights mean for every row: kept, or left out; and which rows a validation set is made of. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burnish.coordinator.content import derive_seed
from burnish.coordinator.policy.amount import PART
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.verdict import Action, Verdict


@dataclass(frozen=True, slots=True)
class Weight:
    """What was learnt about a row: what its loss counts, 1 before anything was learnt, and the logit behind it."""

    weight: float
    logit: float


@dataclass(frozen=True, slots=True)
class Split:
    """The rows that are trained on, and those that are not because the validation set has them. Every row is in one of
    the two; no prompt is in both."""

    training: Sequence[DataRow]
    validation: Sequence[DataRow]


def split_size(asked: float, num_rows: int) -> int:
    """Rows of a validation set that is a share (below 1) or a number of `num_rows`; at least 1."""
    return PART.of(asked, num_rows)


def split_off(rows: Sequence[DataRow], prompts: Mapping[str, str], barred: set[str], size: int, seed: int) -> Split:
    """At least `size` rows drawn at random for validation, all rows with the same prompt together, so that nothing that
    is validated by is trained on in another wording; a prompt of so many rows that they would be more is drawn only
    where the others are too few, the smallest first, and alone where it is enough. `prompts`: a name for the prompt of
    each sample, by its hash. Samples in `barred` are not drawn."""
    groups: dict[str, int] = {}
    refused: set[str] = set()
    for row in rows:
        prompt = prompts[row.sample_hash]
        groups[prompt] = groups.get(prompt, 0) + 1
        if row.sample_hash in barred:
            refused.add(prompt)
    drawn: set[str] = set()
    count = 0
    order = sorted(groups.keys() - refused)
    random.Random(derive_seed(seed, "validation split")).shuffle(order)
    too_large = []
    for prompt in order:
        if count + groups[prompt] > size:
            too_large.append(prompt)
        else:
            drawn.add(prompt)
            count += groups[prompt]
    for prompt in sorted(too_large, key=lambda one: groups[one]):
        if count >= size:
            break
        drawn = {prompt} if groups[prompt] >= size else drawn | {prompt}
        count = sum(groups[one] for one in drawn)
    return split_by(rows, prompts, drawn)


def split_by(rows: Sequence[DataRow], prompts: Mapping[str, str], taken: set[str]) -> Split:
    """The rows whose prompt is not `taken`, and the others."""
    return Split(
        [row for row in rows if prompts[row.sample_hash] not in taken],
        [row for row in rows if prompts[row.sample_hash] in taken],
    )


def weigh_rows(rows: Sequence[DataRow], split: Split, weights: Mapping[str, Weight], keep: float) -> list[Verdict]:
    """One for each row, in order: of the rows that have a weight the int(`keep` · number) with the largest logits are
    kept, and at least one; among equals those that come first. `weights` are by row id."""
    place = {row.row_id: index for index, row in enumerate(rows)}
    ranked = sorted(weights, key=lambda row_id: (-weights[row_id].logit, place[row_id]))
    num_kept = max(1, int(keep * len(ranked) + 1e-9))  # 0.29 of 100 is 29, whatever a double says
    rank = {row_id: number for number, row_id in enumerate(ranked, start=1)}
    validated = {row.row_id for row in split.validation}
    found = []
    for row in rows:
        if row.row_id in validated:
            found.append(
                Verdict(row.row_id, (Action.VALIDATE,), {}, ("Weights are learnt from it, or from its prompt.",))
            )
        elif row.row_id not in rank:
            found.append(Verdict(row.row_id, (Action.UNREAD,), {}, ("It was left out of training and has no weight.",)))
        else:
            number, learnt = rank[row.row_id], weights[row.row_id]
            action = Action.KEEP if number <= num_kept else Action.DROP
            reason = f"Number {number} of {len(ranked)} by what the validation set asks for; {num_kept} are kept."
            signals = {"rank": float(number), "weight": learnt.weight, "logit": learnt.logit}
            found.append(Verdict(row.row_id, (action,), signals, (reason,)))
    return found
