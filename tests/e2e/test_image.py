"""The image, built by buildah and run as it says of itself: by its user, with nothing to write to but /tmp.

Where it is built there need be no registry: the base is a Debian of debootstrap's, and packages come from a
directory that pip filled beforehand, whatever its configuration is. Neither is left in the image.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import exporter
from tests.conftest import REPOSITORY, required
from tests.e2e.programs import alive, ask, free_port, inline, samples, simulated, started, until, write_config
from tests.test_deploy import LOCKS, of, stages

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "IMAGE" not in os.environ, reason="takes two minutes and a Debian mirror: set IMAGE=1"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap and mounts need root"),
]

BASE = "localhost/base"
# What the Dockerfile asks for where nothing else is given, from Debian itself.
((PYTHON, SUITE),) = re.findall(
    r"^ARG PYTHON=python:([\d.]+)-slim-(\w+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE
)
PACKAGES = "python3,python3-venv,ca-certificates"
HOME = "opt/cryptoloot-exporter"
UNCHECKED = (1).to_bytes(4, "little")  # a pyc's flags: by hash, never compared with its source


class Image(NamedTuple):
    """An image: what it says of itself, its layers, and its root file system."""

    config: dict[str, Any]
    layers: list[str]
    root: Path


class Store:
    """Buildah with images of its own, which are gone with it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._flags = (f"--root={home / 'images'}", f"--runroot={home / 'run'}")

    def __call__(self, *arguments: object, seconds: float = 300) -> str:
        return run(required("buildah"), *self._flags, *arguments, seconds=seconds)

    def base(self) -> None:
        """Make an image of a Debian with Python."""
        root = self._home / "debian"
        run(required("debootstrap"), "--variant=minbase", f"--include={PACKAGES}", SUITE, root, seconds=900)
        container = self("from", "scratch")
        self("add", "--quiet", container, root, "/")
        self("config", "--env=PATH=/usr/local/bin:/usr/bin:/bin", container)
        self("commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(root)

    def build(self, checkout: Path, wheels: Path, name: str) -> Image:
        """Build what is checked out there. Docker's format has a place for the health check."""
        flags = ("--isolation=chroot", "--format=docker", "--no-cache", "--timestamp=0", f"--tag={name}")
        given = (f"PYTHON={BASE}", f"VERSION={exporter.__version__}", "REVISION=of-a-test")
        mounts = (f"{wheels}:/wheels:ro", f"{wheels / 'pip.conf'}:/etc/pip.conf:ro")
        arguments = (*(f"--build-arg={each}" for each in given), *(f"--volume={each}" for each in mounts))
        self("build", *flags, *arguments, checkout)
        found = json.loads(self("inspect", "--type=image", name))["Docker"]
        root = Path(self("mount", self("from", name)))
        return Image(found["config"], found["rootfs"]["diff_ids"], root)

    def close(self) -> None:
        self("umount", "--all")
        self("rm", "--all")
        subprocess.run([required("umount"), self._home / "images" / "overlay"], check=False)
        shutil.rmtree(self._home)


def run(*command: object, seconds: float = 60) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=seconds, check=False
    )
    assert 0 == done.returncode, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout.strip()


def filled(wheels: Path) -> Path:
    """Fetch what the locks name, for the base's Python, and say to pip that there is nothing else."""
    how = (f"--dest={wheels}", f"--python-version={PYTHON}", "--quiet")
    what = ("--require-hashes", "--no-deps", "--only-binary=:all:")
    for lock in LOCKS:
        run(sys.executable, "-m", "pip", "download", *how, *what, "-r", REPOSITORY / lock, seconds=300)
    (wheels / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    return wheels


def copied(checkout: Path) -> Path:
    """Copy what is built from, as somebody else would have it: other times, other rights, other caches."""
    names = {path for copy in of(stages()[0], "COPY") for path in copy.split()[:-1]} - {"."}
    checkout.mkdir()
    for source in (REPOSITORY / name for name in (*names, "Dockerfile", ".dockerignore")):
        if source.is_dir():
            unlike = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, checkout / source.name, copy_function=shutil.copyfile, ignore=unlike)
        else:
            shutil.copyfile(source, checkout / source.name)
    for path in checkout.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return checkout


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Image]]:
    """Build the image of this checkout, and again of a copy."""
    home = tmp_path_factory.mktemp("image")
    for tool in ("bwrap", "buildah", "debootstrap"):
        required(tool, "image-tools")  # before anything is begun
    store = Store(home)
    try:
        store.base()
        wheels = filled(home / "wheels")
        checkouts = (REPOSITORY, copied(home / "copy"))
        yield [store.build(each, wheels, f"localhost/built-{n}") for n, each in enumerate(checkouts)]
    finally:
        store.close()


@pytest.fixture
def image(images: list[Image]) -> Image:
    return images[0]


def boxed(image: Image, tmp: Path, *command: str, mounts: dict[Path, str] | None = None) -> tuple[str, ...]:
    """Return what runs a command in the image: by its user, without rights, read-only but for /tmp."""
    config = image.config
    user, group = config["User"].split(":")
    environ = [word for each in config["Env"] for word in ("--setenv", *each.partition("=")[::2])]
    mounted = [word for source, to in (mounts or {}).items() for word in ("--ro-bind", str(source), to)]
    return (
        required("bwrap"), "--ro-bind", str(image.root), "/", "--proc", "/proc", "--dev", "/dev",
        "--bind", str(tmp), "/tmp", *mounted,  # noqa: S108 - it is the test's own
        "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent",
        "--clearenv", *environ, "--chdir", config["WorkingDir"],
        "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups",
        "--no-new-privs", "--bounding-set=-all", *command,
    )  # fmt: skip


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    """Return the /tmp of a container."""
    path = tmp_path / "tmp"
    path.mkdir()
    path.chmod(0o1777)
    return path


def healthy(image: Image, tmp: Path) -> bool:
    """Whether the image's health check is content, in a process of its own."""
    kind, *command = image.config["Healthcheck"]["Test"]
    asked = subprocess.run(boxed(image, tmp, *command), capture_output=True, timeout=30, check=False)
    return (kind, asked.returncode) == ("CMD", 0)


def test_the_demo_runs_in_the_image(image: Image, tmp_path: Path, tmp: Path) -> None:
    """By another user than root and without a file to write, it comes alive and is well."""
    port = free_port()
    address = f"--web.listen-address=0.0.0.0:{port}"
    socket = image.config["Cmd"][-1]
    command = (*image.config["Entrypoint"], "demo", address, socket)
    assert not healthy(image, tmp)
    with started(tmp_path, *boxed(image, tmp, *command)) as program:
        assert until(lambda: alive(port, "healthy", "troubled")), program.err.read_text()
        well = healthy(image, tmp)
        (build,) = [each for each in samples(port) if each.startswith("cryptoloot_exporter_build_info")]

    assert well
    assert 'revision="of-a-test"' in build
    assert f'version="{exporter.__version__}"' in build


def test_the_image_runs_what_is_mounted(image: Image, tmp_path: Path, tmp: Path) -> None:
    """Its own command polls the sites of the config in /etc."""
    port, etc = free_port(), tmp_path / "etc"
    etc.mkdir()
    command = (*image.config["Entrypoint"], *image.config["Cmd"], f"--web.listen-address=127.0.0.1:{port}")
    with simulated("shop") as api:
        write_config(etc, api.port, *inline("shop"))
        mounts = {etc: "/etc/cryptoloot-exporter"}
        with started(tmp_path, *boxed(image, tmp, *command, mounts=mounts)) as program:
            assert until(lambda: alive(port, "shop")), program.err.read_text()
            well = healthy(image, tmp)
            ready = ask(port, "/-/ready").status

    assert (True, 200) == (well, ready)


def test_the_image_installs_and_builds_nothing(image: Image) -> None:
    """Neither pip nor a compiler is in it, nor a trace of where its packages came from."""
    programs = re.compile(r"(pip|easy_install|uv|gcc|cc|c\+\+|make|ld)[\d.-]*")
    found = [
        path
        for where in ("usr/bin", "usr/local/bin", f"{HOME}/bin")
        for path in (image.root / where).glob("*")
        if programs.fullmatch(path.name)
    ]
    modules = [
        path
        for name in ("pip", "setuptools", "ensurepip", "hatchling")
        for path in (image.root / "usr", image.root / HOME)
        for path in path.rglob(name)
        if path.is_dir()
    ]

    assert [] == found + modules
    assert "" == (image.root / "etc" / "pip.conf").read_text()  # the place of a mount
    assert [] == [*(image.root / "wheels").glob("*"), *(image.root / "src").glob("*")]


def test_the_image_starts_from_bytecode(image: Image) -> None:
    """Each module of ours has its bytecode, and none of it holds a time."""
    root = image.root / HOME
    compiled = [*(root / "bytecode").rglob("*.pyc")]
    ours = {path.name.partition(".")[0] for path in compiled if path.parent.name == "exporter"}

    assert {path.stem for path in (REPOSITORY / "exporter").glob("*.py")} == ours
    assert [] == [path for path in compiled if path.read_bytes()[4:8] != UNCHECKED]
    assert [] == [*(root / "lib").rglob("*.pyc")]


def test_the_image_is_built_the_same_twice(images: list[Image]) -> None:
    """A copy of the checkout, with other times and rights, gives the same layers to the byte."""
    first, second = images

    assert first.layers == second.layers
    assert first.root != second.root
