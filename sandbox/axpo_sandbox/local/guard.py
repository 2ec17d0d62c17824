"""Whom code may signal: decided by the first process of its tree, which the filter asks about each such call.

A branch is a process that is registered as leading one (the session's first agent, each frozen or live fork) and what
runs below it, down to the next one that is registered. Code may signal its own branch: not what was frozen or
branched off it, although that runs below it, too. Nothing of this trusts the agents, which code can take over: the
trusted side registers them, when their numbers cannot become others' any more.

A new session of processes (setsid) is a share of the processors of its own, so a branch has but a few.
"""

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import time
from dataclasses import dataclass

from axpo_sandbox.local.processes import process_of, stat_of
from axpo_sandbox.local.syscalls import NUMBERS

# What the trusted side sends over the lifeline, and what it gets.
REGISTRATION = struct.Struct("=Ii?")  # request, process as its tree counts, whether it is frozen
REGISTERED = struct.Struct("=I?")  # request, whether it was taken
MAX_SESSIONS = 4  # of processes, beside the one its leader leads

_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_...
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, thread, flags; call, machine, instruction, arguments
_RESPONSE = struct.Struct("=QqiI")  # id, value, error, flags
_CONTINUE = 1
_MAX_DEPTH = 10_000
_MANY = 1024  # entries, from which on those that are gone are looked for
_MAX_IN_FLIGHT = 1 << 14  # targets that are remembered; further ones are refused
_IN_FLIGHT_S = 60.0  # longer than a caller could be kept from a processor by its own kind


@dataclass(frozen=True, kw_only=True)
class Leader:
    """A registered process."""

    pid: int
    started: int
    frozen: bool
    """it runs no code: what is below it and in no other branch was left behind by a live one that ended"""


class Guard:
    """The decisions. Never raises and never waits for what code may hold up."""

    def __init__(self) -> None:
        self._leaders: dict[int, Leader] = {}
        self._sessions: dict[int, int] = {}  # made by code -> leader of the branch
        self._groups: dict[int, int] = {}  # made by code -> session
        self._allowed_s: dict[int, float] = {}  # number -> when a signal to it was last let go on

    def register(self, pid: int, *, frozen: bool) -> bool:
        """Take note of a leader. False if it is none by now, or a signal to its number may still be under way."""
        stat = stat_of(pid)
        # It leads a session, so that groups are never of two branches.
        if stat is None or stat.session != pid or self._may_be_signalled(pid):
            return False
        if len(self._leaders) >= _MANY:
            self._leaders = {number: it for number, it in self._leaders.items() if _is_there(it)}
        self._leaders[pid] = Leader(pid=pid, started=stat.started, frozen=frozen)
        # Numbers come again.
        self._groups.pop(pid, None)
        self._sessions = {
            session: leader for session, leader in self._sessions.items() if pid not in (session, leader)
        }
        return True

    def answer(self, listener: int) -> None:
        """Answer one call that waits. What is found here stays true of the caller while it waits, and an answer
        to one that does not wait any more goes nowhere.
        """
        notification = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, notification)
        except OSError:
            return  # it was killed meanwhile
        number, thread, _, call, _, _, *arguments = _NOTIFICATION.unpack(notification)
        try:
            error = self.decide(thread, call, [_as_int(value) for value in arguments])
        except Exception:  # code must not be able to end this process
            error = errno.EPERM
        response = _RESPONSE.pack(number, 0, -error, 0 if error else _CONTINUE)
        with contextlib.suppress(OSError):
            fcntl.ioctl(listener, _SEND, response)

    def decide(self, thread: int, call: int, arguments: list[int]) -> int:
        """0 to let a thread's system call go on, else what it fails with. Raises OSError."""
        caller = process_of(thread)
        if caller is None:
            return errno.EPERM
        if call == NUMBERS["setpgid"]:
            return self._set_group(caller, *arguments[:2])
        if call == NUMBERS["setsid"]:
            return self._new_session(caller)
        if call == NUMBERS["tgkill"]:
            # Within its own process the kernel looks at both numbers: nobody else's thread can be meant.
            return 0 if arguments[0] == caller else self._signal(caller, *arguments[1:3])
        if call == NUMBERS["kill"] and arguments[0] < 0:
            return self._signal_group(caller, -arguments[0], arguments[1])
        if call in (NUMBERS["kill"], NUMBERS["tkill"]):
            return 0 if arguments[0] in (caller, thread) else self._signal(caller, *arguments[:2])
        return errno.EPERM

    def _signal(self, caller: int, number: int, signal: int) -> int:
        if number <= 0:
            return errno.EINVAL
        target = process_of(number)
        if target is None:
            return errno.ESRCH
        if target != caller:
            leader = self._live_leader_of(caller)
            if leader is None or self._leader_of(target) is not leader:
                return errno.EPERM
        return self._note(number, signal)

    def _signal_group(self, caller: int, group: int, signal: int) -> int:
        leader = self._live_leader_of(caller)
        session = self._groups.get(group, group)
        # What code did not make, leaders did, and leaders' numbers are those of their sessions.
        if leader is None or self._sessions.get(session, session) != leader.pid:
            return errno.EPERM if _exists(-group) else errno.ESRCH
        return self._note(group, signal)

    def _new_session(self, caller: int) -> int:
        stat, leader = stat_of(caller), self._live_leader_of(caller)
        if stat is None or leader is None or stat.group == caller:
            return errno.EPERM
        own = [session for session, pid in self._sessions.items() if pid == leader.pid]
        if sum(map(self._has_members, own)) >= MAX_SESSIONS:
            return errno.EPERM
        self._sessions[caller] = leader.pid
        self._groups[caller] = caller
        return 0

    def _set_group(self, caller: int, pid: int, group: int) -> int:
        pid = pid or caller
        stat = stat_of(pid) if group in (0, pid) else None
        if stat is not None:
            self._forget_some()
            self._groups[pid] = stat.session
        return 0  # the kernel keeps groups within a session

    def _has_members(self, session: int) -> bool:
        """Whether a session is in use. One that is not is forgotten."""
        groups = [group for group, of in self._groups.items() if of == session]
        if any(_exists(-group) for group in groups) or _exists(session):  # the latter is about to make it
            return True
        for group in groups:
            del self._groups[group]
        del self._sessions[session]
        return False

    def _forget_some(self) -> None:
        if len(self._groups) >= _MANY:
            self._groups = {
                group: session
                for group, session in self._groups.items()
                if _exists(-group) or _exists(group) or group in self._sessions
            }

    def _note(self, number: int, signal: int) -> int:
        """Between this answer and the call's effect its number could become another's; a leader must not have it."""
        now_s = time.monotonic()
        if len(self._allowed_s) >= _MAX_IN_FLIGHT:
            self._allowed_s = {it: s for it, s in self._allowed_s.items() if now_s < s + _IN_FLIGHT_S}
            if len(self._allowed_s) >= _MAX_IN_FLIGHT:
                return errno.EPERM
        if signal != 0:
            self._allowed_s[number] = now_s
        return 0

    def _may_be_signalled(self, number: int) -> bool:
        return time.monotonic() < self._allowed_s.get(number, -float("inf")) + _IN_FLIGHT_S

    def _live_leader_of(self, pid: int) -> Leader | None:
        leader = self._leader_of(pid)
        return None if leader is None or leader.frozen else leader

    def _leader_of(self, pid: int) -> Leader | None:
        """The nearest leader among a process and those above it; None if there is none or one is gone."""
        for _ in range(_MAX_DEPTH):
            stat = stat_of(pid)
            if stat is None:
                return None
            leader = self._leaders.get(pid)
            if leader is not None and leader.started == stat.started:
                return leader
            pid = stat.parent
            if pid in (0, os.getpid()):
                return None
        return None


def hand_over(channel: socket.socket, listener: int) -> None:
    """The agent's side: give the listener away, before any code runs. -1 for none."""
    with channel:
        if listener >= 0:
            socket.send_fds(channel, [b"\0"], [listener])
            os.close(listener)


def watch(lifeline_fd: int, trainer_fd: int, channel: socket.socket) -> None:
    """The first process: answer until either of the first two ends. channel: what `hand_over` writes to."""
    guard, listener = Guard(), -1
    lifeline = socket.socket(fileno=lifeline_fd)
    poller = select.poll()
    for fd in (lifeline_fd, trainer_fd, channel.fileno()):
        poller.register(fd, select.POLLIN)
    while True:
        ready = dict(poller.poll())
        if trainer_fd in ready:
            return
        if channel.fileno() in ready:
            listener = _take(channel)
            poller.unregister(channel)
            channel.close()
            if listener >= 0:
                poller.register(listener, select.POLLIN)
        elif lifeline_fd in ready:
            if not _serve(lifeline, guard):
                return
        elif ready.get(listener, 0) & select.POLLIN:
            guard.answer(listener)
        else:  # nobody is left who could ask
            poller.unregister(listener)


def _take(channel: socket.socket) -> int:
    """The descriptor that came; -1 if none did."""
    with contextlib.suppress(OSError):
        _, fds, _, _ = socket.recv_fds(channel, 1, 1)
        return fds[0] if fds else -1
    return -1


def _serve(lifeline: socket.socket, guard: Guard) -> bool:
    """One registration. False at the end."""
    try:
        data = lifeline.recv(REGISTRATION.size, socket.MSG_WAITALL)
        if len(data) < REGISTRATION.size:
            return False
        request, pid, frozen = REGISTRATION.unpack(data)
        lifeline.send(REGISTERED.pack(request, guard.register(pid, frozen=frozen)), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True  # nobody reads answers any more
    except OSError:
        return False
    return True


def _as_int(value: int) -> int:
    """A register as the kernel takes it for a number of a process: its lower half, signed."""
    return (value & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _exists(number: int) -> bool:
    """Whether there is such a process, or -number as a group."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _is_there(leader: Leader) -> bool:
    stat = stat_of(leader.pid)
    return stat is not None and stat.started == leader.started
