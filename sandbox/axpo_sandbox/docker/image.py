"""Make the image that the docker backend runs code in.

    python -m axpo_sandbox.docker.image
    python -m axpo_sandbox.docker.image --debian

builds it from the Dockerfile beside this file; with --debian from Debian's packages and Python's wheels alone, for
engines that reach no image registry (takes root and debootstrap on this machine). What is installed beyond Python is
what code can import, and packages that the sandbox preloads.
"""

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from axpo_sandbox.base import SandboxError, SandboxUnavailable
from axpo_sandbox.docker.config import IMAGE
from axpo_sandbox.docker.engine import Engine
from axpo_sandbox.docker.profiles import USER

PACKAGES = ("numpy", "scipy", "sympy", "pandas", "matplotlib", "pillow")
SUITE = "bookworm"
_BUILD_TIMEOUT_S = 1800
_GLIBCS = ("2_28", "2_27", "2_26", "2_24", "2_17")  # wheels for these, so for a suite's own
_NOT_NEEDED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
_CHUNK_BYTES = 1 << 20


def build(engine: Engine, name: str, base: str | None) -> str:
    """Build the Dockerfile; the image's id. base: instead of the image it names."""
    return engine.build_image(Path(__file__).parent, name, {} if base is None else {"BASE": base})


def build_from_debian(
    engine: Engine, name: str, packages: Sequence[str], suite: str, mirror: str | None
) -> str:
    """Build from Debian's packages and wheels; the image's id. Raises SandboxUnavailable with what went wrong."""
    if shutil.which("debootstrap") is None:
        raise SandboxUnavailable("debootstrap is needed: apt-get install debootstrap, as root")
    with tempfile.TemporaryDirectory(prefix="axpo-image-") as folder:
        root = Path(folder) / "root"
        _do(
            [
                "debootstrap",
                "--variant=minbase",
                "--include=python3",
                suite,
                str(root),
                *([mirror] if mirror else []),
            ]
        )
        if packages:
            _install(root, packages)
        for path in _NOT_NEEDED:
            shutil.rmtree(root / path, ignore_errors=True)
            (root / path).mkdir()
        return engine.import_image(_archive(root), name, [f"USER {USER}", 'CMD ["python3"]'])


def _install(root: Path, packages: Sequence[str]) -> None:
    """Wheels into `root`, by this interpreter's pip for the one in there, compiled by that."""
    (version,) = {path.name.removeprefix("python") for path in (root / "usr/bin").glob("python3.*[0-9]")}
    target = f"usr/local/lib/python{version}/dist-packages"
    machine = platform.machine()
    _do(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-compile",
            ),
            *("--target", str(root / target), "--python-version", version, "--implementation", "cp"),
            *("--only-binary", ":all:"),
            *(f"--platform=manylinux_{glibc}_{machine}" for glibc in _GLIBCS),
            f"--platform=manylinux2014_{machine}",
            *packages,
        ]
    )
    _do(["chroot", str(root), "python3", "-m", "compileall", "-q", f"/{target}"], may_fail=True)


def _archive(root: Path) -> Iterator[bytes]:
    command = ["tar", "--numeric-owner", "-C", str(root), "-c", "."]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        while chunk := tar.stdout.read(_CHUNK_BYTES):
            yield chunk
    if tar.returncode:
        raise SandboxUnavailable(f"{' '.join(command)} failed with status {tar.returncode}")


def _do(command: list[str], *, may_fail: bool = False) -> None:
    """Run a command; its output is shown if it fails. may_fail: one old file in a package does not matter."""
    print("+", " ".join(command), flush=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        said = (done.stdout + done.stderr)[-2000:]
        raise SandboxUnavailable(f"{command[0]} failed with status {done.returncode}: {said}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the image and say how long it took and how big it is. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m axpo_sandbox.docker.image", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--name", default=IMAGE, help="of the image (default: %(default)s)")
    parser.add_argument("--base", help="image to build on, with pip (default: the Dockerfile's)")
    parser.add_argument("--debian", action="store_true", help="use debootstrap and wheels, no image registry")
    parser.add_argument("--suite", default=SUITE, help="of Debian, with --debian (default: %(default)s)")
    parser.add_argument("--mirror", help="of Debian, with --debian (default: debootstrap's own)")
    parser.add_argument(
        "--package", action="append", help="to install, with --debian (default: the usual ones)"
    )
    given = parser.parse_args(arguments)
    start_s = time.monotonic()
    try:
        with Engine(timeout_s=_BUILD_TIMEOUT_S) as engine:
            if given.debian:
                packages = PACKAGES if given.package is None else given.package
                image_id = build_from_debian(engine, given.name, packages, given.suite, given.mirror)
            else:
                image_id = build(engine, given.name, given.base)
            num_bytes = engine.image_bytes(image_id)
    except SandboxError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given.name}: {image_id}, {num_bytes / 1e6:.0f} MB, {time.monotonic() - start_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
