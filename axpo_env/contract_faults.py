"""The part of the contract about what goes wrong or goes away: outages, closing, pickling.

Called by `contract`; the checks need an environment's `rules`, `config` and `spec`, no particular task.
"""

import copy
import gc
import os
import pickle
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import data_equivalence

from axpo_env.actions import fitting_arguments
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.state import StopReason
from axpo_env.tools.base import Tool, ToolResult, ToolUnavailable
from sandbox import SandboxUnavailable

MakeEnv = Callable[[], Any]
_SEED = 7
_DOWN = "the cable is cut"
_WAITS, _WAIT_S = 100, 0.1  # how often, and seconds each, for what ends on its own


class _DownTool:
    """A tool with another's name and schema whose backend is down."""

    def __init__(self, tool: Tool) -> None:
        self.name = tool.name
        self.schema = tool.schema

    def run(self, arguments: Mapping[str, Any], state: Any, interpreter: Any) -> ToolResult:
        raise ToolUnavailable(_DOWN)


class _DownSandbox:
    """A sandbox that gives no session."""

    def session(self, **keywords: Any) -> Any:
        raise SandboxUnavailable(_DOWN)


def check_outages(make: MakeEnv) -> None:
    """A tool that is down ends the episode ungraded, whichever call of the turn it is; nothing is lost before it."""
    env, healthy = make(), make()
    if env.rules.max_turns < 2 or not env.rules.tools:
        return  # no call is ever run
    tools = env.rules.tools
    for name in tools:
        env.rules = replace(env.rules, tools={**tools, name: _DownTool(tools[name])})
        call = format_call(name, fitting_arguments(tools[name].schema, random.Random(_SEED)))
        actions = [format_action("", call)]
        if env.rules.max_calls > 1:
            actions.append(format_action("", format_call("no_such_tool", {}), call))
        for action in actions:
            env.reset(seed=_SEED)
            before = env.snapshot()
            _check_outage(env, action, f"{name} is down")
            _same_end(env, healthy, before)
    env.rules = replace(env.rules, tools=tools)
    if "python" in tools:
        env.config = replace(env.config, sandbox=_DownSandbox())
        env.reset(seed=_SEED)
        _check_outage(env, format_action("", format_call("python", {"code": "1"})), "the sandbox is down")
    env.close()
    healthy.close()


def _check_outage(env: Any, action: str, what: str) -> None:
    _, reward, terminated, truncated, info = env.step(action)
    ended = (reward, terminated, truncated, info["stop_reason"], info["grade"])
    assert ended == (0.0, False, True, StopReason.INFRASTRUCTURE, None), f"{what}: the episode goes {ended}"
    assert _DOWN in (info["outage"] or ""), f"{what}: the outage is called {info['outage']!r}"
    assert "outage" in (info["tool_calls"][-1]["error"] or ""), f"{what}: the call does not say so"
    try:
        env.step(action)
    except RuntimeError:
        return
    raise AssertionError(f"{what}: the episode goes on")


def _same_end(env: Any, healthy: Any, before: Any) -> None:
    """From a snapshot of before an outage, the episode goes on as if there had been none."""
    answer = format_action("", format_answer("1"))
    ends = []
    for one in (env, healthy):
        one.restore(before)
        ends.append(one.step(answer))
    assert data_equivalence(ends[0], ends[1], exact=True), "an outage changed the snapshot before it"
    before.release()


def check_closing(make: MakeEnv) -> None:
    """Closing twice is fine; a closed environment leaves no thread, open file or child process behind."""
    _live_and_close(make)  # what is started once and kept, such as a sandbox for all environments
    before = _held()
    for _ in range(3):
        _live_and_close(make)
    for _ in range(_WAITS):
        after = _held()
        grown = {name: (before[name], after[name]) for name in before if after[name] > before[name]}
        if not grown:
            return
        time.sleep(_WAIT_S)  # a sandbox ends its processes beside us
    raise AssertionError(f"left behind, before and after: {grown}")


def _live_and_close(make: MakeEnv) -> None:
    env = make()
    env.reset(seed=_SEED)
    env.step(format_action("", format_call("python", {"code": "1"})))
    snapshot = env.snapshot()
    for branch in env.fork(2):
        branch.step(format_action("", format_call("python", {"code": "2"})))
        branch.close()
    snapshot.release()
    snapshot.release()
    env.close()
    env.close()


def _held() -> dict[str, int]:
    """What this process holds of what a leak would hold more of."""
    gc.collect()
    held = {"threads": threading.active_count()}
    files, children = Path("/proc/self/fd"), Path(f"/proc/self/task/{os.getpid()}/children")
    if files.is_dir():
        held["open files"] = len(list(files.iterdir()))
    if children.is_file():
        held["child processes"] = len(children.read_text().split())
    return held


def check_pickling(make: MakeEnv) -> None:
    """A pickled or copied spec makes the same environment."""
    env = make()
    if env.spec is None:
        return  # made without gymnasium.make
    expected = env.reset(seed=_SEED)
    for how, spec in (
        ("a pickled", pickle.loads(pickle.dumps(env.spec))),
        ("a copied", copy.deepcopy(env.spec)),
    ):
        other = gym.make(spec).unwrapped
        start = other.reset(seed=_SEED)
        assert data_equivalence(start, expected, exact=True), f"{how} spec starts another episode"
        other.close()
    env.close()
