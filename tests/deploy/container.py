"""What a container engine does, as far as Linux alone can: building the image, and running it locked down.

An image is a folder with the tree that the Dockerfile's instructions make; a command runs in it as the
root of its own mount and process namespaces. In place of the base image stand this machine's own libraries
and programs, mounted read-only, and a fresh virtual environment of the Python that runs the tests, so that
`python` and `pip` are there as in the base image. Everything else happens as written, at the same paths.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.dockerfile import Instruction, is_left_out, read, stages
from tests.tools import skip_without

BASE = "/base"
BASE_PATH = f"{BASE}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FOR_NETWORK_AND_SHELL = (
    "alternatives", "ca-certificates.conf", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "nsswitch.conf", "pip.conf", "pki", "resolv.conf", "ssl",
)  # fmt: skip
_DEVICES = ("full", "null", "random", "urandom", "zero")
_PASSED_ON = ("PIP_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""What a build takes from outside: by which way pip gets to the package index."""

_ENTER = """
root=$1; mode=$2; directory=$3; shift 3
mount --bind "$root" "$root"
for place in $MOUNTED; do
    mount --bind "$place" "$root$place"
    case $place in /dev/*) ;; *) mount -o remount,bind,ro "$root$place" ;; esac
done
mount -t proc -o ro proc "$root/proc"
if [ "$mode" = locked ]; then
    mount -o remount,bind,ro "$root"
    set -- setpriv --reuid="$RUN_AS" --regid="$RUN_IN" --clear-groups --no-new-privs \
        --inh-caps=-all --bounding-set=-all "$@"
fi
exec env -u MOUNTED -u RUN_AS -u RUN_IN chroot "$root" env --chdir="$directory" "$@"
"""


@dataclass
class Image:
    """What a stage has made: a tree, and what its instructions say of running it."""

    root: Path
    environment: dict[str, str]
    directory: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    health_flags: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    ports: list[str] = field(default_factory=list)

    def build_step(self, command: Sequence[str]) -> None:
        """Run a command as root in the writable tree; its output is shown only if it fails."""
        outside = {name: value for name, value in os.environ.items() if name.upper().startswith(_PASSED_ON)}
        done = subprocess.run(
            self._enter("open", command),
            env=outside | self.environment | self._mounts() | {"HOME": "/root"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-3000:]}"

    def start(
        self, command: Sequence[str], settings: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a command as a container does: its user, no capability, a read-only root, process 1.

        `pid_of` gives the process itself; what it writes goes to the log.
        """
        user, _, group = self.user.partition(":")
        with log.open("wb") as output:
            return subprocess.Popen(
                self._enter("locked", command),
                env=self.environment | self._mounts() | {"RUN_AS": user, "RUN_IN": group, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def run(self, command: Sequence[str], settings: Mapping[str, str], log: Path) -> tuple[int, str]:
        """Run a command to its end in the same way. Return its exit status and what it wrote."""
        process = self.start(command, settings, log)
        return process.wait(30), log.read_text(errors="replace")

    def _enter(self, mode: str, command: Sequence[str]) -> list[str]:
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return [*namespaces, "sh", "-ec", _ENTER, "sh", str(self.root), mode, self.directory, *command]

    def _mounts(self) -> dict[str, str]:
        return {"MOUNTED": " ".join([*_base_folders(), *(f"/dev/{name}" for name in _DEVICES)])}


def need_namespaces() -> None:
    """Skip if no command can be given a root of its own; in CI that is a failure."""
    programs = ("unshare", "setpriv", "mount", "chroot")
    if os.geteuid() != 0 or not all(shutil.which(name) for name in programs):
        skip_without("running the image without a container engine takes Linux and root")
    probe = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "mount", "-t", "tmpfs", "none", "/mnt"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        skip_without("this machine allows no mounts, so the image can't be run without a container engine")


def build(dockerfile: Path, context: Sequence[str], folder: Path) -> Image:
    """Build the image as written, from those files of the Dockerfile's folder that .dockerignore lets in."""
    ignored = dockerfile.with_name(".dockerignore").read_text(encoding="utf-8")
    files = [path for path in context if not is_left_out(path, ignored)]
    first, *parts = stages(read(dockerfile.read_text(encoding="utf-8")))
    defaults = {name: value for each in first for name, value in each.pairs({}).items()}
    made: dict[str, Image] = {}
    image = None
    for part in parts:
        words = part[0].arguments
        image = _from_base(folder / f"stage-{len(made)}")
        made[words[-1] if len(words) == 3 else ""] = image
        values = dict(defaults)
        for instruction in part[1:]:
            _follow(image, instruction, values, (dockerfile.parent, files), made)
    assert image is not None
    return image


def _follow(
    image: Image,
    step: Instruction,
    values: dict[str, str],
    context: tuple[Path, Sequence[str]],
    made: Mapping[str, Image],
) -> None:
    match step.name:
        case "RUN":
            image.build_step(step.command())
        case "COPY":
            *sources, target = step.arguments
            if "from" in step.flags:
                origin = made[step.flags["from"]].root
                shutil.copytree(f"{origin}{sources[0]}", f"{image.root}{target}", symlinks=True)
            else:
                _copy(sources, image.root / image.directory.strip("/") / target, *context)
        case "WORKDIR":
            image.directory = step.text
            (image.root / step.text.strip("/")).mkdir(parents=True, exist_ok=True)
        case "ENV":
            image.environment |= step.pairs(image.environment)
        case "ARG":
            values |= step.pairs(values)
        case "LABEL":
            image.labels |= step.pairs(values)
        case _:
            _describe(image, step)


def _describe(image: Image, step: Instruction) -> None:
    """Record what an instruction says of running the image."""
    match step.name:
        case "USER":
            image.user = step.text
        case "EXPOSE":
            image.ports += step.arguments
        case "STOPSIGNAL":
            image.stop_signal = step.text
        case "HEALTHCHECK":
            image.health, image.health_flags = step.command(), step.flags
        case "ENTRYPOINT":
            image.entrypoint = step.command()
        case "CMD":
            image.command = step.command()
        case other:
            raise AssertionError(f"{other} is more than these tests understand")


def _copy(sources: Sequence[str], target: Path, folder: Path, files: Sequence[str]) -> None:
    """Copy files into a folder, and what is in a folder into the target itself."""
    for source in sources:
        found = [path for path in files if path == source or path.startswith(f"{source}/")]
        assert found, f"COPY {source}: there is no such file, or .dockerignore leaves it out"
        for path in found:
            goal = target / (Path(path).relative_to(source) if path != source else Path(path).name)
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / path, goal)


def _from_base(root: Path) -> Image:
    """Make a tree that stands in for the base image."""
    for place in _base_folders():
        (root / place.strip("/")).mkdir(parents=True)
    for name in ("dev", "etc", "opt", "proc", "root", "tmp"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in _DEVICES:
        (root / "dev" / name).touch()
    for link in (place for place in Path("/").iterdir() if place.is_symlink()):
        (root / link.name).symlink_to(link.readlink())  # /bin, /lib and so on, into /usr
    for name in _FOR_NETWORK_AND_SHELL:
        source = Path("/etc", name)
        with suppress(FileNotFoundError):
            if source.is_dir():
                shutil.copytree(source, root / "etc" / name, symlinks=True)
            else:
                shutil.copy(source, root / "etc" / name)
    image = Image(root, {"PATH": BASE_PATH})
    image.build_step([_python(), "-m", "venv", BASE])
    return image


def _base_folders() -> list[str]:
    folders = [f"/{name}" for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")]
    there = [place for place in folders if Path(place).is_dir() and not Path(place).is_symlink()]
    return there if sys.base_prefix.startswith("/usr") else [*there, sys.base_prefix]


def _python() -> str:
    return f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
