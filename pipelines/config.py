"""One YAML file = one project: data set, FM, VMs, windows and gate, loaded with errors that name the field."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from feature_store.config import AS_WRITTEN, DatasetConfig, Duration, Name, Strict
from models.config import FmConfig, ReaderConfig, VmConfig
from pipelines.config_errors import error_line
from pipelines.errors import ConfigError
from pipelines.recipes import RecipeName, with_recipe
from pipelines.schedule_config import ScheduleConfig

DATA_ROOT_SETTING = "LOOPFM_DATA"
DEFAULT_DATA_ROOT = "../shared/data"
HOME_SETTING = "LOOPFM_HOME"
TRACKING_SETTING = "MLFLOW_TRACKING_URI"
DEFAULT_HOME = ".loopfm"

Arm = Literal[
    "base", "kd", "raw", "counters", "control", "control_kd", "loopfm", "loopfm_kd", "raw_loopfm", "raw_loopfm_kd"
]
KD_ARMS: dict[Arm, Arm] = {
    "kd": "base",
    "control_kd": "control",
    "loopfm_kd": "loopfm",
    "raw_loopfm_kd": "raw_loopfm",
}
"""Arms that distil, and the arm that each is with weight 0."""
ARMS: tuple[Arm, ...] = ("base", "kd", "raw", "counters", "control", "loopfm", "loopfm_kd")
"""What a run compares by default."""
ALL_ARMS: tuple[Arm, ...] = (*ARMS, "control_kd", "raw_loopfm", "raw_loopfm_kd")


Length = Annotated[Duration, Field(gt=0)]
"""Of a window that must hold rows."""


class Windows(Strict):
    """Lengths of the windows of a run, in event-time order; whatever a range has more goes to ``warm_up``.

    The FM trains and validates first; its outputs start after them; then VMs train, validate and are tested.
    """

    fm_train: Length = Field(description="first: the FM trains")
    fm_validation: Length = Field(description="the FM's early stopping; ends at fm_train_cutoff")
    warm_up: Duration = Field(default=0, description="histories fill before any VM reads them")
    vm_train: Length = Field(description="VMs train")
    vm_validation: Length = Field(description="early stopping of the VMs")
    test: Length = Field(description="every arm is measured on the mature partitions of these")
    label_wait: Duration = Field(
        default=0,
        description="last: read by no model, ingested so that the test's late labels are known; only a run needs it",
    )


class RunRange(Strict):
    """Partitions or whole days that ``loopfm run`` covers when --from and --to are not given."""

    first: str
    last: str


class GateConfig(Strict):
    """When a challenger replaces the champion."""

    margin: float = Field(default=0.0, ge=0, description="NE: upper bound of the paired difference must be <= this")
    gauc_margin: float = Field(default=0.005, ge=0, description="gAUC: lower bound of the difference must be >= -this")
    calibration_low: float = Field(default=0.9, gt=0)
    calibration_high: float = Field(default=1.1, gt=0)
    min_positives: int = Field(default=500, ge=1, description="the newest mature partitions hold at least so many")
    bootstrap: int = Field(default=200, ge=50, description="resamples of users")


class VmSettings(Strict):
    """The VM of every vertical and what the arms add to it."""

    recipe: RecipeName | None = Field(
        default=None, description="a named set of the settings below; those given beside it replace the recipe's own"
    )
    base: VmConfig = Field(default=VmConfig(), description="the VM of the arm base")
    loopfm_readers: list[ReaderConfig] = Field(
        default=[ReaderConfig(key="user"), ReaderConfig(key="item")], min_length=1
    )
    raw_readers: list[ReaderConfig] = Field(default=[ReaderConfig(key="user", tokens="raw")], min_length=1)
    kd_weight: float = Field(default=0.3, gt=0, description="distillation in the arms kd and loopfm_kd")
    kd_weights: list[Annotated[float, Field(ge=0)]] = Field(
        default=[], description="weights to try in these arms instead; the lowest validation NE wins, 0 is one of them"
    )
    scheduled_arm: Arm = Field(default="loopfm_kd", description="the arm that a scheduled run trains")

    @model_validator(mode="after")
    def _zero_is_tried(self) -> Self:
        if self.kd_weights and 0 not in self.kd_weights:
            raise ValueError(
                f"kd_weights: got {self.kd_weights}; allowed: none, or a list that holds 0: where distillation hurts, "
                "the choice must be able to leave it out"
            )
        return self

    def weights_to_try(self, arm: Arm) -> list[float]:
        """Weights of distillation that training this arm chooses from; empty where its settings fix the weight."""
        return self.kd_weights if arm in KD_ARMS else []

    def arm(self, arm: Arm) -> VmConfig:
        """Settings of one arm. The control keeps the readers of LoopFM with every FM-derived column removed."""
        both = [*self.loopfm_readers, *self.raw_readers]
        control = [r.model_copy(update={"tokens": "control"}) for r in self.loopfm_readers]
        readers = {
            "raw": self.raw_readers,
            "control": control,
            "control_kd": control,
            "loopfm": self.loopfm_readers,
            "loopfm_kd": self.loopfm_readers,
            "raw_loopfm": both,
            "raw_loopfm_kd": both,
        }.get(arm, [])
        kd = self.kd_weight if arm in KD_ARMS else 0.0
        return self.base.model_copy(update={"readers": readers, "kd_weight": kd, "counters": arm == "counters"})


class ProjectConfig(Strict):
    """Everything that one YAML file declares."""

    dataset: DatasetConfig = Field(description="the data contract")
    windows: Windows = Field(description="lengths of training, validation and test")
    range: RunRange | None = Field(default=None, description="default range of a run; the source's own when absent")
    fm: FmConfig = Field(default=FmConfig(), description="the large model")
    vm: VmSettings = Field(default=VmSettings(), description="the small models")
    gate: GateConfig = Field(default=GateConfig(), description="when a challenger replaces the champion")
    schedule: ScheduleConfig = Field(default=ScheduleConfig(), description="when the scheduler runs what")

    @model_validator(mode="before")
    @classmethod
    def _recipe_is_filled_in(cls, raw: Any) -> Any:
        return with_recipe(raw)

    @model_validator(mode="after")
    def _readers_have_histories(self) -> Self:
        for field in ("loopfm_readers", "raw_readers"):
            for reader in getattr(self.vm, field):
                unknown = [key for key in reader.keys if key not in self.dataset.histories.keys]
                if unknown:
                    raise ValueError(
                        f"vm.{field}: got key {unknown[0]!r}; allowed: a key of dataset.histories.keys,"
                        f" one of {sorted(self.dataset.histories.keys)}"
                    )
        return self

    @model_validator(mode="after")
    def _impressions_are_there(self) -> Self:
        if self.vm.base.within_impression and self.dataset.impression_id is None:
            raise ValueError(
                "vm.base.within_impression: got true; allowed without dataset.impression_id: false; name the column "
                "that tells what was shown together"
            )
        return self

    @model_validator(mode="after")
    def _cadences_have_verticals(self) -> Self:
        unknown = sorted(set(self.schedule.train_vm_own) - set(self.dataset.heads))
        if unknown:
            raise ValueError(
                f"schedule.train_vm_own: got {unknown[0]!r}; allowed: a vertical, one of {sorted(self.dataset.heads)}"
            )
        return self

    @property
    def name(self) -> Name:
        """Name of the data set: the folder of its tables and the prefix of its registered models."""
        return self.dataset.name


def data_root() -> Path:
    """Root of the data sets: LOOPFM_DATA, else ../shared/data."""
    return Path(os.environ.get(DATA_ROOT_SETTING, DEFAULT_DATA_ROOT))


def home() -> str:
    """Folder or URI of all that a run writes: LOOPFM_HOME, else .loopfm."""
    return os.environ.get(HOME_SETTING, DEFAULT_HOME)


def load_config(path: str | Path) -> ProjectConfig:
    """Read and validate one YAML file.

    Raises:
        ConfigError: the file is missing, no YAML, or a field is wrong; the message names file and field, what it got
            and what is allowed.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the path of a YAML file such as conf/demo.yaml"
        ) from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: got {type(raw).__name__}; allowed: a mapping with dataset, windows, fm, vm, gate")
    return parse_config(raw, str(path))


def written_settings(config: ProjectConfig) -> dict[str, Any]:
    """The mapping that ``parse_config`` makes ``config`` of, plain enough for YAML."""
    return config.model_dump(mode="json", exclude_none=True, context=AS_WRITTEN)


def parse_config(raw: dict[str, Any], origin: str) -> ProjectConfig:
    """Validate a mapping; ``origin`` names it in errors."""
    try:
        return ProjectConfig.model_validate(raw, context=AS_WRITTEN)
    except ValidationError as error:
        raise ConfigError("\n".join(error_line(ProjectConfig, origin, p) for p in error.errors())) from error
