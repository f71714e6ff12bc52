"""What a ledger comes to: each draw in one state, what is missing or double, the story of one draw.

Written apart from `History`, which the stream goes by, so that one checks the other.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tpo_dist.blocks import Event, Kind, Settled
from tpo_dist.errors import UsageError
from tpo_dist.history import History
from tpo_dist.ledger import Ledger, Row, contradiction, reading
from tpo_dist.tally import length_bin, reward_bin

State = Literal["queued", "in flight", "ready", "taken", "trained", "failed"]
_ENDS = ("trained", "failed")
_PROBLEMS = 20  # that an audit spells out


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A block that is neither trained nor failed."""

    block: int
    state: State
    worker: str | None
    """Who has it, or made it; None where nobody does."""
    attempts: int
    seconds: float
    """Since its last event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One ledger, looked through."""

    block_size: int
    """Draws of a block."""
    steps: int
    """Trained, by the run as it stands."""
    blocks: Mapping[State, int]
    draws: Mapping[State, int]
    """A draw whose group failed is failed, whatever becomes of the rest of its block."""
    failures: Mapping[str, int]
    """Failed draws by cause."""
    dropped_by_length: Mapping[str, int]
    """Draws that were dropped for their age, by the mean prompt length of their block, such as `16-31`."""
    dropped_by_reward: Mapping[str, int]
    """The same by its mean score, such as `0.3`: what is dropped most is what training misses."""
    gaps: tuple[int, ...]
    """Draws that were passed over, or forgotten when the learner went back."""
    duplicates: tuple[int, ...]
    """Draws that were trained twice."""
    problems: tuple[str, ...]
    """Rows that cannot follow those before them."""
    waiting: tuple[Waiting, ...]
    attempts: Mapping[int, int]
    """Blocks by how often they were given out."""
    sessions: tuple[Mapping[str, float], ...]
    """`at` (seconds since 1970) and `first_step` of each driver."""
    rollbacks: tuple[Mapping[str, float], ...]
    """`at` and `step` of each return to a checkpoint."""
    stream_starts: int

    @property
    def clean(self) -> bool:
        """True where every draw so far is in exactly one state."""
        return not (self.gaps or self.duplicates or self.problems)

    @property
    def complete(self) -> bool:
        """True where, besides, nothing is left to do: every draw was trained or failed."""
        return self.clean and not self.waiting

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"clean": self.clean, "complete": self.complete, **asdict(self)}


def audit(path: Path) -> Audit:
    """Look a ledger through, also while it is written. Raises UsageError where it cannot be read."""
    with reading(path), Ledger.read(path) as ledger:
        ledger.check()
        books, history, problem = _Books(ledger.block_size()), History(), None
        for number, row in enumerate(ledger.rows(), start=1):
            books.enter(row)
            problem = problem or contradiction(history, row, number)
        return books.close([f"the ledger {problem}"] if problem else books.differences(history))


def story(path: Path, draw: int) -> tuple[int, list[Row]]:
    """The block of a draw, and what happened to it: its own rows, and those of the whole run from then on.

    Raises UsageError for a draw that was not given out.
    """
    with reading(path), Ledger.read(path) as ledger:
        block = draw // ledger.block_size()
        rows: list[Row] = []
        steps: set[int | None] = set()
        everyone = "kind IN ('session', 'stream_started', 'rolled_back', 'trained')"
        for row in ledger.rows(f"block = ? OR (block IS NULL AND {everyone})", (block,)):
            event = row.event
            if event.kind == "taken":
                steps.add(event.step)
            if event.block is not None or (rows and (event.kind != "trained" or event.step in steps)):
                rows.append(row)
    if not rows:
        raise UsageError(f"--draw {draw}", "that draw was not given out", "tpo-dist ledger RUN says how many were")
    return block, rows


def outcome(draw: int, rows: Sequence[Row]) -> tuple[State, str | None]:
    """The state of a draw at the end of its `story`, and the cause where its group failed: others of its block may
    have been trained all the same."""
    state: State = "queued"
    cause: str | None = None
    for row in rows:
        event = row.event
        if event.kind in ("ready", "failed"):
            told = json.loads(event.detail or "{}")
            own = [why for which, why, _ in told.get("failures", []) if which == draw]
            cause = own[0] if own else told.get("reason") if event.kind == "failed" else None
        elif event.kind in ("leased", "lost", "queued", "dropped"):
            cause = event.detail if event.kind == "dropped" else None
        if event.block is not None or event.kind == "trained":
            state = _AFTER.get(event.kind, state)
    return ("failed", cause) if cause is not None else (state, None)


_AFTER: Mapping[Kind, State] = {
    "leased": "in flight",
    "ready": "ready",
    "lost": "queued",
    "queued": "queued",
    "taken": "taken",
    "trained": "trained",
    "failed": "failed",
    "dropped": "failed",
}


@dataclass(slots=True)
class _Life:
    """A block, as far as the books have it."""

    state: State = "queued"
    at: float = 0.0
    worker: str | None = None
    attempts: int = 0
    causes: Sequence[str] = ()
    """Why draws of it failed."""
    summary: str | None = None
    """What its worker said of it, while it is ready."""


class _Books:
    """Enters rows whether or not they make sense, and says in the end what does not."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._lives: dict[int, _Life] = {}
        self._taken: dict[int | None, list[int]] = {}
        self._steps = 0
        self._forgotten: set[int] = set()
        self._twice: set[int] = set()
        self._sessions: list[dict[str, float]] = []
        self._rollbacks: list[dict[str, float]] = []
        self._starts = 0
        self._lengths: Counter[str] = Counter()
        self._rewards: Counter[str] = Counter()

    def enter(self, row: Row) -> None:
        """Take a row in."""
        event, step = row.event, row.event.step or 0
        if event.block is not None:
            self._enter_block(row.at, event, event.block)
        elif event.kind == "session":
            self._sessions.append({"at": row.at, "first_step": step})
        elif event.kind == "stream_started":
            self._starts += 1
        elif event.kind == "trained":
            self._steps = step + 1
            for block in self._taken.pop(step, []):
                self._train(row.at, block)
        elif event.kind == "rolled_back":
            self._steps = step
            self._rollbacks.append({"at": row.at, "step": step})
            settled = Settled.from_json(json.loads(event.detail or "{}"))
            beyond = set(settled.beyond)
            trained = (block for block, life in self._lives.items() if life.state == "trained")
            self._forgotten |= {block for block in trained if block >= settled.below and block not in beyond}

    def _enter_block(self, at: float, event: Event, block: int) -> None:
        life = self._lives.setdefault(block, _Life())
        life.at = at
        if event.kind == "leased":
            life.state, life.worker, life.causes = "in flight", event.worker, ()
            life.attempts += 1
        elif event.kind == "ready":
            life.state, life.causes, life.summary = "ready", _causes(event), event.detail
        elif event.kind in ("lost", "queued"):
            life.state, life.worker, life.causes = "queued", None, ()
            self._forgotten.discard(block)
            for blocks in self._taken.values():
                if block in blocks:
                    blocks.remove(block)
        elif event.kind == "taken":
            self._taken.setdefault(event.step, []).append(block)
            life.summary = None
            life.state = "trained" if life.state == "trained" else "taken"
        elif event.kind == "trained":
            self._train(at, block)
        elif event.kind == "dropped":
            life.state, life.causes = "failed", ["dropped"] * self._size
            told = json.loads(life.summary or "{}")
            self._lengths[length_bin(told.get("prompt_length", 0.0))] += self._size
            self._rewards[reward_bin(told.get("reward", 0.0))] += self._size
        elif event.kind == "failed":
            causes = _causes(event)
            life.state, life.causes = "failed", [*causes, *["no cause given"] * (self._size - len(causes))]

    def _train(self, at: float, block: int) -> None:
        life = self._lives[block]
        if life.state == "trained" and block not in self._forgotten:
            self._twice.add(block)
        life.state, life.at = "trained", at

    def differences(self, history: History) -> list[str]:
        """Where the stream's own rules have come to another state."""
        theirs: dict[int, State] = {block: "taken" for blocks in history.taken.values() for block in blocks}
        theirs.update(dict.fromkeys(history.queued, "queued"))
        theirs.update(dict.fromkeys(history.in_flight, "in flight"))
        theirs.update(dict.fromkeys(history.ready, "ready"))
        open_lives = {block: life.state for block, life in self._lives.items() if life.state not in _ENDS}
        odd = sorted(block for block in {**theirs, **open_lives} if theirs.get(block) != open_lives.get(block))
        said = [
            f"block {b} is {open_lives.get(b, 'settled')}, and the stream has it {theirs.get(b, 'settled')}"
            for b in odd
        ]
        counts = (history.trained, history.failed, history.finished)
        states = Counter(life.state for life in self._lives.values())
        if counts != (states["trained"], states["failed"], self._steps):
            said.append(f"the stream has {counts[0]} blocks trained and {counts[1]} failed after {counts[2]} steps")
        return said[:_PROBLEMS]

    def close(self, problems: list[str]) -> Audit:
        """What it all comes to."""
        now, lives = time.time(), sorted(self._lives.items())
        passed = set(range(lives[-1][0] + 1 if lives else 0)) - self._lives.keys()
        blocks: Counter[State] = Counter()
        draws: Counter[State] = Counter()
        for block, life in lives:
            if block not in self._forgotten:
                blocks[life.state] += 1
                draws["failed"] += len(life.causes)
                draws[life.state] += self._size - len(life.causes)
        return Audit(
            block_size=self._size,
            steps=self._steps,
            blocks={state: blocks[state] for state in get_args(State)},
            draws={state: draws[state] for state in get_args(State)},
            failures=dict(Counter(cause for _, life in lives for cause in life.causes)),
            dropped_by_length=dict(self._lengths),
            dropped_by_reward=dict(self._rewards),
            gaps=self._draws(passed | self._forgotten),
            duplicates=self._draws(self._twice),
            problems=tuple(problems),
            waiting=tuple(
                Waiting(
                    block=block,
                    state=life.state,
                    worker=life.worker,
                    attempts=life.attempts,
                    seconds=max(0.0, now - life.at),
                )
                for block, life in lives
                if life.state not in _ENDS
            ),
            attempts=dict(Counter(life.attempts for _, life in lives if life.attempts)),
            sessions=tuple(self._sessions),
            rollbacks=tuple(self._rollbacks),
            stream_starts=self._starts,
        )

    def _draws(self, blocks: set[int]) -> tuple[int, ...]:
        return tuple(draw for block in sorted(blocks) for draw in range(block * self._size, (block + 1) * self._size))


def _causes(event: Event) -> list[str]:
    return [cause for _, cause, _ in json.loads(event.detail or "{}").get("failures", ())]
