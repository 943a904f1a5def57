"""A search space: named parameters, rules between them, and what a configuration costs.

Shape legend: W encoded width of the space, F categorical decisions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from search.errors import ConfigurationError, HistoryError, SpaceError
from search.parameters import Floats, Parameter, Value
from search.trial import Trial

Config = dict[str, Value]
"""Parameter -> value, plain JSON values."""
Rule = Callable[[Mapping[str, Value]], str | None]
"""None, or why a configuration is not allowed."""

DRAWS = 1_000
"""Random configurations that may break a rule before a space counts as empty."""


class SearchSpace:
    """All configurations that a search may propose.

    Args:
        parameters: in the order of the encoding.
        rules: what parameters may not be together, each None or a reason.
        cost: of one evaluation of a configuration (FLOPs, seconds); 1 for each when absent.

    Raises:
        SpaceError: no parameter, or two of one name.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        rules: Sequence[Rule] = (),
        cost: Callable[[Config], float] | None = None,
    ) -> None:
        names = [parameter.name for parameter in parameters]
        if not names or len(set(names)) < len(names):
            raise SpaceError(f"a space needs parameters of different names; got {names}")
        self.parameters = tuple(parameters)
        self.rules = tuple(rules)
        self._cost = cost

    @property
    def width(self) -> int:
        """W."""
        return sum(parameter.width for parameter in self.parameters)

    @property
    def factors(self) -> tuple[int, ...]:
        """Choices of each of the F decisions, in the order of the parameters."""
        return tuple(size for parameter in self.parameters for size in parameter.factors)

    @property
    def fingerprint(self) -> str:
        """Digest of the parameters and the rules: a saved search goes on in the same space only."""
        content = (self.parameters, [_identity(rule) for rule in self.rules])
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def validate(self, config: Mapping[str, Value]) -> None:
        """Raise ConfigurationError, naming the parameter or the rule, unless ``config`` is of this space."""
        names = [parameter.name for parameter in self.parameters]
        if set(config) != set(names):
            raise ConfigurationError(f"a configuration of this space has {names}; got {list(config)}")
        for parameter in self.parameters:
            parameter.check(config[parameter.name])
        for rule in self.rules:
            if (reason := rule(config)) is not None:
                raise ConfigurationError(f"{reason}; got {dict(config)}")

    def allows(self, config: Mapping[str, Value]) -> bool:
        """Whether ``config`` is of this space."""
        try:
            self.validate(config)
        except ConfigurationError:
            return False
        return True

    def encode(self, config: Mapping[str, Value]) -> Floats:
        """Configuration -> [W], each in [0, 1]."""
        return np.concatenate([parameter.encode(config[parameter.name]) for parameter in self.parameters])

    def encode_all(self, configs: Sequence[Mapping[str, Value]]) -> Floats:
        """N configurations -> [N, W]."""
        return np.stack([self.encode(config) for config in configs]) if configs else np.zeros((0, self.width))

    def decode(self, vector: Floats) -> Config:
        """[W], any real numbers -> the nearest configuration; rules are not applied (``allows`` tells)."""
        if len(vector) != self.width:
            raise ConfigurationError(f"an encoding of this space has {self.width} numbers; got {len(vector)}")
        config, start = {}, 0
        for parameter in self.parameters:
            config[parameter.name] = parameter.decode(np.asarray(vector[start : start + parameter.width]))
            start += parameter.width
        return config

    def assemble(self, choices: Sequence[int]) -> Config:
        """Decisions [F] -> a configuration; rules are not applied."""
        config, start = {}, 0
        for parameter in self.parameters:
            stop = start + len(parameter.factors)
            config[parameter.name] = parameter.assemble([int(choice) for choice in choices[start:stop]])
            start = stop
        return config

    def sample(self, rng: np.random.Generator) -> Config:
        """A random configuration.

        Raises:
            SpaceError: none of ``DRAWS`` random ones keeps the rules.
        """
        reason: ConfigurationError | None = None
        for _ in range(DRAWS):
            config = {parameter.name: parameter.sample(rng) for parameter in self.parameters}
            try:
                self.validate(config)
            except ConfigurationError as error:
                reason = error
            else:
                return config
        raise SpaceError(f"no valid configuration in {DRAWS} random ones; loosen the rules. The last: {reason}")

    def mutate(self, config: Config, rng: np.random.Generator) -> Config:
        """A valid configuration that differs in one parameter, or a random one where none is found.

        Raises:
            SpaceError: the space holds no valid configuration.
        """
        for _ in range(DRAWS):
            parameter = self.parameters[int(rng.integers(len(self.parameters)))]
            changed = {**config, parameter.name: parameter.mutate(config[parameter.name], rng)}
            if changed != config and self.allows(changed):
                return changed
        return self.sample(rng)

    def cost(self, config: Config) -> float:
        """Of one evaluation."""
        return 1.0 if self._cost is None else self._cost(config)

    def check_history(self, history: Sequence[Trial]) -> None:
        """Raise HistoryError, naming the trial and why, unless every trial is of this space."""
        for trial in history:
            try:
                self.validate(trial.config)
            except ConfigurationError as error:
                raise HistoryError(f"trial {trial.id} is of another space: {error}") from error


def config_key(config: Mapping[str, Any]) -> str:
    """One text for equal configurations, whatever the order of their parameters."""
    return json.dumps(config, sort_keys=True)


def _identity(rule: Any) -> str:
    """What tells a rule from others in every process: its code, and the plain values that it was made with.

    An object without a representation of its own counts as its type: its address differs from process to process.
    """
    if isinstance(rule, partial):
        given = [_identity(value) for value in (*rule.args, *rule.keywords.items())]
        return f"{_identity(rule.func)}{given}"
    function = getattr(rule, "__func__", rule)
    if isinstance(function, FunctionType):
        bound = [_identity(cell.cell_contents) for cell in function.__closure__ or ()]
        return f"{function.__module__}.{function.__qualname__} {_code_identity(function.__code__)} {bound}"
    return type(rule).__qualname__ if type(rule).__repr__ is object.__repr__ else repr(rule)


def _code_identity(code: CodeType) -> str:
    constants = [_code_identity(value) if isinstance(value, CodeType) else _plain(value) for value in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names}"


def _plain(constant: Any) -> str:
    """A constant's text; the order of a set's differs from process to process."""
    return repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)
