"""Where attacks are made: a sandbox, and around it what they are after, planted and watched from the trusted side.

Nothing here is worth attacking: secrets are random, victims are processes that sleep, listeners are on loopback.
What is attacked is left to the families' modules.
"""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from axpo_sandbox import Execution, Limits, Sandbox, Session, make_sandbox
from benchmarks.attacks.corpus import Outcome, held, skipped, succeeded
from benchmarks.attacks.plain import PlainSandbox

# Small, so that going past them is cheap: an attack stops as soon as it has shown that it can.
LIMITS = Limits(
    timeout_s=20.0,
    memory_bytes=256 << 20,
    num_processes=24,
    num_open_files=128,
    file_bytes=8 << 20,
    workdir_bytes=16 << 20,
    output_bytes=64 << 10,
    num_images=4,
    image_pixels=250_000,
)
TOTAL_MEMORY_BYTES = 1 << 30
TOTAL_PROCESSES = 400
PRELOAD = ("numpy", "matplotlib", "PIL")
SECRET_NAME = "AXPO_ATTACK_SECRET"
DAEMON_S = 60  # how long what escapes would live

# What every cell finds. `won` is what the judge looks for; its token is in no source text that could be echoed.
PRELUDE = """
import ctypes, os, sys
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
def won(detail=""):
    print(TOKEN[::-1], detail, flush=True)
def call(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
def syscall(number, *arguments):
    wide = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    return call(LIBC.syscall(ctypes.c_long(number), *wide))
def attempt(function):
    try:
        if function() is not False:
            won()
    except Exception as error:
        print("failed:", type(error).__name__, error, flush=True)
def in_child(function):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, b"0" if function() is False else b"1")
        except BaseException as error:
            os.write(writer, f"failed: {type(error).__name__} {error}".encode()[:200])
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 300)
    os.waitpid(child, 0)
    os.close(reader)
    if said == b"1":
        won()
    else:
        print(said.decode("utf-8", "replace"), flush=True)
"""


class Arena:
    """One sandbox and what is planted around it. Use `open_arena`."""

    def __init__(self, make: Callable[[], Sandbox], folder: Path) -> None:
        """make: starts the sandbox. folder: empty, for what is planted; it becomes the working directory."""
        self.folder = folder
        self.secret = secrets.token_hex(16)
        os.environ[SECRET_NAME] = self.secret
        self.secret_file = self._plant(folder / "data" / "secret.txt")
        self.ssh_key = self._plant(folder / "home" / ".ssh" / "id_ed25519", mode=0o600)
        self.cwd_file = self._plant(folder / "cwd" / "secret.txt")
        os.chdir(folder / "cwd")
        # In the open so that nothing but the sandbox stands in the way.
        for path in (folder, folder / "data", folder / "cwd"):
            path.chmod(0o777)
        self.in_memory = ctypes.create_string_buffer(self.secret.encode())
        hidden = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the arena
        hidden.write(self.secret.encode())
        hidden.flush()
        os.set_inheritable(hidden.fileno(), True)
        self.hidden = hidden
        self._opened = os.open(folder / "data", os.O_RDONLY)
        os.set_inheritable(self._opened, True)
        self.line, theirs = socket.socketpair()  # a connection of ours that would be handed down
        os.set_inheritable(theirs.fileno(), True)
        self._theirs = theirs
        self.make = make
        self.sandbox = make()
        self.longest_beyond_s = 0.0  # that a call took beyond its time-out
        self.victims: list[subprocess.Popen[bytes]] = []

    def _plant(self, path: Path, mode: int = 0o644) -> Path:
        path.parent.mkdir(parents=True)
        path.write_text(self.secret)
        path.chmod(mode)
        return path

    @property
    def address(self) -> int:
        """Where in this process's memory the secret lies."""
        return ctypes.addressof(self.in_memory)

    def session(self, **changes: Any) -> Session:
        """A new session with the arena's limits, changed."""
        return self.sandbox.session(limits=Limits.of(changes, LIMITS))

    def run(
        self, session: Session, code: str, values: Mapping[str, Any] | None = None, timeout_s: float = 20.0
    ) -> tuple[Execution, bool]:
        """Run a cell after the prelude; what came of it, and whether it said that it won."""
        token = secrets.token_hex(12)
        lines = [f"{name} = {value!r}" for name, value in {"TOKEN": token[::-1], **(values or {})}.items()]
        start_s = time.monotonic()
        execution = session.run("\n".join([*lines, PRELUDE, code]), timeout_s=timeout_s)
        self.longest_beyond_s = max(self.longest_beyond_s, time.monotonic() - start_s - timeout_s)
        return execution, token in execution.stdout

    def attack_cell(
        self, code: str, values: Mapping[str, Any] | None = None, timeout_s: float = 20.0, **limits: Any
    ) -> Outcome:
        """An attack that is one cell of a fresh session: it succeeded if the cell says so, or shows the secret."""
        with self.session(**limits) as session:
            execution, won = self.run(session, code, values, timeout_s)
        return self.judge(execution, won)

    def judge(self, execution: Execution, won: bool) -> Outcome:
        """What a cell that was to say it, or to show the secret, came to."""
        error = execution.error
        shown = (
            execution.stdout,
            execution.stderr,
            execution.text,
            error and error.value,
            error and error.traceback,
        )
        if any(self.secret in part for part in shown if part):
            return succeeded("the secret came back")
        last = (execution.stdout.strip().splitlines() or [""])[-1]
        if won:
            return succeeded(last.partition(" ")[2] or "it worked")
        if last.startswith("not applicable: "):
            return skipped(last.removeprefix("not applicable: "))
        return held(f"{error.name}: {error.value}" if error else last or "nothing came of it")

    @contextlib.contextmanager
    def victim(self) -> Iterator[subprocess.Popen[bytes]]:
        """A process of the trusted side's user that only sleeps."""
        process = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End the sandbox and let go of what was planted."""
        self.sandbox.close()
        self.hidden.close()
        os.close(self._opened)
        self.line.close()
        self._theirs.close()
        os.environ.pop(SECRET_NAME, None)

    def is_sound(self) -> str:
        """Whether a new session still works; "" if so, else what is wrong. A broken sandbox is replaced."""
        try:
            with self.session() as session:
                result = session.run("40 + 2", timeout_s=30)
                if result.text == "42":
                    return ""
                trouble = f"a new session answered {result}"
        except Exception as error:
            trouble = f"no new session works: {type(error).__name__}: {error}"
        with contextlib.suppress(Exception):
            self.sandbox.close()
        self.sandbox = self.make()
        return trouble


@contextlib.contextmanager
def open_arena(backend: str, tier: str = "", **options: Any) -> Iterator[Arena]:
    """An arena around sandbox `backend`, or around no sandbox if that is "plain".

    tier: of the local backend. options: further ones of the backend. Raises what `make_sandbox` raises.
    """

    def make() -> Sandbox:
        if backend == "plain":
            return PlainSandbox()
        own: dict[str, Any] = {"quiet": True, "preload": PRELOAD}
        if backend in ("local", "docker"):
            own |= {"total_memory_bytes": TOTAL_MEMORY_BYTES, "total_processes": TOTAL_PROCESSES}
        if backend == "local":
            own |= {"isolation": tier or "auto", "allow_unisolated": tier == "none"}
        return make_sandbox(backend, **{**own, **options})

    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="axpo-attacks-", ignore_cleanup_errors=True) as folder:
        arena = Arena(make, Path(folder))
        try:
            yield arena
        finally:
            arena.close()
            os.chdir(before)


def received(listener: socket.socket, patience_s: float = 0.5) -> bool:
    """Whether anything reaches a socket that waits."""
    listener.settimeout(patience_s)
    try:
        if listener.type == socket.SOCK_STREAM:
            listener.accept()[0].close()
            return True
        return bool(listener.recv(64))
    except OSError:
        return False


def processes_called(marker: str) -> list[int]:
    """Processes of this machine whose command line holds `marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def outlives(marker: str, patience_s: float = 2.0) -> bool:
    """Whether a process called `marker` is still there after a while; it is ended then."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if not processes_called(marker):
            return False
        time.sleep(0.05)
    for pid in processes_called(marker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return True


def eventually(condition: Callable[[], bool], patience_s: float = 2.0) -> bool:
    """Whether it comes true before patience ends."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def python_command(code: str) -> list[str]:
    """How to run `code` in a bare interpreter on the trusted side."""
    return [sys.executable, "-I", "-S", "-c", code]
