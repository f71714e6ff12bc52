"""vLLM's engine in this process: it works while `step` is called, and at no other time."""

from collections.abc import Mapping
from typing import Any

import torch

from tpo_dist.records import Array
from tpo_dist.rollout.generation import Completion, Generation
from tpo_dist.rollout.vllm import requests, weights
from tpo_dist.rollout.vllm.group_fetch import Fetcher
from tpo_dist.rollout.vllm.library import EngineArgs, LLMEngine
from tpo_dist.weight_group import Announcement, Sender


class Engine:
    """A step computes one token of each candidate. It has other processes only where several GPUs share a model."""

    queues = False

    def __init__(self, about: Generation, arguments: Mapping[str, Any]) -> None:
        """`arguments`: of `vllm.EngineArgs`, beside those that follow from the run."""
        self._about = about
        self._adapters: Any = None
        self._version = -1
        self._ready: list[tuple[str, Completion]] = []
        self._one_process = arguments["tensor_parallel_size"] == 1
        set_threads = torch.set_num_threads
        with torch.random.fork_rng(devices=[]):  # vLLM seeds the whole process
            self._llm: Any = LLMEngine.from_engine_args(EngineArgs(**requests.arguments(about, arguments)))
        torch.set_num_threads = set_threads  # vLLM's CPU worker replaces it
        if about.wire is not None:
            self.fetcher = Fetcher(self._llm.collective_rpc, arguments["tensor_parallel_size"], about.wire)
        elif about.adapters is None:
            self._llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})

    def add(self, name: str, prompt: list[int], temperature: float, seed: int) -> None:
        """Begin a completion. What prompts have in common is computed once for each version of the weights."""
        asked = requests.prompt(prompt, str(self._version))
        self._llm.add_request(
            name, asked, requests.sampling(self._about, temperature, seed), lora_request=self._adapters
        )

    def step(self) -> list[tuple[str, Completion]]:
        """Work for one token of each candidate at most; the completions that ended since the last call, by name."""
        if self._llm.has_unfinished_requests():
            self._advance()
        done, self._ready = self._ready, []
        return done

    def _advance(self) -> Any:
        """One step; the outputs of our own questions, which are no completions."""
        own = []
        for output in self._llm.step():
            if output.prompt_logprobs is not None:
                own.append(output)
            elif output.finished:
                self._ready.append((output.request_id, requests.completion(output.outputs[0])))
        return own

    def logps(self, tokens: list[int]) -> list[float]:
        """Log-probs (nats, logits undivided) of each of these tokens but the first, under the weights of now.

        Completions that are under way go on meanwhile.
        """
        prompt = requests.prompt(tokens, f"probe {self._version}")
        self._llm.add_request("logps", prompt, requests.reading(), lora_request=self._adapters)
        while True:
            for output in self._advance():
                found: list[float] = list(output.prompt_logprobs.logprobs)
                return found

    def load(self, arrays: Mapping[str, Array], version: int, *, keep_cache: bool) -> None:
        """Take over these weights, or adapters; completions under way go on with them.

        `keep_cache`: theirs goes on as well, else what came before is computed anew, under the new weights.
        """
        if self._about.adapters is not None:
            with weights.adapter_folder(self._about.adapters, arrays) as request:
                self._llm.add_lora(request)
                self._adapters = weights.adapted(request)
        elif self._one_process:
            self._update({"weights": dict(arrays)})
        else:
            with weights.in_memory(arrays) as info:
                self._update(info)
        self._go_on(version, keep_cache)

    def fetch(self, announced: Announcement, sender: Sender, *, keep_cache: bool) -> None:
        """As `load`, of weights that come by a process group. Raises WeightsLost and WrongWeights, as `Fetcher`."""
        self.fetcher.fetch(announced, sender)
        self._go_on(announced.header.version, keep_cache)

    def _go_on(self, version: int, keep_cache: bool) -> None:
        self._llm.set_weight_version(str(version))
        self._version = version
        if not keep_cache:
            self._llm.reset_prefix_cache(reset_running_requests=True)

    def _update(self, info: dict[str, Any]) -> None:
        self._llm.collective_rpc("start_weight_update")
        self._llm.collective_rpc("update_weights", kwargs={"update_info": info})
        self._llm.collective_rpc("finish_weight_update")

    def close(self) -> None:
        """End vLLM and its processes."""
        self._llm.engine_core.shutdown()
