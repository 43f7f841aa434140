"""Which fields of the config a search varies, and within what."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from disttrain.config import Config, build_config
from disttrain.errors import ConfigError, unknown_name
from disttrain.tune.domains import Domain, parse_domain

_NOT_VARIED = {
    "train.epochs": "it is the length of every trial, which schedulers cut short: set it in the config",
    "train.max_steps": "trials are compared by epochs: set train.epochs in the config",
    "train.seed": "a seed is no setting that could be better: `seeds: N` trains each point N times",
    "train.workers": "it is the same for all trials: `workers_per_trial`, or --workers-per-trial",
    "train.cpu_threads": "it follows from `resources: {cpus_per_worker: N}`",
    "train.device": "it follows from `resources: {gpus_per_worker: N}`",
    "train.test_at_end": "a search never looks at the test split",
    "train.eval_every_epochs": "trials are compared after each epoch",
    "data.name": "trials are compared on one validation split",
    "data.path": "trials are compared on one validation split",
    "data.split": "trials are compared on one validation split",
    "data.test_fraction": "trials are compared on one validation split",
    "data.val_fraction": "trials are compared on one validation split",
    "data.skip_unreadable": "trials are compared on one validation split",
}

Values = Mapping[str, Any]


class Suggest(Protocol):
    """Where values come from: a random generator, a searcher."""

    def __call__(self, field: str, domain: Domain, /) -> Any:
        """A value of the domain."""


class Space:
    """The domains by field, those first that conditions of others name."""

    def __init__(self, domains: Mapping[str, Domain]) -> None:
        """Raises ConfigError for conditions that name no field of the space, or each other."""
        self.domains = dict(_in_order(domains))

    def draw(self, suggest: Suggest) -> dict[str, Any]:
        """The values of one point, by field; fields whose conditions do not hold are left out."""
        values: dict[str, Any] = {}
        for field, domain in self.domains.items():
            if _holds(domain, values):
                values[field] = suggest(field, domain)
        return values

    def contains(self, values: Values) -> bool:
        """Whether these values could be drawn: each in its domain, none missing, none beyond."""
        active = {field for field, domain in self.domains.items() if _holds(domain, values)}
        return active == set(values) and all(self.domains[field].contains(one) for field, one in values.items())

    def cells(self) -> Iterator[dict[str, Any]]:
        """All combinations of the `grid` fields (with all of them lists, of every field), each once."""
        lists = {field: one for field, one in self.domains.items() if one.kind == "grid" or self.is_finite}
        seen: list[dict[str, Any]] = []
        for values in itertools.product(*(one.values for one in lists.values())):
            cell = dict(zip(lists, values, strict=True))
            active = {
                field: one
                for field, one in cell.items()
                if all(name not in cell or cell[name] in wanted for name, wanted in lists[field].when)
            }
            if active not in seen:
                seen.append(active)
                yield active

    @property
    def is_finite(self) -> bool:
        """Whether every field has a list of values."""
        return all(one.is_list for one in self.domains.values())


def _holds(domain: Domain, values: Values) -> bool:
    return all(field in values and values[field] in wanted for field, wanted in domain.when)


def _in_order(domains: Mapping[str, Domain]) -> Iterator[tuple[str, Domain]]:
    waiting, done = dict(domains), set[str]()
    for field, domain in domains.items():
        for name, wanted in domain.when:
            if name not in domains:
                raise ConfigError(f"space {field}: when: {unknown_name('field of the space', name, domains)}")
            foreign = [one for one in wanted if not domains[name].contains(one)]
            if foreign:
                raise ConfigError(
                    f"space {field}: when: {name}={foreign[0]!r} is never drawn: {name} is "
                    f"{domains[name].kind} of {list(domains[name].values)}."
                )
    while waiting:
        ready = [field for field, one in waiting.items() if all(name in done for name, _ in one.when)]
        if not ready:
            raise ConfigError(f"space: the conditions (`when`) of {' and '.join(waiting)} wait for each other.")
        for field in ready:
            done.add(field)
            yield field, waiting.pop(field)


def parse_space(raw: Mapping[Any, Any], base: Config) -> Space:
    """The space of a search file over the fields of `base`.

    Raises ConfigError for a field that the config does not have or a search does not vary, and for a value at an end of
    a range that the config refuses.
    """
    if not raw:
        raise ConfigError("space is empty: name at least one field of the config, such as optim.lr.")
    for field in raw:
        _check_field(str(field))
    space = Space({str(field): parse_domain(str(field), one) for field, one in raw.items()})
    for field, domain in space.domains.items():
        around = {name: wanted[0] for name, wanted in domain.when}
        for value in domain.extremes():
            try:
                with_values(base, {**around, field: value})
            except ConfigError as error:
                raise ConfigError(f"space {field}: the config refuses {value!r} of {domain.kind}: {error}") from None
    return space


def _check_field(field: str) -> None:
    section, _, name = field.partition(".")
    known = [f"{one}.{key}" for one, info in Config.model_fields.items() for key in type(info.default).model_fields]
    inside = section in ("model", "data") and name.startswith("kwargs.") and len(name) > len("kwargs.")
    if field not in known and not inside:
        raise ConfigError(f"space: {unknown_name('field of the config', field, known)}")
    if field in _NOT_VARIED:
        raise ConfigError(f"space {field}: a search does not vary it: {_NOT_VARIED[field]}.")


def with_values(base: Config, values: Values) -> Config:
    """The config with these fields in it. Raises ConfigError where they contradict each other or the rest."""
    tree = base.model_dump()
    for field, value in values.items():
        branch = tree
        *parents, leaf = field.split(".")
        for name in parents:
            branch = branch.setdefault(name, {})
        branch[leaf] = list(value) if isinstance(value, tuple) else value
    return build_config(tree, where="a point of the search")
