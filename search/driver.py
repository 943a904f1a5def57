"""The search loop: ask, evaluate, tell; saved after each trial, resumable after a kill with the same next proposal."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.errors import BudgetError, ConfigurationError, ProposalError, StateError
from search.proposer import Proposer, Shortening
from search.runners import Objective, ShortObjective, runner
from search.trial import Trial

FORMAT = 3


@dataclass
class SearchState:
    """Where a search stands. ``told``: trials whose results the proposer has."""

    trials: list[Trial] = field(default_factory=list)
    told: int = 0


class Search:
    """One method on one objective.

    Trials run in batches of ``k``: the proposer sees a batch's results when all of them are in. One that asks for short
    trials (``Shortening``) gets them where the objective can stop a trial (``ShortObjective``).

    Args:
        proposer: proposes configurations of its space.
        objective: evaluates one; pickled to other processes where ``k`` > 1 or a limit is set.
        budget: trials of the whole search, failed ones included.
        state_file: the search's state, replaced atomically after each trial; a search goes on from it. None: not saved.
        k: trials evaluated at once.
        time_limit_s: of one trial; it fails when it takes longer.
        progress: called with one line a trial.

    Raises:
        BudgetError: ``budget`` or ``k`` is below 1.
        StateError: ``state_file`` cannot be read, or is of another space, method or budget.
    """

    def __init__(
        self,
        proposer: Proposer,
        objective: Objective,
        *,
        budget: int,
        state_file: Path | None = None,
        k: int = 1,
        time_limit_s: float | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        if budget < 1 or k < 1:
            raise BudgetError(f"got a budget of {budget} trials, k={k}; allowed: at least 1 of each")
        self.proposer, self.objective, self.budget = proposer, objective, budget
        self.state_file, self.k, self.time_limit_s, self.progress = state_file, k, time_limit_s, progress
        self.state = SearchState()
        if state_file is not None and state_file.exists():
            self._load(state_file)

    @property
    def history(self) -> list[Trial]:
        """Trials with a result, done or failed, by id."""
        return [trial for trial in self.state.trials if trial.state != "running"]

    def run(self, until: int | None = None) -> list[Trial]:
        """Evaluate trials until ``until`` of them (the whole budget when absent) have a result; the history then.

        Raises:
            StateError: another process runs the search of this state file.
            ProposalError: the proposer gave a configuration that its space does not hold, none, or more than asked.
        """
        goal = self.budget if until is None else min(until, self.budget)
        with self._alone(), runner(self.objective, self.k, self.time_limit_s) as evaluate:
            while self.state.told < goal:
                if self.state.told == len(self.state.trials):
                    self._ask(min(self.k, goal - self.state.told))
                running = [trial for trial in self.state.trials if trial.state == "running"]
                for trial in evaluate.run(running):
                    self._keep(trial)
                self.proposer.tell(self.state.trials[self.state.told :])
                self.state.told = len(self.state.trials)
                self._save()
        return self.history

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process runs the search of the state file meanwhile; it begins with what the last one left there.

        The lock is a file beside it, since the state file itself is replaced. A POSIX record lock ends with its process
        and is not inherited by the processes of trials, which may outlive a killed search.
        """
        if self.state_file is None:
            yield
            return
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        with self.state_file.with_name(self.state_file.name + ".lock").open("w") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise StateError(
                    f"{self.state_file}: another process runs this search; wait for it, or end it and start again"
                ) from error
            if self.state_file.exists():
                self._load(self.state_file)
            yield

    def _ask(self, k: int) -> None:
        configs = self.proposer.ask(self.history, self.budget - self.state.told, k)
        if not 1 <= len(configs) <= k:
            raise ProposalError(f"{self._method} proposed {len(configs)} configurations; asked for {k}")
        for config in configs:
            try:
                self.proposer.space.validate(config)
            except ConfigurationError as error:
                raise ProposalError(f"{self._method} proposed what its space does not hold: {error}") from error
            trial_id = len(self.state.trials)
            self.state.trials.append(Trial(trial_id, config, share=self._share(trial_id)))
        self._save()

    def _share(self, trial_id: int) -> float:
        """Of a whole training: less than 1 where the method asks for it and the objective can stop there."""
        if isinstance(self.proposer, Shortening) and isinstance(self.objective, ShortObjective):
            return self.proposer.share(trial_id, self.budget)
        return 1.0

    def _keep(self, trial: Trial) -> None:
        self.state.trials[trial.id] = trial
        self._save()
        if self.progress is not None:
            result = f"{trial.ne:.5f}" if trial.ne is not None else f"failed: {trial.error}"
            self.progress(f"trial {trial.id + 1} of {self.budget}: {result}")

    @property
    def _method(self) -> str:
        return str(getattr(self.proposer, "name", type(self.proposer).__name__))

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "space": self.proposer.space.fingerprint,
            "method": self._method,
            "seed": getattr(self.proposer, "seed", None),
            "budget": self.budget,
        }

    def _save(self) -> None:
        if self.state_file is None:
            return
        content = {
            **self._identity,
            "told": self.state.told,
            "proposer": self.proposer.state_dict(),
            "trials": [trial.to_json() for trial in self.state.trials],
        }
        written = self.state_file.with_name(self.state_file.name + ".new")
        with written.open("w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(written, self.state_file)

    def _load(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text())
            found = {name: content[name] for name in self._identity}
            trials = [Trial.from_json(data) for data in content["trials"]]
            told, proposer = int(content["told"]), content["proposer"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{path}: no saved search ({error!r}); delete the file to start anew") from error
        for name, expected in self._identity.items():
            if found[name] != expected:
                raise StateError(
                    f"{path}: {name} is {found[name]} there and {expected} here; "
                    "go on with the settings it was started with, or delete the file to start anew"
                )
        self.state = SearchState(trials, told)
        self.proposer.load_state_dict(proposer)
