"""Steps `respond` and `probe`, taken at every pause of a self-refining training: the questions are chosen, the model as
it is answers them, what may be learnt from is told from what may not, and the training goes on with that.

The rewriting service gets the weights of the pause by name (`ModelRef`), so that the two services have nothing in
common but the folder that models are in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from burnish._response_types import Prompt, ResponseBatch
from burnish._training import AsyncRun
from burnish._types import Message, ModelRef, Pause, Role
from burnish.coordinator.atomic import write_lines
from burnish.coordinator.beliefs import ResponseKey
from burnish.coordinator.content import digest_of, message_list, sample_hash
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.refinement import (
    Answer,
    Vitals,
    choose_questions,
    collapse,
    divergence,
    question_seed,
    vitals,
)
from burnish.coordinator.refreshes import OnlineRecord, RefreshRecord, answer_of
from burnish.coordinator.steps.measure import prompts_of, score_missing
from burnish.coordinator.steps.runs import BmoRun
from burnish.coordinator.steps.stage import same_version, version_detail
from burnish.coordinator.steps.weigh import fetch_weights


@dataclass(frozen=True, slots=True)
class Refresher:
    """What is done at the pauses of a round's training on `rows`, which began with `base`."""

    run: BmoRun
    round: int
    base: ModelRef
    rows: Sequence[DataRow]

    async def at_pause(self, training: AsyncRun) -> None:
        """Has the training go on from the pause that it waits in; what was done of it before is not done again."""
        pause = training.snapshot.pause
        assert pause is not None
        known = self.run.book.refreshes.of_round(self.round)
        refresh = next((one for one in known if one.step == pause.step), None)
        if refresh is None:
            refresh = await self._refresh(training, pause, known)
        if refresh.stopped:
            await training.resume(pause.step, last=True)
            return
        path = self.run.paths.answers(pause.step)
        await training.resume(pause.step, str(path), self._write(refresh), upload=True)

    async def _refresh(self, training: AsyncRun, pause: Pause, known: Sequence[RefreshRecord]) -> RefreshRecord:
        run, settings = self.run, self.run.settings
        await fetch_weights(run, self.round, training)
        weights = run.book.weights(self.round)
        seed = question_seed(settings.seed, pause.step)
        asked = choose_questions(self.rows, weights, settings.online_share, settings.questions, seed)
        prompt_of = prompts_of(run, [row.sample_hash for row in asked])
        key = await self._respond(pause, prompt_of, known)
        answers, records, samples = self._answers(asked, prompt_of, key)
        with run.book.transaction():
            run.book.add_samples(samples)
        base_losses = await self._probe(records, known)
        own = run.book.samples(row.sample_hash for row in asked)
        texts = {row.row_id: own[row.sample_hash][-1].content for row in asked}
        now = vitals(answers, texts, {row.row_id: prompt_of[row.sample_hash] for row in asked})
        now = replace(now, divergence=divergence(answers, base_losses))
        first = known[0].vitals if known else now
        stopped = collapse(now, first, settings.limits())
        refresh = RefreshRecord(pause.step, pause.reason, pause.effective_share, key, now, stopped)
        with run.book.transaction():
            run.book.refreshes.add(self.round, refresh, records)
        run.observer.noted(_note(pause, now, stopped))
        return refresh

    async def _respond(self, pause: Pause, prompt_of: dict[str, str], known: Sequence[RefreshRecord]) -> ResponseKey:
        """Has the model of the pause answer questions; `prompt_of` names the prompt of each sample, by hash."""
        run, beliefs = self.run, self.run.book.beliefs
        sampling, count = run.settings.online_sampling(pause.step), run.settings.responses

        async def send(batch: Sequence[str]) -> ResponseBatch:
            found = run.book.samples(first[prompt] for prompt in batch)
            prompts = [Prompt(prompt, found[first[prompt]][:-1]) for prompt in batch]
            return await run.client.rewriting.respond(
                prompts, model=pause.model, num_responses=count, sampling=sampling, return_tokens=True, check=True
            )

        def store(batch: Sequence[str], reply: ResponseBatch) -> None:
            same_version(version, reply.model, "rewriting")
            beliefs.add_responses(key, reply.results)

        stage = run.stage(self.round, "respond")
        with stage.working():
            version = await run.client.rewriting.load_model(pause.model)
            self._check_template(version.chat_template_digest)
            params = {"sampling": asdict(sampling), "responses": count, "check": True}
            key = ResponseKey(version.digest, version.chat_template_digest, digest_of(params))
            first = {prompt: sample for sample, prompt in reversed(prompt_of.items())}  # a sample that begins so
            prompts = list(first)
            before = sum(one.vitals.num_questions for one in known)
            done = before + len(prompts) - len(beliefs.unanswered(prompts, key, count))
            stage.expect(before + len(prompts), known=done, detail={"model": version_detail(version), **params})
            await stage.in_batches(lambda: beliefs.unanswered(prompts, key, count), send, store)
        return key

    def _check_template(self, digest: str) -> None:
        """Raises StepFailed where the service renders prompts otherwise than they are trained on."""
        base = self.run.book.model(0, "base")
        assert base is not None
        expected = base.detail.get("chat_template_digest")
        if digest != expected:
            raise StepFailed(
                f"The rewriting service uses another chat template ({digest}) than the scoring service ({expected});"
                " what a model answers under the one cannot be weighed under the other. Start both with the same"
                " settings and run the same command again."
            )

    def _answers(
        self, asked: Sequence[DataRow], prompt_of: dict[str, str], key: ResponseKey
    ) -> tuple[list[Answer], list[OnlineRecord], dict[str, tuple[Message, ...]]]:
        """What was answered to each row's question: for deciding, for the ledger, and the conversations by hash."""
        said = self.run.book.beliefs.responses(list(dict.fromkeys(prompt_of.values())), key)
        own = self.run.book.samples(row.sample_hash for row in asked)
        answers, records, samples = [], [], {}
        for row in asked:
            prompt = prompt_of[row.sample_hash]
            for one in said.get(prompt, ()):
                answer, name = answer_of(row.row_id, one), None
                if answer.text:
                    conversation = (*own[row.sample_hash][:-1], Message(Role.ASSISTANT, answer.text))
                    name = sample_hash(conversation)
                    samples[name] = conversation
                answers.append(answer)
                records.append(OnlineRecord(row.row_id, one.number, prompt, name, answer.rejection))
        return answers, records, samples

    async def _probe(
        self, records: Sequence[OnlineRecord], known: Sequence[RefreshRecord]
    ) -> Mapping[tuple[str, int], float]:
        """The base model's mean loss of each accepted answer, by row and number; absent where it has none."""
        names = {(one.row_id, one.number): one.sample_hash for one in records if not one.rejection and one.sample_hash}
        hashes = list(dict.fromkeys(names.values()))
        stage = self.run.stage(self.round, "probe")
        with stage.working():
            before = sum(one.vitals.num_accepted for one in known)
            version = await score_missing(self.run, stage, self.base, hashes, before=before)
        losses = self.run.book.findings.losses(hashes, version)
        return {place: loss for place, name in names.items() if (loss := losses.get(name)) is not None}

    def _write(self, refresh: RefreshRecord) -> str:
        """The accepted answers as the training service reads them; returns the digest of the file's bytes."""
        accepted: dict[str, list[OnlineRecord]] = {}
        for one in self.run.book.refreshes.answers(self.round, refresh.step):
            if not one.rejection:
                accepted.setdefault(one.row_id, []).append(one)
        prompts = list(dict.fromkeys(one.prompt_hash for found in accepted.values() for one in found))
        tokens = self.run.book.beliefs.response_tokens(prompts, refresh.key)
        rows = {row.row_id: row for row in self.rows}
        own = self.run.book.samples(rows[row_id].sample_hash for row_id in accepted)
        records = (
            {
                "id": row_id,
                "messages": message_list(own[rows[row_id].sample_hash][:-1]),
                "responses": [
                    {"token_ids": ids, "logprobs": logprobs}
                    for ids, logprobs in (tokens[one.prompt_hash, one.number] for one in found)
                ],
            }
            for row_id, found in accepted.items()
        )
        return write_lines(self.run.paths.answers(refresh.step), records)


def _note(pause: Pause, now: Vitals, stopped: str) -> str:
    said = (
        f"After step {pause.step}: {now.num_accepted} of {now.num_answers} answers to {now.num_questions} questions may"
        " be learnt from"
    )
    if stopped:
        return f"{said}, but no more are: {stopped}. The training goes on with the data's own responses."
    numbers = (("entropy", now.entropy), ("distance from the base model", now.divergence))
    shown = [f"{name} {value:.3f} nats per token" for name, value in numbers if value is not None]
    return ", ".join([said, *shown]) + "."
