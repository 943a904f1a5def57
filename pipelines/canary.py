"""``loopfm canary``: proofs on the real pipeline that nothing leaks, and that a leak would be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from feature_store.config import DatasetConfig, FeatureColumn
from feature_store.spaces import SpaceRecord
from models.feed import FeatureFeed
from models.metrics import Scores, auc, normalized_entropy
from models.vm_score import score_vm
from models.vm_train import train_vm as fit_vm
from pipelines.canary_feed import ShiftedFeed, ShuffledFeed
from pipelines.canary_fm import late_cutoff_gain
from pipelines.config import Arm, ProjectConfig
from pipelines.context import RunContext
from pipelines.digest import digest
from pipelines.errors import StepError
from pipelines.evaluate import ALL_KNOWN
from pipelines.interference import changed_rows, sample_chunks
from pipelines.progress import timed
from pipelines.scoring import score_parts
from pipelines.train_fm import train_fm
from pipelines.train_vm import load_trained, train_vm
from pipelines.vm_rows import feed, pin_rows, vm_inputs
from pipelines.windows import RunWindows
from pipelines.write_range import write_sources, write_space

MIN_POWER = 0.02
MAX_SHUFFLED_GAIN = 0.001
LEAK = "leaked_label"
CANARY_KIND, POWER = "canary", "power_"


@dataclass(frozen=True)
class CanaryResult:
    """What the proofs found.

    ``changed``: per table, rows at or before an instant that changed when everything later became noise.
    ``power``: AUC that each deliberate leak gains over the honest pipeline. ``shuffled_gain``: NE that histories of
    other keys gain over the control. ``generated``: the source is a generated world.
    """

    changed: dict[str, int]
    power: dict[str, float]
    shuffled_gain: float
    generated: bool

    @property
    def problems(self) -> list[str]:
        """Why the proof fails; empty when it holds. Power is demanded of a generated world, elsewhere printed."""
        found = [f"{table}: {rows} rows changed with the future" for table, rows in self.changed.items() if rows]
        if self.generated:
            weak = {leak: gain for leak, gain in self.power.items() if not gain >= MIN_POWER}
            found += [f"leak '{leak}' gains {gain:.4f} AUC < {MIN_POWER}: not seen" for leak, gain in weak.items()]
        if not self.shuffled_gain <= MAX_SHUFFLED_GAIN:
            found.append(f"shuffled histories gain {self.shuffled_gain:.4f} NE > {MAX_SHUFFLED_GAIN} over the control")
        return found


def canary(context: RunContext, windows: RunWindows) -> CanaryResult:
    """Run all proofs over a range; everything is written below the project's own folder ``canary``.

    Raises:
        StepError: a proof failed; the message names each.
    """
    honest = scratch(context, "honest", context.config)
    vertical = context.dataset.heads[0]
    with timed(context.progress, "canary: the honest pipeline"):
        space = run_tables(honest, windows, sample_chunks(windows))
    with timed(context.progress, "canary: non-interference"):
        changed = changed_rows(honest, space, windows)
    power = {}
    for name, gain_of in LEAKS.items():
        with timed(context.progress, f"canary: deliberate leak '{name}'"):
            power[name] = gain_of(honest, space, windows, vertical)
    with timed(context.progress, "canary: histories of other keys"):
        shuffled = shuffled_gain(honest, space, windows, vertical)
    result = CanaryResult(changed, power, shuffled, context.dataset.source.world is not None)
    record(context, result, windows)
    if result.problems:
        raise StepError("; ".join(result.problems))
    return result


def record(context: RunContext, result: CanaryResult, windows: RunWindows) -> None:
    """Log what the proofs found to a run of the project, where reports find the newest."""
    power = {f"{POWER}{name.replace(' ', '_')}": gain for name, gain in result.power.items()}
    found = {"shuffled_gain": result.shuffled_gain, "changed_rows": float(sum(result.changed.values()))}
    tags = {"loopfm.kind": CANARY_KIND, "loopfm.commit": context.commit}
    idempotency = digest("canary", context.config, vars(windows), context.commit)
    with context.registry.run("canary", idempotency, tags) as run_id:
        context.registry.log(run_id, {"problems": len(result.problems)}, power | found)


def scratch(context: RunContext, name: str, config: ProjectConfig) -> RunContext:
    """A context of its own tables, runs and models below ``canary/NAME``: proofs never touch the project's."""
    runs = f"sqlite:///{context.scratch}/canary-{name}.db"
    return replace(context, config=config, root=f"{context.folder}/canary/{name}", tracking_uri=runs)


def run_tables(context: RunContext, windows: RunWindows, chunks: list[list[str]] | None = None) -> SpaceRecord:
    """Source rows to features, with one FM; a call of each step for each of ``chunks``, by default one for all."""
    vm, outputs = set(windows.vm), set(windows.outputs)
    for chunk in chunks or [windows.parts]:
        write_sources(context, chunk, [part for part in chunk if part in vm])
    space = train_fm(context, windows.fm_train, windows.fm_validation)
    for chunk in chunks or [windows.parts]:
        if own := [part for part in chunk if part in outputs]:
            write_space(context, space, own, [part for part in chunk if part in vm])
    return space


def planted_label_gain(honest: RunContext, space: SpaceRecord, windows: RunWindows, vertical: str) -> float:
    """AUC gained by a VM that is given its own label as a request feature."""
    leaky = scratch(honest, "planted", _with_dataset(honest.config, _planted(honest.dataset, vertical)))
    return _arm_auc(leaky, run_tables(leaky, windows), windows, vertical, "base") - _arm_auc(
        honest, space, windows, vertical, "base"
    )


def shifted_histories_gain(honest: RunContext, space: SpaceRecord, windows: RunWindows, vertical: str) -> float:
    """AUC gained by histories that are read as of one partition later: they reach into the future, labels included."""
    grain = honest.dataset.grain
    shifted = honest.dataset.model_copy(update={"lag": honest.dataset.lag - grain})
    leaky = scratch(honest, "shifted", _with_dataset(honest.config, shifted))
    scores = _scores_of(leaky, run_tables(leaky, windows), windows, vertical, lambda own: ShiftedFeed(own, grain))
    return auc(scores.label, scores.p, scores.weight) - _arm_auc(honest, space, windows, vertical, "loopfm")


LEAKS: dict[str, Callable[[RunContext, SpaceRecord, RunWindows, str], float]] = {
    "planted label": planted_label_gain,
    "histories shifted by one partition": shifted_histories_gain,
    "FM trained past its cutoff": late_cutoff_gain,
}


def shuffled_gain(honest: RunContext, space: SpaceRecord, windows: RunWindows, vertical: str) -> float:
    """NE that a LoopFM arm reading other examples' histories gains over the control; at most noise when honest."""
    shuffled = _scores_of(honest, space, windows, vertical, ShuffledFeed)
    control = _arm_ne(honest, space, windows, vertical, "control")
    return control - normalized_entropy(shuffled.label, shuffled.p, shuffled.weight)


def _scores_of(
    context: RunContext,
    space: SpaceRecord,
    windows: RunWindows,
    vertical: str,
    wrong: Callable[[FeatureFeed], FeatureFeed],
) -> Scores:
    """Test scores of a LoopFM arm, trained and scored on feeds that ``wrong`` makes of the honest ones."""
    config = context.config.vm.arm("loopfm")
    pinned = pin_rows(context, space, windows.vm)
    known_at = context.dataset.clock.end(windows.vm_validation[-1])
    train, validation, test = (
        wrong(feed(context, vertical, config, pinned, parts, until))
        for parts, until in ((windows.vm_train, known_at), (windows.vm_validation, known_at), (windows.test, ALL_KNOWN))
    )
    trained = fit_vm(config, vm_inputs(context, vertical, space), train, validation, seed=0)
    return score_vm(trained.artifact, test)


def _planted(dataset: DatasetConfig, vertical: str) -> DatasetConfig:
    label = dataset.labels[dataset.verticals[vertical].label].value
    leak = FeatureColumn(value=f"coalesce(cast(({label}) as float), 0)", kind="numeric")
    own = dataset.verticals[vertical]
    leaky = own.model_copy(update={"features": [*own.features, LEAK]})
    return dataset.model_copy(
        update={"features": {**dataset.features, LEAK: leak}, "verticals": {**dataset.verticals, vertical: leaky}}
    )


def _with_dataset(config: ProjectConfig, dataset: DatasetConfig) -> ProjectConfig:
    return config.model_copy(update={"dataset": dataset})


def _arm_auc(context: RunContext, space: SpaceRecord, windows: RunWindows, vertical: str, arm: Arm) -> float:
    scores = _scores(context, space, windows, vertical, arm)
    return auc(scores.label, scores.p, scores.weight)


def _arm_ne(context: RunContext, space: SpaceRecord, windows: RunWindows, vertical: str, arm: Arm) -> float:
    scores = _scores(context, space, windows, vertical, arm)
    return normalized_entropy(scores.label, scores.p, scores.weight)


def _scores(context: RunContext, space: SpaceRecord, windows: RunWindows, vertical: str, arm: Arm) -> Scores:
    trained = train_vm(context, vertical, space, windows.vm_train, windows.vm_validation, arm=arm, register=False)
    return score_parts(context, vertical, load_trained(context, trained.run_id), space, windows.test, ALL_KNOWN)
