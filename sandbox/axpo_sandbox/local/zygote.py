"""The process all sessions are forked from: started by exec with a clean environment, warm, single-threaded.

It never runs untrusted code itself. It finds the strongest isolation that works here by trying, then
answers each request for a session with a new process tree: a first process that only watches, reaps and decides
on signals (`guard`), and below it the `agent`. It ends when the process that started it does, and everything
with it.
"""

import contextlib
import gc
import importlib
import io
import os
import select
import signal
import socket
import traceback
from typing import Any

from axpo_sandbox.local import confine, figures, guard, hugepages, namespaces
from axpo_sandbox.local.agent import Agent, reseed
from axpo_sandbox.local.processes import kill_descendants
from axpo_sandbox.local.syscalls import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, prctl, syscall
from axpo_sandbox.local.wire import WireError, receive, send

TIERS = ("namespaces", "landlock", "none")


class Zygote:
    """What stays the same for all sessions."""

    def __init__(self, control: socket.socket, trainer_fd: int, run_folder: str) -> None:
        self.control = control
        self.trainer_fd = trainer_fd  # readable once the process that started us has ended
        self.run_folder = run_folder
        self.tier = ""
        self._tree_fd = -1  # our own pid namespace
        self._spare: socket.socket | None = None  # a first process that waits for its session

    def isolate(self, wanted: str) -> dict[str, str]:
        """Enter the strongest tier that works, or the wanted one; returns why the others do not."""
        reasons: dict[str, str] = {}
        for tier in TIERS if wanted == "auto" else (wanted,):
            reason = self._try(tier)
            if not reason:
                self._enter(tier)
                break
            reasons[tier] = reason
        return reasons

    def serve(self) -> None:
        """Answer requests until the other side, or the process that started us, is gone."""
        signal.signal(signal.SIGCHLD, _reap)
        poller = select.poll()
        poller.register(self.control.fileno(), select.POLLIN)
        poller.register(self.trainer_fd, select.POLLIN)
        while True:
            if self._spare is None:
                with contextlib.suppress(OSError):  # too many processes: the request will say so
                    self._spare = self._make_spare()
            ready = [fd for fd, _ in poller.poll()]
            if self.trainer_fd in ready:
                return
            try:
                message, fds = receive(self.control)
                send(self.control, self._start_session(message, fds))
            except (WireError, OSError):
                return

    def _start_session(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Hand a session to its first process. fds: its channel, stdout, stderr, lifeline."""
        try:
            for _ in range(2):  # the spare one may have died, of too little memory for example
                spare, self._spare = self._spare or self._make_spare(), None
                with spare, contextlib.suppress(OSError):
                    send(spare, message, tuple(fds))
                    return {"ok": True}
            return {"failed": "a session's first process died before it began"}
        except OSError as error:
            return {"failed": str(error)}
        finally:
            for fd in fds:
                os.close(fd)

    def _make_spare(self) -> socket.socket:
        """Fork a session's first process ahead of its session; returns what to hand the session over by."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                if self._fork_first() == 0:
                    ours.close()
                    self._run_first(theirs)
            except OSError:
                ours.close()
                raise
        return ours

    def _fork_first(self) -> int:
        """Fork the first process of a new tree."""
        if self.tier != "namespaces":
            return os.fork()
        namespaces.unshare(namespaces.NEWPID)
        child = -1
        try:
            child = os.fork()
        finally:
            if child != 0:  # back to our own tree, or the next fork would belong to that one
                syscall("setns", self._tree_fd, namespaces.NEWPID)
        return child

    def _enter(self, tier: str) -> None:
        self.tier = tier
        if tier == "namespaces":
            confine.leave_machine(self.run_folder)
            self._tree_fd = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        else:
            confine.leave_root(self.run_folder)

    def _run_first(self, handover: socket.socket) -> None:
        """The first process: forks the one that runs code, then watches. Never returns."""
        try:
            self.control.close()
            os.setsid()  # answering code must not cost the zygote and other sessions their share of the processors
            if self.tier == "namespaces":
                namespaces.start_tree()
            else:
                prctl(PR_SET_CHILD_SUBREAPER, 1)
            try:
                message, fds = receive(handover)
            except (WireError, OSError):
                return  # no session came
            handover.close()
            ours, theirs = socket.socketpair()
            if os.fork() == 0:
                ours.close()
                os.close(fds[3])
                os.close(self.trainer_fd)
                if self._tree_fd >= 0:
                    os.close(self._tree_fd)
                self._run_agent(message, fds, theirs)
            prctl(PR_SET_DUMPABLE, 0)  # code would write to what decides about it
            theirs.close()
            for fd in fds[:3]:
                os.close(fd)
            # The kernel reaps for who ignores it. A handler would wait for the next event if a child ended just before
            # a poll, and with it whoever asks how that child ended.
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            guard.watch(fds[3], self.trainer_fd, ours)
            if self.tier != "namespaces":
                kill_descendants(os.getpid())
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)

    def _run_agent(self, message: dict[str, Any], fds: list[int], to_first: socket.socket) -> None:
        """The process that runs code. Never returns."""
        try:
            os.setsid()  # with it comes a group for the scheduler, which no other session shares
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            channel = socket.socket(fileno=fds[0])
            os.dup2(fds[1], 1)
            os.dup2(fds[2], 2)
            os.close(fds[1])
            os.close(fds[2])
            try:
                confined = confine.confine(self.tier, self.run_folder, message)
            except OSError as error:
                send(channel, {"failed": str(error)})
                return
            guard.hand_over(to_first, confined.listener)
            reseed(message["seed"])
            agent = Agent(channel, confined.folders, message["limits"], scoped=confined.scoped)
            send(channel, {"ok": True})
            agent.serve()
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(1)

    def _try(self, tier: str) -> str:
        """Go all the way in a child, session included; returns what went wrong, "" if nothing."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                Zygote(self.control, self.trainer_fd, self.run_folder)._report_trial(tier, writer)
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            said = file.read()
        os.waitpid(child, 0)
        return "" if said == b"works" else said.decode("utf-8", "replace") or "it died"

    def _report_trial(self, tier: str, writer: int) -> None:
        trial = {"limits": confine.TRIAL_LIMITS, "key": 1, "family": "trial"}
        try:
            self._enter(tier)
            child = self._fork_first()
            if child == 0:
                if tier == "namespaces":
                    namespaces.start_tree()
                confine.confine(tier, self.run_folder, trial)
                os.write(writer, b"works")
            else:
                os.waitpid(child, 0)
        except Exception as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())


def preload(names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Import what is to be warm. Returns package -> version, and what is missing -> why."""
    loaded, missing = {}, {}
    for name in names:
        try:
            version = str(getattr(importlib.import_module(name), "__version__", ""))
            _WARMERS.get(name, lambda: None)()
            loaded[name] = version
        except Exception as error:  # a broken package must not keep the others from working
            missing[name] = f"{type(error).__name__}: {error}"
    return loaded, missing


def _warm_matplotlib() -> None:
    """Import pyplot without a display and draw once, so that fonts are known."""
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    pyplot.plot([1])
    pyplot.title("x")
    pyplot.savefig(io.BytesIO())
    pyplot.close("all")
    figures.hook_matplotlib()


def _warm_pillow() -> None:
    """Know every format."""
    importlib.import_module("PIL.Image").init()


_WARMERS = {"matplotlib": _warm_matplotlib, "PIL": _warm_pillow}


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def main(control_fd: int, trainer_fd: int) -> None:
    """Run a zygote on descriptors given by whoever started it; ends when they say so."""
    control = socket.socket(fileno=control_fd)
    os.set_inheritable(control_fd, False)
    os.set_inheritable(trainer_fd, False)
    message, _ = receive(control)
    loaded, missing = preload(message["preload"])
    num_threads = len(os.listdir("/proc/self/task"))
    if num_threads > 1:
        send(
            control,
            {"failed": f"the preloaded packages left {num_threads - 1} threads, which forks would lose"},
        )
        return
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, what forks share
    hugepages.collapse()
    zygote = Zygote(control, trainer_fd, message["run_folder"])
    reasons = zygote.isolate(message["isolation"])
    send(control, {"tier": zygote.tier, "reasons": reasons, "loaded": loaded, "missing": missing})
    if zygote.tier:
        zygote.serve()
