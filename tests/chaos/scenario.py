"""What happens to one training, drawn from a seed: the same seed is the same scenario, on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

T = TypeVar("T")

TOTAL_STEPS = 120
TIMEOUT_S, SHORT_TIMEOUT_S = 600.0, 8.0
"""`comm.timeout_s`: short where a rank is frozen or cut off, else so long that no end may wait for it."""

BASE = (
    "data.kwargs={count: 400}",
    "model.kwargs={width: 8}",
    "batch.global_batch_size=33",
    "train.epochs=100",
    "train.log_every_steps=1",
    f"train.max_steps={TOTAL_STEPS}",
)
RECIPES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "dropout": ("model.dropout=0.2", "data.shift_px=1", "batch.micro_batch_size=6"),
    "sgd_bf16": ("optim.name=sgd", "train.precision=bf16", "train.ema_decay=0.9"),
    "watched": ("data.val_fraction=0.2", "data.brightness=0.1", "data.contrast=0.1", "train.log_every_steps=2"),
    "streamed": ("data.placement=stream", "data.loader_workers=1", "train.eval_every_epochs=0"),
    "sharded": ("optim.zero_redundancy=true", "batch.micro_batch_size=4"),
}
Place = Literal["local", "small_disk", "permission", "clock", "nodes"]
"""Where it runs: as it is; on a small disk; without root's power over permissions; with a clock of its own; or as two
nodes with a network between them."""

Moment = Literal["spawned", "recorded", "step", "saving", "epoch_end"]
"""When to act: the ranks are there; the start is on record; a step is done; a checkpoint is half written; an epoch is
done and its evaluation runs."""


ActKind = Literal["kill", "ask", "ask_and_kill", "pause", "freeze", "fill", "forbid", "vanish", "jump", "cut"]
DamageKind = Literal["flip", "truncate", "delete_file", "delete_checkpoint", "damage_all", "scribble_latest",
                     "delete_latest", "half_written"]  # fmt: skip
ACTS: tuple[ActKind, ...] = get_args(ActKind)
DAMAGES: tuple[DamageKind, ...] = get_args(DamageKind)


@dataclass(frozen=True)
class Act:
    """What is done to a running training."""

    kind: ActKind
    target: str = ""
    """`agent`, `ranks`, `all`, or the number of a rank."""
    signals: tuple[str, ...] = ()
    amount_s: float = 0.0
    """How long a pause lasts, or how far a clock jumps."""

    def __str__(self) -> str:
        amount = f"{self.amount_s:+.1f}s" if self.amount_s else ""
        return " ".join(part for part in (self.kind, self.target, "+".join(self.signals), amount) if part)


@dataclass(frozen=True)
class Damage:
    """What is done to the checkpoints while nothing runs."""

    kind: DamageKind
    place: float = 0.0
    """In [0, 1): which checkpoint, which file, which byte."""

    def __str__(self) -> str:
        return f"{self.kind}({self.place:.3f})"


@dataclass(frozen=True)
class Round:
    """An act at a moment, and what is damaged once the training has ended of it."""

    moment: Moment
    step: int
    """The moment is the first of its kind once this step is done."""
    act: Act
    damages: tuple[Damage, ...] = ()

    def __str__(self) -> str:
        damages = "".join(f", {one}" for one in self.damages)
        return f"{self.act} @{self.moment} {self.step}{damages}"


@dataclass(frozen=True)
class Scenario:
    """One training and all that happens to it."""

    seed: int
    place: Place
    recipe: str
    workers: int
    every_steps: int
    keep: int
    max_restarts: int
    """Restarts by the elastic agent itself, where the command line has them; else the same command is run again."""
    rounds: tuple[Round, ...] = field(repr=False)

    def overrides(self) -> list[str]:
        """The training's config, as the command line takes it."""
        return [
            *BASE,
            *RECIPES[self.recipe],
            f"checkpoint.every_steps={self.every_steps}",
            f"checkpoint.keep={self.keep}",
            f"comm.timeout_s={self.timeout_s}",
        ]

    @property
    def timeout_s(self) -> float:
        """`comm.timeout_s`."""
        return SHORT_TIMEOUT_S if self.kinds() & {"freeze", "cut"} else TIMEOUT_S

    def kinds(self) -> set[str]:
        """The kinds of acts and damages in it."""
        return {one.act.kind for one in self.rounds} | {two.kind for one in self.rounds for two in one.damages}

    def __str__(self) -> str:
        head = f"{self.place} {self.recipe} x{self.workers} every {self.every_steps} keep {self.keep}"
        restarts = f" restarts {self.max_restarts}" if self.max_restarts else ""
        return f"{head}{restarts}: " + "; ".join(map(str, self.rounds))


class _Dice:
    """Draws from one generator, by means that give the same numbers on every version of Python."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def fraction(self) -> float:
        return self._random.random()

    def one_of(self, values: Sequence[T]) -> T:
        return values[int(self.fraction() * len(values))]

    def weighted(self, weights: dict[T, float]) -> T:
        point = self.fraction() * sum(weights.values())
        for value, weight in weights.items():
            point -= weight
            if point < 0:
                return value
        return value

    def chance(self, probability: float) -> bool:
        return self.fraction() < probability


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    dice = _Dice(seed)
    weights: dict[Place, float] = {"local": 14, "small_disk": 2, "permission": 2, "clock": 2, "nodes": 1}
    place = dice.weighted(weights)
    recipe = dice.one_of(list(RECIPES))
    workers = 2 if place == "nodes" else dice.weighted({1: 5, 2: 5, 3: 1})
    max_restarts = dice.weighted({0: 2, 3: 1}) if workers > 1 and place == "local" else 0
    every_steps, keep = dice.one_of((4, 6, 10)), dice.weighted({1: 1, 2: 2, 3: 2})
    count = dice.one_of((3, 4, 5)) if place == "local" else 2 if place == "nodes" else 3
    steps = sorted(1 + int(dice.fraction() * (TOTAL_STEPS - 10)) for _ in range(count))
    if dice.chance(0.1):
        steps[-1] = TOTAL_STEPS  # while the last checkpoint, the model and the result are written
    rounds = []
    for index, step in enumerate(steps):
        special = place != "local" and index == 0
        act = _special_act(dice, place) if special else _act(dice, place, workers, max_restarts)
        rounds.append(Round(_moment(dice, act), step, act, _damages(dice)))
    return Scenario(seed, place, recipe, workers, every_steps, keep, max_restarts, tuple(rounds))


def _special_act(dice: _Dice, place: Place) -> Act:
    """What this place is there for."""
    if place == "small_disk":
        return Act("fill")
    if place == "permission":
        return Act("forbid")
    if place == "clock":
        return Act("jump", amount_s=dice.one_of((-86_400.0, -40.0, 40.0, 86_400.0)))
    return Act("cut")


def _act(dice: _Dice, place: Place, workers: int, max_restarts: int) -> Act:
    kinds: dict[ActKind, float] = {"kill": 11, "ask": 4, "ask_and_kill": 1, "pause": 1.5, "vanish": 0.5}
    if workers > 1 and not max_restarts and place == "local":
        kinds["freeze"] = 0.5
    kind = dice.weighted(kinds)
    signals = tuple(dice.one_of(("TERM", "USR1", "USR2")) for _ in range(dice.weighted({1: 2, 2: 1})))
    rank = str(int(dice.fraction() * workers))
    if kind == "vanish":
        return Act("vanish")
    if kind == "freeze":
        return Act("freeze", rank)
    others = ["all"] if workers == 1 else ["agent", "ranks", "all"]
    if place == "nodes":
        others = ["ranks", "all"]  # an agent is one of two there
    target = rank if dice.chance(0.6) else dice.one_of(others)
    if kind == "kill":
        return Act("kill", target)
    if kind == "pause":
        return Act("pause", target, amount_s=0.3 + 1.2 * dice.fraction())
    return Act(kind, target, signals if kind == "ask" else ("TERM",))


def _moment(dice: _Dice, act: Act) -> Moment:
    if act.kind in ("fill", "forbid", "vanish", "jump", "cut", "freeze"):
        return dice.weighted({"step": 3, "saving": 1})
    return dice.weighted({"step": 5, "saving": 2, "spawned": 0.7, "recorded": 0.7, "epoch_end": 1})


def _damages(dice: _Dice) -> tuple[Damage, ...]:
    kinds: dict[DamageKind, float] = {
        "flip": 4,
        "truncate": 2,
        "delete_file": 2,
        "delete_checkpoint": 2,
        "damage_all": 1,
        "scribble_latest": 2,
        "delete_latest": 1,
        "half_written": 2,
    }
    return tuple(Damage(dice.weighted(kinds), dice.fraction()) for _ in range(dice.weighted({0: 6, 1: 3, 2: 1})))
