"""One page with a task of every id and source that is there, played to its end.

    python -m axpo_env.gallery --difficulty easy --out gallery.html

Shown are images, question and references, the demonstration with what the tools gave back, and what the policy
sees at its pixel budget beside what the tools see. A data set's rows hold no demonstrations: there the middle of
the first image is looked at, then the first reference answered. How the page looks is in `gallery_page`.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import axpo_env
from axpo_env.catalogue import Entry, find_entries
from axpo_env.gallery_page import render
from axpo_env.messages import ParsedAction, format_action, format_answer, format_call, parse_action
from axpo_env.tasks.base import Task

Image = NDArray[np.uint8]  # [H, W, 3]
_MIDDLE = [250, 250, 750, 750]  # a box in thousandths of the sides


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One image of an episode, twice."""

    number: int  # among the episode's images
    full: Image  # as the tools see it
    seen: Image  # as the policy sees it


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What came back: from a tool, or as a remark on an action of bad form."""

    name: str
    text: str
    views: tuple[View, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """One action and what came of it."""

    action: ParsedAction
    results: tuple[Result, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Exhibit:
    """One task, played."""

    name: str  # of the entry
    env_id: str
    task: Task
    max_pixels: int  # of an image as the policy sees it
    views: tuple[View, ...]  # the task's images
    turns: tuple[Turn, ...]
    demonstrated: bool  # by the task's source; False: by the look and the answer that stand in for it
    stop_reason: str
    reward: float


def exhibit(entry: Entry, index: int, **changes: Any) -> Exhibit:
    """Play task `index` of `entry` (the last one, if there are fewer)."""
    env = entry.make(**changes)
    _, info = env.reset(options={"index": min(index, env.num_tasks - 1)})
    task = env.task
    views = _views(env, info["new_messages"], 0)
    turns = []
    for action in _actions(task):
        known = len(env.state.images)
        _, reward, terminated, truncated, info = env.step(action)
        turns.append(
            Turn(
                action=parse_action(action, max_calls=env.rules.max_calls),
                results=_results(env, info["new_messages"], known),
            )
        )
        if terminated or truncated:
            break
    env.close()
    return Exhibit(
        name=entry.name,
        env_id=entry.env_id,
        task=task,
        max_pixels=env.config.max_pixels,
        views=views,
        turns=tuple(turns),
        demonstrated=task.demonstrator is not None,
        stop_reason=str(info["stop_reason"] or "goes on"),
        reward=reward,
    )


def _actions(task: Task) -> list[str]:
    if task.demonstrator is not None:
        return task.demonstrate(random.Random(0))
    look = format_call("image_zoom_in", {"bbox_2d": _MIDDLE, "label": "the middle"})
    looks = [format_action("", look)] if task.images else []
    return [*looks, format_action("", format_answer(task.references[0]))]


def _results(env: Any, messages: Sequence[dict[str, Any]], known: int) -> tuple[Result, ...]:
    """The new messages, their images matched with the episode's from number `known` on."""
    results = []
    for message in messages:
        views = _views(env, [message], known)
        known += len(views)
        texts = [part["text"] for part in message["content"] if part["type"] == "text"]
        named = message.get("name", message["role"])
        results.append(Result(name=named, text="\n".join(texts), views=views))
    return tuple(results)


def _views(env: Any, messages: Sequence[dict[str, Any]], first: int) -> tuple[View, ...]:
    parts = [part for message in messages for part in message["content"] if part["type"] == "image"]
    return tuple(
        View(number=number, full=env.state.images[number], seen=part["image"])
        for number, part in enumerate(parts, start=first)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m axpo_env.gallery", description=__doc__.split("\n")[0])
    parser.add_argument("--ids", nargs="+", metavar="ID", help=f"of {', '.join(axpo_env.IDS)}; default: all")
    parser.add_argument(
        "--data", help="folder of data sets, named OWNER--NAME; default: ../shared/data, if there"
    )
    parser.add_argument("--split", default="test", help="of generated tasks and of folders")
    parser.add_argument("--difficulty", default="easy", help="level of generated tasks")
    parser.add_argument("--index", type=int, nargs="+", default=[0], help="which tasks of each; default: 0")
    parser.add_argument("--sandbox", default="local", help="backend that the python tool runs in")
    parser.add_argument("--out", type=Path, default=Path("gallery.html"), help="the page")
    given = parser.parse_args(arguments)
    try:
        entries = find_entries(ids=given.ids, data=given.data, split=given.split, difficulty=given.difficulty)
        exhibits = [
            exhibit(entry, index, sandbox=given.sandbox) for entry in entries for index in given.index
        ]
    except (ValueError, OSError, ImportError, IndexError) as error:
        print(error, file=sys.stderr)
        return 2
    given.out.write_text(render(exhibits), encoding="utf-8", errors="backslashreplace")  # lone surrogates
    solved = sum(shown.reward for shown in exhibits)
    size = given.out.stat().st_size / 1e6
    print(f"{given.out}: {len(exhibits)} tasks, {solved:.0f} solved as shown, {size:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
