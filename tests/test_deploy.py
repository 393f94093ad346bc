"""What is deployed: the locks, the Dockerfile, the Compose file with what it mounts, the systemd unit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement

from exporter import cli
from tests.conftest import REPOSITORY, required
from tests.test_alerts import told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROGRAM = "cryptoloot-exporter"


def taken(arguments: list[str]) -> Any:
    """Return what the exporter makes of its arguments; it exits where it does not take them."""
    return cli.parser().parse_args(arguments)


# -------------------------------------------------------------------------------------------------- the locks

LOCKS = {
    "requirements.lock": PROJECT["project"]["dependencies"],
    "requirements-build.lock": PROJECT["build-system"]["requires"],
}
ENTRY = re.compile(
    r"^([\w.-]+)==(\S+)(?: ;[^\\\n]*)? \\\n((?: {4}--hash=.*\n)+)((?: {4}#.*\n)*)", re.MULTILINE
)


class Pin(NamedTuple):
    """A package of a lock, how many files of it are known, and who asks for it."""

    version: str
    hashes: int
    via: set[str]


def pins(lock: str) -> dict[str, Pin]:
    return {
        name: Pin(
            version,
            len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", hashes)),
            set(re.findall(r"# +(?:via +)?(?!via$)([a-z][\w.-]*)", via, re.MULTILINE)),
        )
        for name, version, hashes, via in ENTRY.findall((REPOSITORY / lock).read_text())
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_is_what_the_project_asks_for(lock: str) -> None:
    """Each dependency is there in a version that is allowed, and else only what one of them needs."""
    asked = {each.name: each.specifier for each in map(Requirement, LOCKS[lock])}
    pinned = pins(lock)

    assert set(asked) == {name for name, pin in pinned.items() if not pin.via or PROGRAM in pin.via}
    assert [] == [name for name, allowed in asked.items() if pinned[name].version not in allowed]
    assert set() == set().union(*(pin.via for pin in pinned.values())) - {PROGRAM, *pinned}


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_is_hashes_all_the_way(lock: str) -> None:
    """But for how it is made, it says of each package its hashes, and not where it comes from."""
    text = (REPOSITORY / lock).read_text()

    assert "#    make lock\n" == ENTRY.sub("", text).partition("\n")[2]
    assert [] == [name for name, pin in pins(lock).items() if not pin.hashes]
    assert "://" not in text


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_can_be_installed(tmp_path: Path, python: str, machine: str) -> None:
    """Every package has a wheel for each Python and machine: nothing is compiled."""
    uv = shutil.which("uv", path=f"{sys.prefix}/bin") or required("uv")
    where = (f"--target={tmp_path}", f"--python-version={python}")
    how = ("--dry-run", "--no-deps", "--require-hashes", "--only-binary=:all:")
    what = (f"--python-platform={machine}-manylinux_2_28", "-r", str(REPOSITORY / "requirements.lock"))
    said = told(uv, "pip", "install", *how, *where, *what)

    assert f"Would install {len(pins('requirements.lock'))} packages" in said


# --------------------------------------------------------------------------------------------- the Dockerfile

INSTRUCTION = re.compile(r"^([A-Z]+) (.*)$", re.MULTILINE)


def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: list[list[tuple[str, str]]] = []
    for name, rest in INSTRUCTION.findall(re.sub(r" \\\n\s*", " ", text)):
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


def of(stage: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for each, rest in stage if each == name]


def test_the_image_starts_as_it_should() -> None:
    """It runs on the config in /etc, as a user by number; the health check asks the socket that it opens."""
    last = stages()[-1]
    (entry,), (command,) = map(json.loads, of(last, "ENTRYPOINT")), map(json.loads, of(last, "CMD"))
    health = json.loads(of(last, "HEALTHCHECK")[0].partition("CMD ")[2])
    run, asked = taken(command), taken(health[1:])

    assert [[PROGRAM], PROGRAM] == [entry, health[0]]
    assert ["run", f"/etc/{PROGRAM}/config.yaml"] == [command[0], str(run.config_file)]
    assert asked.web_health_socket == run.web_health_socket
    assert str(run.web_health_socket).startswith("/tmp/")  # noqa: S108 - what is writable in a read-only container
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", of(last, "USER")[-1])


def test_the_image_has_its_labels() -> None:
    """Title, licence, version and revision are where registries look for them."""
    labels = set(re.findall(r"org\.opencontainers\.image\.([\w.]+)=", of(stages()[-1], "LABEL")[0]))

    assert {"title", "description", "licenses", "version", "revision", "base.name"} == labels


def test_whatever_is_installed_is_known() -> None:
    """Pip takes packages by hash or takes none from outside; the last stage installs nothing."""
    build, last = stages()
    installs = [
        part for run in of(build, "RUN") for part in run.split(" && ") if re.search(r"\binstall\b", part)
    ]

    assert 3 == len(installs)
    assert [] == [part for part in installs if "--require-hashes" not in part and "--no-index" not in part]
    assert [] == [part for part in installs if "--no-deps" not in part]
    assert [] == [run for run in of(last, "RUN") if "install" in run or "apt" in run]
    assert ["--from=build"] == [copy.split()[0] for copy in of(last, "COPY")]


def test_nothing_that_installs_is_left_in_the_image() -> None:
    """The last stage removes what its base has of it, and its environment is made without."""
    build, last = stages()
    removed = set(re.findall(r"-name '?([\w-]+)", " ".join(of(last, "RUN"))))

    assert {"pip", "ensurepip", "setuptools", "wheel"} <= removed
    assert any("venv --without-pip ${VENV}" in run for run in of(build, "RUN"))


def test_the_build_is_given_what_the_wheel_is_made_of() -> None:
    """Each path that pyproject.toml names is copied, and let through by .dockerignore."""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    named = {path.partition("/")[0] for path in (*wheel["packages"], *wheel["shared-data"])}
    named |= {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    copied = {
        path.strip("./") for copy in of(stages()[0], "COPY") for path in copy.split()[:-1] if path[0] != "-"
    }
    lets = {
        line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }

    assert named | set(LOCKS) == copied
    assert copied == lets


# ------------------------------------------------------------------------------------------- the Compose file

COMPOSE = REPOSITORY / "deploy" / "compose"
SERVICES: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]


def mounts(service: dict[str, Any]) -> Iterator[tuple[Path, str, str]]:
    """Go through what is mounted from the repository: from where, to where, and how."""
    for volume in service.get("volumes", ()):
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            yield COMPOSE / source, target, "".join(mode)


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_no_more_than_they_need(name: str) -> None:
    """Read-only, without capabilities, reachable by this machine alone, with a health check."""
    service = SERVICES[name]

    assert service["read_only"]
    assert [["ALL"], ["no-new-privileges:true"]] == [service["cap_drop"], service["security_opt"]]
    assert [] == [port for port in service["ports"] if not re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)]
    assert "CMD" == service["healthcheck"]["test"][0]
    assert {"interval", "timeout", "start_period"} < set(service["healthcheck"])


@pytest.mark.parametrize("name", SERVICES)
def test_images_do_not_move(name: str) -> None:
    """Each is a whole version, or built from this checkout."""
    service = SERVICES[name]

    assert "build" in service or re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    """Each file is in the repository, and only read."""
    mounted = list(mounts(SERVICES[name]))

    assert [] == [source for source, _, mode in mounted if not source.exists() or mode != "ro"]


@pytest.mark.parametrize(("secret", "command"), [("", "demo"), ("s3cret", "run")])
def test_a_secret_is_all_that_a_real_account_takes(tmp_path: Path, secret: str, command: str) -> None:
    """Without one it is the demo, with one it is the account's; the secret is in no argument."""
    exporter = SERVICES["exporter"]
    fake = tmp_path / PROGRAM
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    started = [word.replace("$$", "$") for word in (*exporter["entrypoint"], *exporter["command"])]
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CRYPTOLOOT_SECRET": secret}
    said = subprocess.run(started, env=environ, capture_output=True, text=True, check=True).stdout.split()
    asked = taken(exporter["healthcheck"]["test"][2:])

    assert command == said[0]
    assert (["0.0.0.0:12758"], asked.web_health_socket) == (
        taken(said).web_listen_address,
        taken(said).web_health_socket,
    )
    assert ["CRYPTOLOOT_SECRET"] == exporter["environment"]
    assert {"context"} == set(exporter["build"])


@pytest.fixture
def laid(tmp_path: Path) -> Path:
    """Lay what the services mount as they see it, in one tree."""
    for service in SERVICES.values():
        for source, target, _ in mounts(service):
            place = tmp_path / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(source)
    return tmp_path


def test_prometheus_takes_its_config(laid: Path) -> None:
    """Promtool finds the rules beside it; targets and Alertmanager are services of this file."""
    config = laid / "etc/prometheus/prometheus.yml"
    said = told(required("promtool"), "check", "config", str(config))
    hosts = re.findall(r"targets: \[\"(\w+):(\d+)\"\]", config.read_text())

    assert "2 rule files found" in said
    assert [("alertmanager", "9093"), ("exporter", "12758")] == hosts
    assert [] == [host for host, port in hosts if f"127.0.0.1:{port}:{port}" not in SERVICES[host]["ports"]]


def test_alertmanager_takes_its_config(laid: Path) -> None:
    """Amtool has nothing to say; but for the receivers it is the example that the alerts are tested with."""
    config = laid / "etc/alertmanager/alertmanager.yml"
    said = told(required("amtool"), "check-config", str(config))
    ours, example = (
        yaml.safe_load(path.read_text())
        for path in (config, REPOSITORY / "alerts" / "alertmanager.example.yml")
    )
    names = [[each["name"] for each in document.pop("receivers")] for document in (ours, example)]

    assert "SUCCESS" in said
    assert example == ours
    assert names[0] == names[1]


def test_grafana_finds_its_source_and_dashboards(laid: Path) -> None:
    """The source is Prometheus' service, with its interval; dashboards lie where they are looked for."""
    provisioning = laid / "etc/grafana/provisioning"
    sources, providers = (
        yaml.safe_load((provisioning / kind / "cryptoloot.yml").read_text())
        for kind in ("datasources", "dashboards")
    )
    (source,), (provider,) = sources["datasources"], providers["providers"]
    every = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["global"]["scrape_interval"]
    boards = list((laid / provider["options"]["path"].lstrip("/")).glob("*.json"))
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert ("http://prometheus:9090", every) == (source["url"], source["jsonData"]["timeInterval"])
    assert 3 == len(boards)
    assert laid / home.lstrip("/") in boards


# ------------------------------------------------------------------------------------------- the systemd unit

SYSTEMD = REPOSITORY / "deploy" / "systemd"
UNIT = SYSTEMD / "cryptoloot-exporter.service"


def settings() -> dict[str, str]:
    """Return the unit's settings; of those that stand several times, the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say of it once the program is where it looks."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(f"/opt/{PROGRAM}/bin/{PROGRAM}", sys.executable))

    said = told(required("systemd-analyze"), "verify", "--man=no", str(unit))

    assert [] == [line for line in said.splitlines() if UNIT.name in line]  # others are this machine's


def test_the_unit_is_as_safe_as_it_says() -> None:
    """What `systemd-analyze security` thinks of it is no worse than README beside it says."""
    said = told(required("systemd-analyze"), "security", "--offline=true", "--no-pager", str(UNIT))
    (stated,) = re.findall(r"gives it (\d\.\d) of 10", (SYSTEMD / "README.md").read_text())
    (found,) = re.findall(r"Overall exposure level for .*: (\d\.\d)", said)

    assert float(stated) >= float(found)


def test_the_unit_starts_the_exporter() -> None:
    """Its flags are ours, its socket has its own directory, its secret is a credential, HUP reloads."""
    found = settings()
    program, *arguments = found["ExecStart"].replace("%t", "/run").split()
    secret = found["LoadCredential"].partition(":")[0]

    assert f"/opt/{PROGRAM}/bin/{PROGRAM}" == program
    assert f"/run/{found['RuntimeDirectory']}/health.sock" == str(taken(arguments).web_health_socket)
    assert f"CRYPTOLOOT_SECRET_FILE=%d/{secret}" in found["Environment"].split()
    assert "kill -HUP $MAINPID" == found["ExecReload"]
    assert str(cli.MISUSED) == found["RestartPreventExitStatus"]
