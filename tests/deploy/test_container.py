"""Dockerfile, compose.yaml and the Kubernetes manifests, as far as no container engine is needed.

What an engine would look up is looked up, what it would run is run: paths, commands, ports, users,
configurations. What it alone can do (layers, networks, read-only file systems) is not here.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.worker import DRAIN_S
from tests.support.cli import mailonce
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.need import need, program
from tests.support.process import temporary_folder
from tests.support.sink import Sink

_ROOT = Path(__file__).parents[2]
_DEPLOY = _ROOT / "deploy"
_COMPOSE = yaml.safe_load((_DEPLOY / "compose.yaml").read_text())
_SERVICES: dict[str, dict[str, Any]] = _COMPOSE["services"]
_UID = 10025


def instructions(file: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, continued lines joined, comments left out."""
    text = "\n".join(line for line in file.read_text().splitlines() if line[:1] != "#")
    joined = text.replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in joined.splitlines() if line.strip()]
    pairs = (line.partition(" ") for line in lines)
    return [(name, rest) for name, _, rest in pairs]


_IMAGE = instructions(_DEPLOY / "Dockerfile")


def said(name: str) -> list[str]:
    """Return what the last stage says with an instruction."""
    last = max(i for i, (instruction, _) in enumerate(_IMAGE) if instruction == "FROM")
    return [rest for instruction, rest in _IMAGE[last:] if instruction == name]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((_DEPLOY / "kubernetes" / name).read_text()))


_MANIFESTS = [
    document
    for name in documents("kustomization.yaml")[0]["resources"]
    for document in documents(name)
]


def manifest(kind: str, name: str = "mailonce") -> dict[str, Any]:
    (found,) = (m for m in _MANIFESTS if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


_CONTAINER = manifest("Deployment")["spec"]["template"]["spec"]["containers"][0]


# --- The image ---


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignore = (_ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    sources = [
        source
        for name, rest in _IMAGE
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (_ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source


def test_the_second_stage_builds_nothing_and_is_nobody_special() -> None:
    (user,) = said("USER")
    assert user == f"{_UID}:{_UID}"
    (run,) = said("RUN")
    for command in run.split("&&"):
        assert shlex.split(command)[0] in {"pip", "groupadd", "useradd", "install"}, command
    assert "pip uninstall" in run
    copied = said("COPY")
    assert copied == ["--from=build /opt/mailonce /opt/mailonce"]


def test_each_base_and_each_version_is_named() -> None:
    bases = [rest for name, rest in _IMAGE if name == "FROM"]
    assert all(":" in base for base in bases)
    ours = [service for service in _SERVICES.values() if "image" in service]
    assert all(re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", service["image"]) for service in ours)
    run = " ".join(rest for name, rest in _IMAGE if name == "RUN")
    assert "--require-hashes" in run
    assert "--only-binary :all:" in run
    hashed = (_ROOT / "requirements.lock").read_text()
    assert hashed.count("--hash=sha256:") > 100


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Sink() as sink, running_gateway(settings_for(sink.port)) as running:
        yield running


def test_the_health_check_tells_alive_from_dead(gateway: Gateway) -> None:
    """The very command, with the port of this gateway, and with one that nobody has."""
    (check,) = said("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert "9125" in said("EXPOSE")[0].split()
    for port, expected in ((gateway.http_port, 0), (1, 1)):
        here = [part.replace(":9125/", f":{port}/") for part in command]
        here[0] = sys.executable
        done = subprocess.run(here, capture_output=True, timeout=60, check=False)
        assert done.returncode == expected, done.stderr


def test_the_command_is_one_of_ours() -> None:
    (entry,), (command,) = said("ENTRYPOINT"), said("CMD")
    assert json.loads(entry) == ["mailonce"]
    told = mailonce(*json.loads(command))
    assert told.code == 2, "the configuration is mounted, and not there here"
    assert "/etc/mailonce/config.toml" in told.err


@pytest.mark.tool
def test_postfix_image_has_a_configuration_that_postfix_likes() -> None:
    """And the same guard as the recipe that is proven with a running Postfix."""
    need("postconf:postfix")
    folder = _DEPLOY / "compose/postfix"
    for option in ("-n", "-M", "-P"):
        command = [str(program("postconf")), "-c", str(folder), option]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), option
    recipe = _options(_DEPLOY / "postfix/mx-edge/master.cf", "127.0.0.1:10026")
    image = _options(folder / "master.cf", "0.0.0.0:10026")
    address = _SERVICES["mailonce"]["networks"]["mail"]["ipv4_address"]
    assert image.pop("smtpd_authorized_xclient_hosts") == address
    recipe.pop("smtpd_authorized_xclient_hosts")
    assert image == recipe


def _options(file: Path, service: str) -> dict[str, str]:
    entry = file.read_text().partition(f"\n{service} ")[2]
    lines = [line for line in entry.splitlines()[1:] if not line.startswith("#")]
    own = lines[: next((i for i, line in enumerate(lines) if line[:2] != "  "), len(lines))]
    pairs = (line.replace("  -o ", "").partition("=") for line in own)
    return {name: value for name, _, value in pairs}


# --- Compose ---


def test_compose_mounts_what_is_there() -> None:
    made_by_hand = {_DEPLOY / "compose/secret"}
    for name, service in _SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (_DEPLOY / source).exists(), (name, source)
            else:
                assert source in _COMPOSE["volumes"]
        if "build" in service:
            context = _DEPLOY / service["build"]["context"]
            assert (context / service["build"].get("dockerfile", "Dockerfile")).exists()
        assert set(service["networks"]) <= set(_COMPOSE["networks"])
    for secret in _COMPOSE["secrets"].values():
        assert _DEPLOY / secret["file"] in made_by_hand
    assert "secret" in (_DEPLOY / "compose/.gitignore").read_text().split()


def test_compose_confines_mailonce() -> None:
    service = _SERVICES["mailonce"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN_S + 10
    published = [port for each in _SERVICES.values() for port in each.get("ports", ())]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == ["25:2525"]


@pytest.mark.parametrize("place", ["compose", "kubernetes"])
def test_the_configuration_fits_its_surroundings(place: str) -> None:
    """`mailonce check` takes it, and ports and names are those of the neighbours."""
    if place == "compose":
        text = (_DEPLOY / "compose/config.toml").read_text()
        neighbours = {f"smtp://{name}:10026" for name in _SERVICES}
        listens = {_SERVICES["mailonce"]["ports"][0].rpartition(":")[2]}
        environment = set(_SERVICES["mailonce"]["environment"])
    else:
        text = manifest("ConfigMap")["data"]["config.toml"]
        neighbours = {"smtp://postfix:10026"}
        listens = {str(p["containerPort"]) for p in _CONTAINER["ports"] if p["name"] == "smtp"}
        environment = {each["name"] for each in _CONTAINER["env"]}
    with temporary_folder("config") as folder:
        (folder / "config.toml").write_text(text)
        told = mailonce("check", "--config", folder / "config.toml")
    assert told.code == 0, told.err
    config = tomllib.loads(text)
    assert set(config["downstream"]["servers"]) <= neighbours
    assert {address.rpartition(":")[2] for address in config["listen"]["smtp"]} == listens
    assert config["listen"]["http"].rpartition(":")[2] == "9125"
    assert environment == {"MAILONCE_STORE__SECRET_FILE"}


@pytest.mark.tool
def test_compose_provisions_prometheus_and_grafana() -> None:
    """Prometheus looks where mailonce is, Grafana where Prometheus is, and finds the dashboard."""
    scrape = yaml.safe_load((_DEPLOY / "prometheus/prometheus.yml").read_text())
    (target,) = scrape["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == "mailonce:9125"
    provisioning = _DEPLOY / "grafana/provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    boards = yaml.safe_load((provisioning / "dashboards/mailonce.yml").read_text())
    folder = boards["providers"][0]["options"]["path"]
    mounts = [volume.split(":")[:2] for volume in _SERVICES["grafana"]["volumes"]]
    assert ["./grafana/mailonce.json", f"{folder}/mailonce.json"] in mounts


# --- Kubernetes ---


def test_the_kustomization_has_every_manifest() -> None:
    files = {path.name for path in (_DEPLOY / "kubernetes").glob("*.yaml")}
    assert files - {"kustomization.yaml"} == set(documents("kustomization.yaml")[0]["resources"])
    kinds = {m["kind"] for m in _MANIFESTS}
    assert kinds >= {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap"}


def test_selectors_find_the_pods() -> None:
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        manifest("Deployment")["spec"]["selector"]["matchLabels"],
        manifest("Service")["spec"]["selector"],
        manifest("Service", "mailonce-metrics")["spec"]["selector"],
        manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


def test_ports_have_names_that_exist() -> None:
    names = {port["name"] for port in _CONTAINER["ports"]}
    services = (manifest("Service"), manifest("Service", "mailonce-metrics"))
    used = {port["targetPort"] for service in services for port in service["spec"]["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        used.add(_CONTAINER[probe]["httpGet"]["port"])
    policy = manifest("NetworkPolicy")["spec"]["ingress"]
    used.update(port["port"] for rule in policy for port in rule["ports"])
    assert used == names


def test_probes_ask_what_is_served(gateway: Gateway) -> None:
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert gateway.http(_CONTAINER[probe]["httpGet"]["path"])[0] == 200
    assert _CONTAINER["livenessProbe"]["httpGet"]["path"] == "/healthz", "not the downstream's"
    assert _CONTAINER["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_pods_are_confined_and_end_in_peace() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == _UID
    assert pod["automountServiceAccountToken"] is False
    own = _CONTAINER["securityContext"]
    assert own["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    pause_s = int(_CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause_s + DRAIN_S + 10
    mounts = {mount["name"] for mount in _CONTAINER["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    path = _CONTAINER["env"][0]["value"]
    secret = next(m for m in _CONTAINER["volumeMounts"] if m["name"] == "secret")
    assert path == f"{secret['mountPath']}/store-secret"
    assert "store-secret" in manifest("Secret")["stringData"]
    assert manifest("Service")["spec"]["externalTrafficPolicy"] == "Local"
