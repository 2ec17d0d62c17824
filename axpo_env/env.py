"""`ToolEnv`: the Gymnasium face of an episode. Reset, step, snapshot, restore, fork.

Thin on purpose: the rules are in `dynamics`, the state in `state`, the tools in `tools`, the tasks in
`tasks`. Tokens, chat templates and sampling are left to the policy's side. One thread per environment at a
time; any number of environments may run at once and share task source, sandbox and snapshots.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import PurePath
from typing import Any

import gymnasium as gym
import numpy as np

from axpo_env import dynamics, snapshots
from axpo_env.grading.judge import Judge, make_judge
from axpo_env.infos import Record
from axpo_env.messages import NotText, ToolCall
from axpo_env.names import check_keys, check_seconds, check_text, check_whole, shorten
from axpo_env.snapshots import ReplayDiverged, Snapshot
from axpo_env.spaces import Images, UnicodeText
from axpo_env.state import EpisodeState, Picture
from axpo_env.tasks import choose_split, make_source, usual_keywords
from axpo_env.tasks.base import Task, TaskSource
from axpo_env.tools import check_sequence, make_tools
from axpo_env.tools.base import Tool
from axpo_env.tools.interpreter import (
    Branch,
    FrozenInterpreter,
    Interpreter,
    check_sandbox,
    shared_sandbox,
)
from axpo_env.tools.zoom import ZoomTool, zoom_aim

MAX_PIXELS = 1_048_576  # pixels of a published image as the policy sees it, where nothing else is asked for

Observation = dict[str, Any]  # {"text": str, "images": tuple of uint8 [H, W, 3]}


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The keywords of every environment id. Raises TypeError or ValueError that names one that will not do."""

    benchmark: str = "chartqa"  # which benchmark's tasks; fixed by the id
    split: str | None = None  # train, validation or test; None: train, or the benchmark's only one
    source: str = "synthetic"  # "synthetic", a generated family, "hub", or a folder with the hub's files
    variant: str | None = None  # part of a benchmark of several, such as "variant3"; None: its default
    judge: Judge | None = None  # grades free answers that need one; its keywords will do
    difficulty: Any = "easy"  # level of a generated source, by name or its own; others ignore it
    # Names, or tools of your own. Search ids and look-ups get `tasks.SEARCHING` where neither this nor turns are given.
    tools: tuple[str | Tool, ...] = ("image_zoom_in", "python")
    max_turns: int = 3  # actions of the policy
    max_calls: int = 4  # tool calls run in one turn
    max_pixels: int | None = (
        None  # of an image as the policy sees it; None: a generated level's, or MAX_PIXELS
    )
    tool_time_limit_s: float | None = None  # seconds of an episode's tools together; None: no limit
    # A backend's name, or a mapping with its options, {"backend": "docker", "image": ...}: one sandbox per process,
    # made when it is used. Or a ready Sandbox.
    sandbox: Any = "local"

    def __post_init__(self) -> None:
        for name in ("split", "variant"):
            if getattr(self, name) is not None:
                check_text(name, getattr(self, name))
        if self.tool_time_limit_s is not None:
            check_seconds("tool_time_limit_s", self.tool_time_limit_s)
        check_sandbox(self.sandbox)
        tidy: dict[str, Any] = {"tools": check_sequence(self.tools), "judge": make_judge(self.judge)}
        for name in ("max_turns", "max_calls", *(["max_pixels"] if self.max_pixels is not None else [])):
            tidy[name] = check_whole(name, getattr(self, name))
        if isinstance(self.source, PurePath):
            tidy["source"] = str(self.source)
        for name, value in tidy.items():
            object.__setattr__(self, name, value)


class ToolEnv(gym.Env[Observation, str]):
    """Answer a question about images, with tools, over a few turns. See `EnvConfig` for the keywords.

    What questions and tools say is shown with the chat format's control tags escaped, a program's output included:
    where it prints `<think>`, `observation["text"]` has `<\\think>`. `escape.unescape_tags` gives the text back.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it so

    def __init__(self, *, render_mode: str | None = None, **keywords: Any) -> None:
        check_keys("keyword", keywords, [item.name for item in fields(EnvConfig)])
        if render_mode is not None:
            raise ValueError(f"nothing to render in mode {render_mode!r}: the images are in the observation")
        config = EnvConfig(**keywords)
        config = replace(config, split=choose_split(config))
        usual = usual_keywords(config)
        config = replace(config, **{name: usual[name] for name in usual if name not in keywords})
        tools = make_tools(config.tools)
        if config.sandbox is None and "python" in tools:
            raise ValueError("the python tool needs a sandbox; give one or leave python out of tools")
        source = make_source(config)
        if config.max_pixels is None:
            level = getattr(
                source, "level", None
            )  # a generated one: with more, its small print turns legible
            config = replace(config, max_pixels=MAX_PIXELS if level is None else level.view_pixels)
        assert config.max_pixels is not None
        rules = dynamics.Rules(
            tools=tools,
            max_turns=config.max_turns,
            max_calls=config.max_calls,
            max_pixels=config.max_pixels,
            tool_time_limit_s=config.tool_time_limit_s,
        )
        self._setup(config, rules, source)

    def _setup(self, config: EnvConfig, rules: dynamics.Rules, source: TaskSource) -> None:
        self.config, self.rules, self.source = config, rules, source
        self.observation_space = gym.spaces.Dict({"text": UnicodeText(), "images": Images()})
        self.action_space = UnicodeText()
        self.render_mode = None
        self._schemas = json.dumps([dict(tool.schema) for tool in rules.tools.values()])
        self._state: EpisodeState | None = None
        self._interpreter: Interpreter | None = None

    @property
    def num_tasks(self) -> int:
        """How many tasks the source holds."""
        return self.source.num_tasks

    @property
    def task(self) -> Task:
        """The current episode's task."""
        return self.state.task

    @property
    def state(self) -> EpisodeState:
        """The current episode's state. Raises RuntimeError before the first reset."""
        if self._state is None:
            raise RuntimeError("no episode: reset the environment first")
        return self._state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode: of task `options["index"]`, or of one drawn at random.

        Raises ValueError for other options, IndexError for an index outside the source.
        """
        super().reset(seed=seed)
        options = options or {}
        check_keys("reset option", options, ("index",))
        # The draw happens either way, so that a given index does not shift later ones.
        index = int(self.np_random.integers(self.num_tasks))
        task = self.source.get(options.get("index", index))
        self._replace(dynamics.begin(task, self.rules), self._new_interpreter(task))
        return self._observe()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One turn. Any action is accepted; what is no string is answered with a message saying so.

        Raises RuntimeError if the episode is over or none was begun.
        """
        state = self.state
        if state.stop_reason is not None:
            raise RuntimeError(f"the episode is over ({state.stop_reason}): reset or restore first")
        assert self._interpreter is not None
        if not isinstance(action, str | NotText):
            action = NotText(type_name=type(action).__name__)
        self._state = state = dynamics.advance(state, action, self.rules, self._interpreter)
        if state.stop_reason is not None:
            self._interpreter.close()
        observation, info = self._observe()
        return observation, state.reward, state.terminated, state.truncated, info

    def snapshot(self) -> Snapshot:
        """This moment, to restore or fork from. Costs nothing until code has run in the episode."""
        state = self.state
        assert self._interpreter is not None
        return Snapshot(
            state=state,
            random_state=self.np_random.bit_generator.state,
            interpreter=self._interpreter.freeze(),
            settings=self._settings(),
        )

    def restore(self, snapshot: Snapshot) -> tuple[Observation, dict[str, Any]]:
        """Go (back) to `snapshot`, which may come from another environment.

        Returns that moment's observation, info. Raises TypeError for what is no `Snapshot`.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"restore takes a Snapshot of the suite, not {shorten(snapshot)}")
        return self._go_to(snapshot, snapshot.share_interpreter())

    def _go_to(
        self, snapshot: Snapshot, origin: FrozenInterpreter | Branch | None
    ) -> tuple[Observation, dict[str, Any]]:
        """`restore`, with the interpreter going on from `origin`, a share of the snapshot's."""
        interpreter = self._new_interpreter(snapshot.state.task, origin=origin)
        self._replace(snapshot.state, interpreter)
        generator = np.random.Generator(getattr(np.random, snapshot.random_state["bit_generator"])())
        generator.bit_generator.state = copy.deepcopy(snapshot.random_state)
        self.np_random = generator
        return self._observe()

    def fork(self, num_branches: int) -> list["ToolEnv"]:
        """`num_branches` new environments, each in this very moment and from then on independent.

        Their interpreters are forked together, when the first of them runs code.
        """
        if num_branches < 0:
            raise ValueError(f"cannot fork {num_branches} branches")
        snapshot = self.snapshot()
        branches = [self._sibling() for _ in range(num_branches)]
        origins = snapshot.batch_of_interpreters(num_branches)
        for branch, origin in zip(branches, origins, strict=True):
            branch._go_to(snapshot, origin)
        snapshot.release()
        return branches

    def snapshot_from_bytes(self, data: bytes) -> Snapshot:
        """Rebuild a snapshot by replaying its actions in a sibling; this environment stays as it is.

        Raises ValueError for bytes that are no snapshot, a spoilt one or one of other settings, IndexError for
        a task that is not there, ReplayDiverged if the replay led elsewhere.
        """
        record = snapshots.read_record(data)
        if record["settings"] != self._settings():
            raise ValueError(
                f"the snapshot is of {record['settings']}, this environment of {self._settings()}"
            )
        sibling = self._sibling()
        try:
            sibling.reset(options={"index": record["task"]["index"]})
            for action in record["actions"]:
                if sibling.state.stop_reason is not None:
                    raise ReplayDiverged(f"the replay ended early: {sibling.state.stop_reason}")
                sibling.step(action)
            if snapshots.digest(sibling.state) != record["digest"] or sibling.task.id != record["task"]["id"]:
                raise ReplayDiverged(f"replaying {len(record['actions'])} actions led to other messages")
            try:
                sibling.np_random.bit_generator.state = record["random_state"]
            except (LookupError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"random_state of the snapshot will not do: {error}") from error
            return sibling.snapshot()
        finally:
            sibling.close()

    def close(self) -> None:
        """End the interpreter. Idempotent; the sandbox is not the environment's to close."""
        if self._interpreter is not None:
            self._interpreter.close()

    def _sibling(self) -> "ToolEnv":
        """An environment with the same settings, sharing source and tools, without an episode."""
        sibling = type(self).__new__(type(self))
        sibling._setup(self.config, self.rules, self.source)
        sibling.spec = self.spec
        return sibling

    def _new_interpreter(self, task: Task, origin: FrozenInterpreter | Branch | None = None) -> Interpreter:
        sandbox = self.config.sandbox
        open_sandbox: Callable[[], Any] = (
            (lambda: shared_sandbox(sandbox)) if isinstance(sandbox, str | Mapping) else (lambda: sandbox)
        )
        return Interpreter(open_sandbox, seed=task.index, origin=origin)

    def _replace(self, state: EpisodeState, interpreter: Interpreter) -> None:
        old, self._interpreter = self._interpreter, interpreter
        self._state = state
        if old is not None:
            old.close()

    def _settings(self) -> dict[str, Any]:
        """What a snapshot's bytes must agree on for a replay to make sense. JSON."""
        names = ("benchmark", "split", "source", "variant", "max_turns", "max_calls", "max_pixels")
        settings: dict[str, Any] = {name: getattr(self.config, name) for name in names}
        level = self.config.difficulty
        settings["difficulty"] = level if isinstance(level, str) else repr(level)
        settings["tools"] = list(self.rules.tools)
        judge = self.config.judge
        settings["judge"] = None if judge is None else [judge.url, judge.model]
        return settings

    def _observe(self) -> tuple[Observation, dict[str, Any]]:
        """Observation and info of the current state; fresh containers, arrays shared read-only."""
        state = self.state
        new = state.new_messages
        texts, images = [], []
        for message in new:
            for part in message.content:
                if isinstance(part, Picture):
                    images.append(part.image)
                elif message.role != "system":
                    texts.append(part.text)
        observation = {"text": "\n".join(texts), "images": tuple(images)}
        return observation, self._info(state)

    def _info(self, state: EpisodeState) -> dict[str, Any]:
        return {
            "new_messages": [message.as_dict() for message in state.new_messages],
            "messages": [message.as_dict() for message in state.messages],
            "tools": json.loads(self._schemas),
            "tool_calls": [_call_dict(call, state.task) for call in state.calls],
            "stop_reason": state.stop_reason,
            "grade": None if state.grade is None else Record(state.grade.as_dict()),
            "outage": state.outage,
            "sandbox_warnings": [] if self._interpreter is None else self._interpreter.take_notes(),
            "num_turns": state.num_turns,
            "task": state.task.describe(),
        }


def _call_dict(call: ToolCall, task: Task) -> dict[str, Any]:
    aim = None
    if call.name == ZoomTool.name and call.error is None and call.arguments is not None:
        aim = zoom_aim(task, call.arguments)
    return {"name": call.name, "arguments": copy.deepcopy(call.arguments), "error": call.error, "aim": aim}
