"""AsyncLLM, narrowed to what the engine needs. The only module that imports vllm.

Owns the arguments vLLM is started with, the requests made of it and what its errors mean. The computing is done in
child processes that vLLM spawns; here are only queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any

import numpy as np
import vllm
from numpy.typing import NDArray
from vllm import ModelRegistry, PoolingParams, SamplingParams
from vllm.config import PoolerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.platforms import current_platform
from vllm.plugins import load_general_plugins
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from burnish_services.engine.base import EngineDead, EngineSettings, GenerateRequest, ModelLoadError, Task
from burnish_services.engine.vllm_engine import environment
from burnish_services.engine.vllm_engine.worker import Worker
from burnish_services.engine.vllm_plugin import PREFIX, TASK
from burnish_services.engine.vllm_plugin.asked import MISSING, Asked

VERSION: str = vllm.__version__

# Sequences computed at a time. More do not pay on a CPU, and each may hold a context's worth of KV cache.
_MAX_SEQUENCES = 128
_LEAST_BATCH_TOKENS = 2048
_LEAST_BATCH_TOKENS_ON_GPU = 8192  # below that a step is the host's time, not the device's
# KV cache on a CPU where the operator names no size.
_LEAST_CACHE_BYTES = {Task.GENERATE: 256 << 20, Task.POOL: 128 << 20}
_BLOCK_TOKENS = 32
_CLOSE_SECONDS = 15.0


class RequestFailed(RuntimeError):
    """vLLM could not serve one request, for a reason of its own; others are not affected."""


class VllmClient:
    """A running vLLM engine and its processes."""

    def __init__(
        self, settings: EngineSettings, directory: str, architecture: str, context: int, cache_bytes_per_token: int
    ) -> None:
        """Starts the engine; blocks for its tens of seconds. Raises ModelLoadError."""
        load_general_plugins()
        # The plugin reads the output head, which tensor parallelism divides; scoring then goes by `prompt_logprobs`.
        whole = settings.tensor_parallel_size == 1
        scoring = PREFIX + architecture if settings.task is Task.POOL and whole else ""
        self.has_plugin = scoring in ModelRegistry.get_supported_archs()
        cores = environment.bound_cores(settings.cpu_cores) if current_platform.is_cpu() else None
        arguments = _arguments(
            settings, directory, context, cache_bytes_per_token, scoring if self.has_plugin else None
        )
        if cores is not None and whole:
            arguments.distributed_executor_backend = "uni"
        try:
            with environment.for_children(cores, settings.tensor_parallel_size):
                self._llm = AsyncLLM.from_engine_args(arguments)
        except Exception as error:  # configuration, weights or a child process: anything
            raise ModelLoadError(f"vLLM could not be started on {directory}: {error}") from error
        _log_as_everyone()
        config = self._llm.vllm_config
        self.dtype = str(config.model_config.dtype).removeprefix("torch.")
        self.vocab_size = int(config.model_config.get_vocab_size())
        self.hidden_size = int(config.model_config.get_hidden_size())
        # Only the newer runner scores given tokens without ranking the vocabulary at every position.
        self._scores_given_tokens = bool(config.use_v2_model_runner)
        self._numbers = itertools.count()
        self.neurons: tuple[int, int] | None = None  # known from `prepare` on
        self._num_recording = 0  # requests that want neurons recorded
        self._is_recording = False
        self._switching = asyncio.Lock()
        self._switches: list[asyncio.Future[None]] = []

    async def prepare(self) -> None:
        """Must be awaited once, before any request. Raises EngineDead."""
        with _errors():
            shape, *_ = await self._llm.collective_rpc("burnish_prepare")
        self.neurons = None if shape is None else (int(shape[0]), int(shape[1]))

    async def ask(self, ids: Sequence[int], asked: Asked) -> list[NDArray[np.float32]]:
        """With the plugin: the parts asked for, in the order of `Asked.sizes`. Raises RequestFailed and EngineDead."""
        # Scores rarely need a cached prefix computed anew, since what is scored stands at the end.
        if asked.activations:
            async with self._recording():
                values = await self._pool(ids, asked, read_cache=False)
        else:
            values = await self._pool(ids, asked, read_cache=not asked.whole)
            if asked.num_scored(len(ids)) and values[0] == MISSING:
                values = await self._pool(ids, asked, read_cache=False)
        sizes = asked.sizes(len(ids), self.hidden_size, math.prod(self.neurons or (0,)))
        return np.split(values, np.cumsum(sizes)[:-1])

    @contextlib.asynccontextmanager
    async def _recording(self) -> AsyncIterator[None]:
        """Neurons are recorded while any request wants it, and not otherwise: it takes memory."""
        self._num_recording += 1
        try:
            await self._switch_recording()
            yield
        finally:
            self._num_recording -= 1
            await self._switch_recording()

    async def _switch_recording(self) -> None:
        # Whoever gives up meanwhile, what the engine was told and what is known of it must not part.
        self._switches = [task for task in self._switches if not task.done()]
        self._switches.append(asyncio.ensure_future(self._record_as_wanted()))
        await asyncio.shield(self._switches[-1])

    async def _record_as_wanted(self) -> None:
        async with self._switching:
            wanted = self._num_recording > 0
            if wanted != self._is_recording:
                with _errors():
                    await self._llm.collective_rpc("burnish_record", args=(wanted,))
                self._is_recording = wanted

    async def _pool(self, ids: Sequence[int], asked: Asked, *, read_cache: bool) -> NDArray[np.float32]:
        parameters = PoolingParams(task=TASK, skip_reading_prefix_cache=not read_cache, extra_kwargs=asked.to_extra())
        return await self._encode(ids, parameters)

    async def score(self, ids: Sequence[int], first: int) -> NDArray[np.float32]:
        """Without the plugin: log p of ids[first:]. Raises RequestFailed and EngineDead."""
        if first >= len(ids):
            return np.empty(0, np.float32)
        parameters = self._one_token(**self._scoring_parameters(ids, first))
        (output,) = [output async for output in self._generate(ids, parameters)]
        if self._scores_given_tokens:
            return np.asarray(output.prompt_token_id_logprobs, np.float32)[:, 0]
        # Flat: one entry per position, the given token's; the first position has none.
        logprobs = output.prompt_logprobs
        starts = logprobs.start_indices[first:]
        return np.fromiter((logprobs.logprobs[at] for at in starts), np.float32, len(ids) - first)

    async def rank(self, ids: Sequence[int], candidates: Sequence[int]) -> NDArray[np.float32]:
        """Without the plugin: log p of the candidates as the next token. Raises RequestFailed and EngineDead."""
        parameters = self._one_token(logprob_token_ids=sorted(set(candidates)))
        (output,) = [output async for output in self._generate(ids, parameters)]
        (found,) = output.outputs[0].logprobs
        return np.array([found[candidate].logprob for candidate in candidates], np.float32)

    async def sample(
        self, request: GenerateRequest, max_tokens: int, stop_ids: frozenset[int]
    ) -> AsyncGenerator[tuple[tuple[int, ...], tuple[float, ...] | None, bool]]:
        """All tokens so far, their log-probabilities where asked for, and whether one of `stop_ids` ended them; once at
        the end, or as they come where there is a text to stop at."""
        sampling = request.sampling
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            seed=None if sampling.seed is None else sampling.seed % (1 << 63),
            max_tokens=max_tokens,
            stop_token_ids=sorted(stop_ids),
            logprobs=0 if request.logprobs else None,  # 0: of the chosen token alone
            flat_logprobs=request.logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE if sampling.stop else RequestOutputKind.FINAL_ONLY,
        )
        async for output in self._generate(request.token_ids, parameters):
            completion = output.outputs[0]
            flat = completion.logprobs
            chosen = tuple(flat.logprobs[at] for at in flat.start_indices) if request.logprobs else None
            yield tuple(completion.token_ids), chosen, completion.finish_reason == "stop"

    async def embed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Mean hidden state of all tokens. Raises RequestFailed and EngineDead."""
        if self.has_plugin:
            return (await self.ask(ids, Asked(mean_hidden=((0, len(ids)),))))[4]
        return await self._encode(ids, PoolingParams(task="embed", use_activation=False))

    async def reload(self, directory: str) -> None:
        """Loads other weights in place and forgets what was computed with the old ones. Raises ModelLoadError."""
        try:
            await self._llm.collective_rpc("burnish_reload", kwargs={"weights_path": directory})
            emptied = await self._llm.reset_prefix_cache()
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine process ended while it loaded weights") from error
        except Exception as error:
            raise ModelLoadError(f"vLLM could not load the weights in {directory}: {error}") from error
        if not emptied:
            raise ModelLoadError("vLLM kept cached keys and values of the old weights: requests were still running")

    def check_health(self) -> None:
        """Raises EngineDead where the engine's processes are gone."""
        if self._llm.errored:
            raise EngineDead("vLLM's engine process has ended; its last words are in this server's standard error")

    async def close(self) -> None:
        """Ends the engine's processes."""
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()  # or it would report the end as a death
        await asyncio.to_thread(self._llm.shutdown, _CLOSE_SECONDS)

    def _scoring_parameters(self, ids: Sequence[int], first: int) -> dict[str, Any]:
        if self._scores_given_tokens:
            return {"prompt_logprob_token_ids": np.asarray(ids[first:])[:, None], "prompt_logprob_start": first - 1}
        return {"prompt_logprobs": 0, "flat_logprobs": True}

    def _one_token(self, **wanted: Any) -> SamplingParams:
        return SamplingParams(
            temperature=0.0, max_tokens=1, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **wanted
        )

    async def _encode(self, ids: Sequence[int], parameters: PoolingParams) -> NDArray[np.float32]:
        result: NDArray[np.float32] | None = None
        with _errors():
            async for output in self._llm.encode(tokens_input(list(ids)), parameters, self._next_id()):
                result = output.outputs.data.float().cpu().numpy()
        assert result is not None
        return result

    async def _generate(self, ids: Sequence[int], parameters: SamplingParams) -> AsyncIterator[Any]:
        with _errors():
            async for output in self._llm.generate(tokens_input(list(ids)), parameters, self._next_id()):
                yield output

    def _next_id(self) -> str:
        return f"burnish-{next(self._numbers)}"


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """vLLM's exceptions as ours."""
    try:
        yield
    except EngineDeadError as error:
        raise EngineDead("vLLM's engine process has ended") from error
    except (EngineGenerateError, ValueError) as error:
        raise RequestFailed(f"vLLM failed the request: {error.__cause__ or error}") from error


def _log_as_everyone() -> None:
    """From now on vLLM's records in this process go to the server's log."""
    logger = logging.getLogger("vllm")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(os.environ["VLLM_LOGGING_LEVEL"])


def _arguments(
    settings: EngineSettings, directory: str, context: int, cache_bytes_per_token: int, scoring: str | None
) -> AsyncEngineArgs:
    """`scoring`: the plugin's name for the model's architecture, where it is to be used."""
    length = context
    on_cpu = current_platform.is_cpu()
    # A mean over a prompt wants it whole, and seeded sampling crashes the CPU engine where it is read in chunks.
    chunked, contexts_cached = False, 4
    if settings.task is Task.GENERATE:
        chunked = not on_cpu
        # vLLM "continues" what it scores, so that a sequence of full length needs one position more.
        length = context + 1
        task: dict[str, Any] = {"runner": "generate", "enable_prefix_caching": True}
    elif scoring is not None:
        chunked, contexts_cached = True, 2
        task = {"runner": "pooling", "enable_prefix_caching": True, "hf_overrides": {"architectures": [scoring]}}
        if on_cpu:
            # vLLM would copy the whole head to float32 at every use; on a GPU it has a kernel for that.
            task["hf_overrides"]["head_dtype"] = "model"
    else:
        contexts_cached = 1  # nothing is kept from one text to the next
        pooler = PoolerConfig(task="embed", seq_pooling_type="MEAN", use_activation=False)
        task = {"runner": "pooling", "convert": "embed", "pooler_config": pooler, "enable_prefix_caching": False}
    least = _LEAST_BATCH_TOKENS if on_cpu else _LEAST_BATCH_TOKENS_ON_GPU
    batch_tokens = least if chunked else max(length, least)
    memory = settings.memory_bytes
    if memory is None and on_cpu:
        # vLLM's own rule would take most of the machine.
        wanted = contexts_cached * max(length, batch_tokens) * cache_bytes_per_token
        memory = max(_LEAST_CACHE_BYTES[settings.task], wanted)
    return AsyncEngineArgs(
        model=directory,
        dtype=settings.dtype,
        max_model_len=length,
        enable_chunked_prefill=chunked,
        max_num_batched_tokens=batch_tokens,
        max_num_seqs=_MAX_SEQUENCES,
        kv_cache_memory_bytes=memory,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        tensor_parallel_size=settings.tensor_parallel_size,
        # A cached prefix is shared in whole blocks. On a CPU vLLM would take 128, and most questions about a sample
        # share less than that.
        block_size=_BLOCK_TOKENS if on_cpu else None,
        enforce_eager=not settings.compile,
        load_format="safetensors",  # never a pickle, whatever else is in the directory
        trust_remote_code=False,
        skip_tokenizer_init=True,  # ours may change with the weights
        generation_config="vllm",  # no sampling defaults but ours
        worker_extension_cls=f"{Worker.__module__}.{Worker.__qualname__}",
        seed=0,
        use_tqdm_on_load=False,
        disable_log_stats=True,
        enable_log_requests=False,
        **task,
    )
