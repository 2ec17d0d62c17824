"""The part of the contract about what the suite's own environments hold: tasks, tools, a sandbox and a spec.

Called by `contract`. Outages are put into an environment's `rules` and `config`, so one without the suite's
cannot be asked about them.
"""

import copy
import pickle
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym

from axpo_env.actions import fitting_arguments
from axpo_env.contract_play import SEED, MakeEnv, Skipped, need, same, see_start, see_step
from axpo_env.dynamics import Rules
from axpo_env.env import EnvConfig
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.state import StopReason
from axpo_env.tasks.base import Task
from axpo_env.tasks.constant import best_constant_letter
from axpo_env.tools.base import ArgumentError, Tool, ToolResult, ToolUnavailable, check_arguments
from axpo_sandbox import SandboxUnavailable

_DOWN = "the cable is cut"
_TRIES = 20  # of arguments for a tool
_FEW_TASKS = 8  # among which there is a multiple-choice question, if the source has them
_MANY_TASKS = 500  # that are looked at then
_ENOUGH_CHOICES = 100  # multiple-choice questions, of which chance gives no letter the shares below
_MAX_LETTER = 0.35  # share of the questions, 0-1, that one letter may be right for
_ABOVE_CHANCE = 0.1  # or this much more than a guess, where questions have few options


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


def check_answers(make: MakeEnv) -> None:
    """Each reference of a task is a right answer, word for word, and a dash is none unless it is a reference."""
    env = make()
    env.reset(seed=SEED)
    need(env, "task", "num_tasks")
    if not isinstance(env.task, Task):
        raise Skipped("the environment's tasks are not the suite's")
    for index in sorted({0, env.num_tasks // 2, env.num_tasks - 1}):
        env.reset(options={"index": index})
        references = env.task.references
        for answer in (*references, "-"):
            env.reset(options={"index": index})
            _, reward, terminated, _, info = env.step(format_action("", format_answer(answer)))
            right = bool(terminated and info["grade"]["correct"] and reward == 1.0)
            assert right is (answer in references), f"task {index}: {answer!r} is graded {info['grade']}"
    env.close()


def check_constants(make: MakeEnv) -> None:
    """No letter is right for far more of the multiple-choice questions than a guess."""
    env = make()
    env.reset(seed=SEED)
    need(env, "task", "source")
    if not isinstance(env.task, Task):
        raise Skipped("the environment's tasks are not the suite's")
    choices = best_constant_letter(env, _FEW_TASKS) and best_constant_letter(env, _MANY_TASKS)
    env.close()
    if choices is None:
        return  # free answers
    if choices.num_tasks < _ENOUGH_CHOICES:
        raise Skipped(f"{choices.num_tasks} multiple-choice questions are too few to tell")
    limit = max(_MAX_LETTER, choices.chance + _ABOVE_CHANCE)
    letter, score = choices.best
    seen = f"{score:.2f} of {choices.num_tasks} multiple-choice questions"
    assert score <= limit, f"{letter!r} is right for {seen}, at most {limit:.2f} are fair"


def check_outages(make: MakeEnv) -> None:
    """A tool that is down ends the episode ungraded, whichever call of the turn it is; nothing is lost before it."""
    env, healthy = make(), make()
    need(env, "rules", "config")
    if not (isinstance(env.rules, Rules) and isinstance(env.config, EnvConfig)):
        raise Skipped("the environment's rules and config are not the suite's")
    if env.rules.max_turns < 2 or not env.rules.tools:
        raise Skipped("no call is ever run: there is one turn, or no tool")
    tools = env.rules.tools
    unfit = [name for name, tool in tools.items() if _fitting(tool) is None]
    for name in tools.keys() - set(unfit):
        env.rules = replace(env.rules, tools={**tools, name: _DownTool(tools[name])})
        call = format_call(name, _fitting(tools[name]) or {})
        actions = [format_action("", call)]
        if env.rules.max_calls > 1:
            actions.append(format_action("", format_call("no_such_tool", {}), call))
        for action in actions:
            env.reset(seed=SEED)
            before = env.snapshot()
            _check_outage(env, action, f"{name} is down")
            _same_end(env, healthy, before)
    env.rules = replace(env.rules, tools=tools)
    if "python" in tools:
        env.config = replace(env.config, sandbox=_DownSandbox())
        env.reset(seed=SEED)
        _check_outage(env, format_action("", format_call("python", {"code": "1"})), "the sandbox is down")
    env.close()
    healthy.close()
    if unfit:
        raise Skipped(f"found no arguments that fit {', '.join(unfit)}; the other tools are checked")


def _fitting(tool: Tool) -> dict[str, Any] | None:
    """Arguments that fit a tool's schema, if some are found."""
    for seed in range(SEED, SEED + _TRIES):
        arguments = fitting_arguments(tool.schema, random.Random(seed))
        try:
            check_arguments(tool.schema, arguments)
        except ArgumentError:
            continue
        return arguments
    return None


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
        ends.append(see_step(one.step(answer)))
    same(ends[0], ends[1], "an outage changed the snapshot before it")
    before.release()


def check_pickling(make: MakeEnv) -> None:
    """A pickled or copied spec makes the same environment."""
    env = make()
    if env.spec is None:
        raise Skipped("the environment has no spec: it was made without gymnasium.make")
    expected = see_start(env.reset(seed=SEED))
    for how, spec in (
        ("a pickled", pickle.loads(pickle.dumps(env.spec))),
        ("a copied", copy.deepcopy(env.spec)),
    ):
        other = gym.make(spec).unwrapped
        same(see_start(other.reset(seed=SEED)), expected, f"{how} spec starts another episode")
        other.close()
    env.close()
