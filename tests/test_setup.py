"""What a fresh machine is told, and that the lock and the README's commands hold together."""

import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ["bash", "sed", "head", "dirname", "readlink", "cat", "make", "sh", "env"]
TOOLS += ["sha256sum", "cut", "rm", "mkdir", "ln"]
FITTING_PYTHON = 'case "$2" in *version_info*) echo {minor};; *ensurepip*) exit {venv};; esac'


class Machine:
    """A machine that has only what a test puts on its path."""

    def __init__(self, folder: Path) -> None:
        self.path, self.jvms = folder / "bin", folder / "jvm"
        self.path.mkdir()
        self.jvms.mkdir()
        self.release = folder / "os-release"
        self.release.write_text('ID=debian\nVERSION_ID="13"\n')
        for tool in TOOLS:
            (self.path / tool).symlink_to(str(shutil.which(tool)))

    def command(self, name: str, script: str, folder: Path | None = None) -> None:
        target = (folder or self.path) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"#!/bin/sh\n{script}\n")
        target.chmod(0o755)

    def python(self, name: str, minor: int, *, venv: bool = True) -> None:
        self.command(name, FITTING_PYTHON.format(minor=minor, venv=0 if venv else 1))

    def java(self, version: str, folder: Path | None = None) -> None:
        self.command("java", f"echo 'openjdk version \"{version}\" 2026-04-21' >&2", folder)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.path), "OS_RELEASE": str(self.release), "JVM_FOLDER": str(self.jvms)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    def system(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(ROOT / "scripts/system.sh"), *arguments)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_fitting_machine_is_told_nothing(machine: Machine) -> None:
    machine.python("python3", 11)
    machine.java("17.0.15")
    result = machine.system()
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("release", "packages"),
    [
        ("debian 12", "python3 python3-venv openjdk-17-jre-headless"),
        ("debian 13", "python3 python3-venv default-jre-headless"),
        ("ubuntu 22.04", "python3.11 python3.11-venv openjdk-17-jre-headless"),
        ("ubuntu 24.04", "python3 python3-venv default-jre-headless"),
    ],
)
def test_a_bare_machine_gets_one_line_with_the_packages_of_its_release(
    machine: Machine, release: str, packages: str
) -> None:
    name, version = release.split()
    machine.release.write_text(f'ID={name}\nVERSION_ID="{version}"\n')
    result = machine.system()
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith(f"apt-get install {packages}\n")
    assert machine.system("--packages").stdout.strip() == packages


@pytest.mark.parametrize("release", ["debian 11", "ubuntu 20.04"])
def test_a_release_without_a_fitting_python_is_told_so(machine: Machine, release: str) -> None:
    name, version = release.split()
    machine.release.write_text(f'ID={name}\nVERSION_ID="{version}"\n')
    machine.python("python3", 9)
    result = machine.system()
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    said = f"the packages of {name}-{version} have no fitting Python: install one from python.org, so that"
    assert said in result.stderr
    assert result.stderr.endswith("; install what is missing: apt-get install openjdk-17-jre-headless\n")
    assert machine.system("--packages").stdout.strip() == "openjdk-17-jre-headless"
    machine.java("17.0.15")
    result = machine.system()
    assert result.returncode == 1
    assert "apt-get" not in result.stderr
    machine.python("python3.11", 11)
    assert machine.system().returncode == 0


@pytest.mark.parametrize(
    ("minor", "version", "packages"),
    [
        (10, "17.0.1", "python3 python3-venv"),
        (15, "17.0.1", "python3 python3-venv"),
        (14, "25.0.3", ""),
        (11, "17.0.1", ""),
        (12, "11.0.2", "default-jre-headless"),
        (12, "1.8.0_392", "default-jre-headless"),
        (12, "26", "default-jre-headless"),
        (12, "21", ""),
    ],
)
def test_versions_outside_the_supported_ranges_do_not_fit(
    machine: Machine, minor: int, version: str, packages: str
) -> None:
    machine.python("python3", minor)
    machine.java(version)
    assert machine.system("--packages").stdout.strip() == packages


def test_a_python_without_venv_is_told_its_own_venv_package(machine: Machine) -> None:
    machine.python("python3", 12, venv=False)
    machine.java("21.0.1")
    assert machine.system("--packages").stdout.strip() == "python3.12-venv"


def test_another_fitting_interpreter_is_found(machine: Machine) -> None:
    machine.python("python3", 10)
    machine.command("python3.11", "exit 127")
    machine.python("python3.13", 13)
    machine.java("17.0.1")
    assert machine.system("--python").stdout.strip() == str(machine.path / "python3.13")
    assert machine.system().returncode == 0


def test_an_installed_java_is_found_beside_an_unfitting_default(machine: Machine) -> None:
    machine.python("python3", 12)
    machine.java("11.0.2")
    machine.java("21.0.1", machine.jvms / "java-21" / "bin")
    assert machine.system("--java").stdout.strip() == str(machine.jvms / "java-21")


INSTALLING_PYTHON = """
case "$*" in
*version_info*) echo 12;;
*sys.version*|*--version*) echo "Python 3.12";;
"-m venv"*) mkdir -p .venv/bin; ln -sf "$0" .venv/bin/python;;
*"install uv"*) exit 1;;
"-m "*) echo "$*" >>calls;;
esac"""


def test_a_second_call_reuses_the_environment_until_what_it_was_made_from_changes(
    machine: Machine, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    for name in ("requirements.lock", "pyproject.toml"):
        (checkout / name).write_text("one\n")
    machine.command("python3", INSTALLING_PYTHON)
    machine.java("17.0.1")
    calls, setup = checkout / "calls", str(checkout / "scripts/setup.sh")

    assert machine.run(setup).returncode == 0
    made = calls.read_text()
    assert "-r requirements.lock" in made
    assert "-m feature_store.jars" in made

    again = machine.run(setup)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert calls.read_text() == made

    (checkout / "requirements.lock").write_text("two\n")
    assert machine.run(setup).returncode == 0
    assert calls.read_text().count("-r requirements.lock") == 2


def test_libraries_are_compiled_by_the_installation() -> None:
    mlflow = importlib.util.find_spec("mlflow")
    assert mlflow is not None
    assert mlflow.origin is not None
    # Most of its modules are never imported here: an import would have compiled them too.
    modules = list(Path(mlflow.origin).parent.rglob("*.py"))
    assert len(modules) > 500
    assert [m for m in modules if not Path(importlib.util.cache_from_source(str(m))).exists()] == []


def test_make_adds_no_second_line_and_runs_nothing(machine: Machine) -> None:
    result = machine.run("make", "test")
    assert result.returncode != 0
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "apt-get install python3 python3-venv default-jre-headless" in result.stderr


def test_the_lock_pins_every_dependency_and_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "index-url" not in lock
    requirements = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert all(re.match(r"^[\w.-]+==[^ ]+ ", line) for line in requirements)
    assert lock.count("--hash=sha256:") >= len(requirements)
    locked = {line.split("==")[0] for line in requirements}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    names = {re.split(r"[<>=~! \[]", text)[0].lower() for text in declared}
    assert names <= locked


def test_no_other_lock_is_kept() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert "uv.lock" not in tracked


def test_the_documented_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {t for d in documents for t in re.findall(r"(?:^|`)make ([a-z-]+)", d.read_text(), re.MULTILINE)}
    assert {"demo", "test"} <= named <= targets


def test_scripts_can_be_executed() -> None:
    for script in [ROOT / ".ci/run", *(ROOT / "scripts").glob("*.sh")]:
        assert os.access(script, os.X_OK), script
