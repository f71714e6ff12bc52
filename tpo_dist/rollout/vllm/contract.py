"""What an engine is: completions begin, go on together, and end; weights change between their tokens."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from tpo_dist.records import Array
from tpo_dist.rollout.generation import Completion
from tpo_dist.weight_group import Announcement, Sender


class VLLMEngine(Protocol):
    """vLLM with one model, in whichever process."""

    @property
    def queues(self) -> bool:
        """Whether completions that find no room wait in it; else who adds them keeps to the room that there is."""
        ...

    def add(self, name: str, prompt: list[int], temperature: float, seed: int) -> None:
        """Begin a completion. What prompts have in common is computed once for each version of the weights."""
        ...

    def step(self) -> list[tuple[str, Completion]]:
        """Work, or let work, for about one token of each candidate; the completions that ended since the last call, by
        name."""
        ...

    def logps(self, tokens: list[int]) -> list[float]:
        """Log-probs (nats, logits undivided) of each of these tokens but the first, under the weights of now.

        Completions that are under way go on meanwhile.
        """
        ...

    def load(self, arrays: Mapping[str, Array], version: int, *, keep_cache: bool) -> None:
        """Take over these weights, or adapters, between two tokens; completions under way go on with them.

        `keep_cache`: theirs goes on as well, else what came before is computed anew, under the new weights.
        """
        ...

    def close(self) -> None:
        """End vLLM and its processes; there is no further call."""
        ...


@runtime_checkable
class FetchingEngine(VLLMEngine, Protocol):
    """One that takes weights from the learner itself, by a process group."""

    def fetch(self, announced: Announcement, sender: Sender, *, keep_cache: bool) -> None:
        """As `load`. Raises WeightsLost where the weights do not arrive, WrongWeights where others do; then nothing has
        changed."""
        ...


class EngineDied(RuntimeError):
    """The process in which vLLM works is gone, and with it what it had under way."""
