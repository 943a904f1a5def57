"""Changed projects and their workspaces."""

from pathlib import Path

import pytest

from benchmarks.harness import CONF, BenchmarkError, Report
from benchmarks.projects import ProjectSettings, changed, command_environment, workspace
from pipelines.config import load_config
from pipelines.errors import ConfigError


def test_changes_reach_nested_settings_and_leave_the_rest():
    raw = {"a": {"b": 1, "c": 2}, "d": 3}
    assert changed(raw, ["a", "b"], 5) == {"a": {"b": 5, "c": 2}, "d": 3}
    assert changed(raw, ["a", "c"], None) == {"a": {"b": 1}, "d": 3}
    assert changed(raw, ["e", "f"], 1) == {**raw, "e": {"f": 1}}
    assert raw == {"a": {"b": 1, "c": 2}, "d": 3}


def test_nothing_can_be_set_below_a_value():
    with pytest.raises(BenchmarkError, match="changes: d holds 3"):
        changed({"d": 3}, ["d", "e"], 1)


def test_a_changed_project_is_validated():
    settings = ProjectSettings(base="conf/demo.yaml", changes={"dataset.grain": "1h"})
    assert settings.load().dataset.grain == 3_600_000
    assert settings.load({"dataset.grain": "12h"}).dataset.grain == 12 * 3_600_000
    with pytest.raises(ConfigError, match="grain"):
        settings.load({"dataset.grain": "7m"})


def test_a_workspace_holds_its_project_for_commands_and_is_removed():
    config = ProjectSettings(base="conf/demo.yaml", changes={"dataset.name": "other"}).load()
    with workspace(config, Report("size")) as context:
        folder = Path(context.root)
        assert load_config(context.origin) == config
        assert command_environment(context)["LOOPFM_HOME"] == str(folder)
        assert context.store.root.startswith(str(folder))
    assert not folder.exists()


def benchmark_of(path):
    """The module whose settings a file holds: its own name, less any suffix of a variant."""
    names = {module.stem for module in CONF.parent.glob("*.py")}
    return max((name for name in names if path.stem == name or path.stem.startswith(f"{name}_")), key=len)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_settings_of_every_benchmark_are_valid(path):
    from importlib import import_module

    from benchmarks.harness import load_settings

    settings = load_settings(import_module(f"benchmarks.{benchmark_of(path)}").SETTINGS, path)
    project = getattr(settings, "project", None)
    if isinstance(project, ProjectSettings):
        project.load()
