"""vLLM's asynchronous engine: it samples in a process of its own, whatever this one does meanwhile.

Consumes prompts and weights, produces completions. A thread of this process speaks with the engine; whoever calls waits
for it, each time with a deadline, and hears at once where the engine's process has died.
"""

import asyncio
import atexit
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from tpo_dist.records import Array
from tpo_dist.rollout.generation import Completion, Generation
from tpo_dist.rollout.vllm import requests, weights
from tpo_dist.rollout.vllm.contract import EngineDied
from tpo_dist.rollout.vllm.library import AsyncEngineArgs, AsyncLLM, EngineDeadError
from tpo_dist.rollout.vllm.owner import OWNER

_START_SECONDS = 1800.0  # a large model from a slow disk; a run has a deadline of its own for it
_ANSWER_SECONDS = 300.0  # weights of the largest models take less, and so does a step before a question's turn
_END_SECONDS = 10.0
_GRACE_SECONDS = 1.0  # for its process to end by itself: nothing in it is worth more
_STEP_SECONDS = 0.02  # for completions that end, before the caller looks at other things

T = TypeVar("T")


class AsyncEngine:
    """A step waits a moment for completions that end. New weights come while the engine pauses between two tokens."""

    queues = True

    def __init__(self, about: Generation, arguments: Mapping[str, Any]) -> None:
        """`arguments`: of `vllm.EngineArgs`, beside those that follow from the run. Raises what vLLM raises."""
        self._about = about
        self._adapters: Any = None
        self._version = -1
        self._ended: queue.SimpleQueue[tuple[str, Completion | Exception]] = queue.SimpleQueue()
        self._under_way = 0
        self._loop = asyncio.new_event_loop()
        self._turn = asyncio.Lock()  # requests and weights reach the engine in the order in which they were given
        self._places = asyncio.Semaphore(arguments["max_num_seqs"] - 1)  # one is left for a probe
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        others = set(multiprocessing.active_children())
        os.environ[OWNER] = str(os.getpid())
        try:
            start = self._start(requests.arguments(about, arguments))
            asyncio.run_coroutine_threadsafe(start, self._loop).result(_START_SECONDS)
        except BaseException:
            self._end_thread()
            raise
        finally:
            del os.environ[OWNER]
        [self._process] = set(multiprocessing.active_children()) - others
        atexit.register(self.close)  # Python would wait for the process, which waits for work
        if about.adapters is None:
            init = self._llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
            self._ask(init, "word that it takes weights")

    async def _start(self, arguments: dict[str, Any]) -> None:
        self._llm: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    @property
    def pid(self) -> int:
        """Of the engine's process."""
        return int(self._process.pid or 0)

    def add(self, name: str, prompt: list[int], temperature: float, seed: int) -> None:
        """Begin a completion, once there is room. What prompts have in common is computed once for each version of the
        weights."""
        parameters = requests.sampling(self._about, temperature, seed)
        self._under_way += 1
        asyncio.run_coroutine_threadsafe(self._complete(name, prompt, parameters), self._loop)

    async def _complete(self, name: str, prompt: list[int], parameters: Any) -> None:
        try:
            async with self._places:
                output = await self._answer(name, prompt, parameters)
            self._ended.put((name, requests.completion(output.outputs[0])))
        except Exception as error:  # noqa: BLE001  # of whatever kind, it is raised where the completion is waited for
            self._ended.put((name, error))

    async def _answer(self, name: str, tokens: list[int], parameters: Any, salt: str = "") -> Any:
        """What a request comes to."""
        async with self._turn:
            prompt = requests.prompt(tokens, f"{salt}{self._version}")
            answer = await self._llm.add_request(name, prompt, parameters, lora_request=self._adapters)
        return await answer.get()

    def step(self) -> list[tuple[str, Completion]]:
        """The completions that ended since the last call, by name; a moment's wait where there are none.

        Raises EngineDied where the engine's process has died.
        """
        done: list[tuple[str, Completion]] = []
        while self._under_way:
            try:
                name, found = self._ended.get(timeout=0 if done else _STEP_SECONDS)
            except queue.Empty:
                break
            if isinstance(found, Exception):
                raise self._died(found)
            self._under_way -= 1
            done.append((name, found))
        return done

    def logps(self, tokens: list[int]) -> list[float]:
        """Log-probs (nats, logits undivided) of each of these tokens but the first, under the weights of now.

        Completions that are under way go on meanwhile. Raises EngineDied, and TimeoutError where no answer comes.
        """
        answer = self._answer("logps", tokens, requests.reading(), "probe ")
        return list(self._ask(answer, "log-probs").prompt_logprobs.logprobs)

    def load(self, arrays: Mapping[str, Array], version: int, *, keep_cache: bool) -> None:
        """Take over these weights, or adapters, while the engine pauses; completions under way go on with them.

        `keep_cache`: theirs goes on as well, else what came before is computed anew, under the new weights. Raises as
        `logps` does.
        """
        what = f"word that it has snapshot {version}"
        if self._about.adapters is not None:
            with weights.adapter_folder(self._about.adapters, arrays) as request:
                self._ask(self._swap(lambda: self._adapt(request), version, keep_cache), what)
        else:
            with weights.in_memory(arrays) as info:
                self._ask(self._swap(lambda: self._update(info), version, keep_cache), what)

    async def _swap(self, change: Callable[[], Awaitable[Any]], version: int, keep_cache: bool) -> None:
        async with self._turn:
            await self._llm.pause_generation(mode="keep", clear_cache=not keep_cache)
            await change()
            await self._llm.update_weight_version(str(version))
            self._version = version
            await self._llm.resume_generation()

    async def _adapt(self, request: Any) -> None:
        await self._llm.add_lora(request)
        self._adapters = weights.adapted(request)

    async def _update(self, info: dict[str, Any]) -> None:
        await self._llm.collective_rpc("start_weight_update")
        await self._llm.collective_rpc("update_weights", kwargs={"update_info": info})
        await self._llm.collective_rpc("finish_weight_update")

    def _ask(self, work: Coroutine[Any, Any, T], what: str) -> T:
        """What the work in the loop comes to, unless the engine dies first, or does not answer in time."""
        future = asyncio.run_coroutine_threadsafe(self._or_death(work), self._loop)
        try:
            return future.result(_ANSWER_SECONDS)
        except EngineDeadError as error:
            raise self._died(error) from None
        except TimeoutError:
            future.cancel()
            waited = f"waited {_ANSWER_SECONDS:g} s for {what}, which vLLM's process {self.pid} owes"
            raise TimeoutError(waited) from None

    async def _or_death(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; vLLM itself would wait for the answer of a dead process."""
        task, outputs = asyncio.ensure_future(work), self._llm.output_handler
        try:
            await asyncio.wait({task, outputs}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise EngineDeadError
        finally:
            task.cancel()

    def _died(self, error: Exception) -> Exception:
        """What to raise for an error of vLLM's: where its process has died, that one, named."""
        if not isinstance(error, EngineDeadError):
            return error
        self._process.join(_END_SECONDS)
        code = self._process.exitcode
        ending = f"exit code {code}" if code is None or code >= 0 else f"killed by {signal.Signals(-code).name}"
        return EngineDied(f"vLLM's process {self.pid} died ({ending}), and what it had under way is lost")

    def close(self) -> None:
        """End vLLM and its processes; what is under way is lost."""
        if self._loop.is_closed():
            return
        atexit.unregister(self.close)
        self._end_thread(lambda: self._llm.shutdown(timeout=_GRACE_SECONDS))
        self._llm = None  # it would shut itself down again while Python ends
        self._process.join(_END_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(_END_SECONDS)

    def _end_thread(self, end: Callable[[], None] = lambda: None) -> None:
        """End what goes on in the loop, then vLLM, and the loop itself."""
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(_END_SECONDS)
        end()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_SECONDS)
        self._loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
