import json
import re
import shutil
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from feature_store import commit_lock, object_store, session
from feature_store.store_files import Location
from pipelines import config, servers
from pipelines.orchestration.airflow_api import AirflowApi
from pipelines.orchestration.airflow_env import Site, conf_folder
from tests.pipelines import loop_world
from tests.servers import compose

VALUES = {name: f"value-of-{name.lower()}" for name, (kind, _) in compose.variables().items() if kind == "?"}
STEPS = ["airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "init"]
SECRET = re.compile("PASSWORD|SECRET|KEY")


@pytest.fixture(params=STEPS)
def service_environment(request, monkeypatch):
    found = compose.environment(request.param, VALUES)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def test_the_file_follows_the_schema():
    schema = json.loads((Path(__file__).parent / "compose_spec.json").read_text())
    jsonschema.Draft201909Validator(schema).validate(compose.compose(VALUES))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft201909Validator(schema).validate({"services": {"mlflow": {"imago": "loopfm"}}})


def test_every_secret_is_required_and_none_stands_in_the_file():
    used = compose.variables()
    assert {name for name in used if SECRET.search(name)} <= {name for name, (kind, _) in used.items() if kind == "?"}
    for name, (kind, text) in used.items():
        assert kind == "-" or name in text, f"{name}: the message must name the variable"
    for service in compose.compose()["services"].values():
        for name, value in (service.get("environment") or {}).items():
            assert not SECRET.search(name) or name.endswith("_FILE") or "${" in value, name


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_missing_value_is_named(name):
    with pytest.raises(compose.MissingVariableError, match=name):
        compose.compose({**VALUES, name: ""})


def test_the_example_lists_every_variable_without_a_value():
    assert compose.example_names() == set(compose.variables())
    assert all(line.startswith("#") or line.endswith("=") for line in compose.EXAMPLE.read_text().split("\n") if line)


def test_every_service_has_a_health_check_the_network_and_a_restart_rule():
    for name, service in compose.compose(VALUES)["services"].items():
        assert service["networks"] == ["loopfm"], name
        if name == "init":
            assert service["restart"] == "no"
        else:
            assert service["healthcheck"]["test"], name
            assert service["restart"] == "unless-stopped", name


def test_who_waits_for_whom_exists_and_ports_stay_on_this_machine():
    services = compose.compose(VALUES)["services"]
    for service in services.values():
        for other, condition in service.get("depends_on", {}).items():
            healthy = condition["condition"] == "service_healthy"
            assert ("healthcheck" in services[other]) if healthy else other == "init"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_two_spark_workers():
    assert compose.compose(VALUES)["services"]["spark-worker"]["deploy"]["replicas"] == 2


def test_mounted_files_and_commands_exist():
    for service in compose.compose(VALUES)["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (compose.ROOT / source).exists(), source
        if service.get("build") and "command" in service:
            assert shutil.which(service["command"][0], path=str(Path(sys.executable).parent)), service["command"]


def test_hosts_in_addresses_are_services():
    services = compose.compose(VALUES)["services"]
    for name, service in services.items():
        texts = [*map(str, service.get("environment", {}).values()), *service.get("command", [])]
        hosts = re.findall(r"(?:http|spark|postgresql|postgresql\+psycopg2)://(?:[^@/ ]*@)?([\w.-]+)", " ".join(texts))
        own = ("localhost", "127.0.0.1")
        assert {host for host in hosts if host not in own} <= set(services), name


def test_settings_of_the_project_are_ones_that_the_code_reads():
    sources = [
        path for package in ("dags", "pipelines", "feature_store") for path in (compose.ROOT / package).rglob("*.py")
    ]
    code = "\n".join(path.read_text() for path in sources)
    for name, service in compose.compose(VALUES)["services"].items():
        for setting in service.get("environment", {}):
            assert not setting.startswith("LOOPFM_") or f'"{setting}"' in code, f"{name}: {setting}"


def test_a_backfill_by_hand_finds_this_airflow(monkeypatch):
    for name, value in compose.environment("airflow-scheduler", VALUES).items():
        monkeypatch.setenv(name, value)
    api = AirflowApi.from_environment()
    assert (api.url, api._user, api._password) == (
        "http://airflow-api-server:8080", "admin", "value-of-airflow_admin_password",
    )  # fmt: skip


def test_steps_find_their_tables_lock_models_and_spark(service_environment):
    context = loop_world.context(Path("unused"))
    context.root = config.home()
    assert context.on_s3
    location = Location(f"{context.folder}/tables")
    assert location.spark("examples") == "s3a://loopfm/home/demo/tables/examples"
    assert location.uri("examples") == "s3://loopfm/home/demo/tables/examples"
    assert context.registry.tracking_uri == "http://mlflow:5000"
    assert context.registry.artifact_root == "s3://loopfm/home/artifacts/demo"
    assert service_environment[session.MASTER_SETTING] == "spark://spark-master:7077"
    assert service_environment[commit_lock.LOCK_SETTING].startswith("postgresql://loopfm:value-of-postgres_password@")
    assert object_store.s3a_settings()["spark.hadoop.fs.s3a.endpoint"] == "http://object-store:8333"


def test_airflow_gets_what_a_local_one_gets(service_environment, tmp_path):
    local = Site(tmp_path).environment()
    same = ["CORE__EXECUTOR", "CORE__SIMPLE_AUTH_MANAGER_USERS", "CORE__LOAD_EXAMPLES"]
    for name in same:
        assert service_environment[f"AIRFLOW__{name}"] == local[f"AIRFLOW__{name}"]
    bundles = "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"
    assert json.loads(service_environment[bundles]) == json.loads(local[bundles])
    assert str(conf_folder()) == "/opt/loopfm/conf"


def test_options_of_airflow_exist(service_environment):
    from airflow.configuration import retrieve_configuration_description

    known = retrieve_configuration_description(include_airflow=True, include_providers=False)
    for name in service_environment:
        if name.startswith("AIRFLOW__"):
            _, section, option = name.lower().split("__")
            assert option in known.get(section, {}).get("options", {}), name


def test_the_admins_password_is_written_once_for_its_owner_only(tmp_path):
    file = tmp_path / "airflow" / "passwords.json"
    servers.write_password({servers.ADMIN_PASSWORD_SETTING: "chosen", servers.PASSWORDS_SETTING: str(file)})
    assert json.loads(file.read_text()) == {"admin": "chosen"}
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(config.ConfigError, match=r"AIRFLOW_ADMIN_PASSWORD is not set; see servers/example\.env"):
        servers.write_password({servers.PASSWORDS_SETTING: str(file)})


def test_a_home_without_a_bucket_is_refused():
    assert servers.bucket_of("s3a://tables/home") == "tables"
    with pytest.raises(config.ConfigError, match="LOOPFM_HOME: got s3a:///home"):
        servers.bucket_of("s3a:///home")


def test_the_image_holds_every_package_that_the_services_run():
    copied = set(re.findall(r"^COPY (\w+) \w+$", (compose.ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert copied >= {"dags", "pipelines", "models", "feature_store", "search", "conf", "servers"}
    ignored = (compose.ROOT / ".dockerignore").read_text().split()
    assert not copied & set(ignored)
    assert ".env" in ignored


def test_spark_reads_its_settings_from_the_folder_that_the_services_name():
    folder = compose.environment("airflow-scheduler", VALUES)["SPARK_CONF_DIR"]
    text = (compose.ROOT / Path(folder).relative_to("/opt/loopfm") / "spark-defaults.conf").read_text()
    settings = dict(line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#"))
    workers = compose.compose(VALUES)["services"]["spark-worker"]
    cores = int(workers["environment"]["SPARK_WORKER_CORES"]) * workers["deploy"]["replicas"]
    assert int(settings["spark.sql.shuffle.partitions"]) == cores


def test_yaml_merges_leave_no_service_without_its_image():
    for name, service in yaml.safe_load(compose.FILE.read_text())["services"].items():
        assert service.get("image"), name
