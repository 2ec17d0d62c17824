"""Every environment that can be made here: each id with its generated source, and with the folders that are there.

What the gallery shows, the contract checks and the fuzzer plays. Making and judging tasks is left to `tasks`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

import axpo_env
from axpo_env.names import unknown_name
from axpo_env.tasks.synthetic.families import FAMILIES, TWINS

DATA_FOLDER = Path("../shared/data")  # looked into where no other folder is given
ZOOM_AND_PYTHON = ("image_zoom_in", "python")
SEARCHES = ("tavily-search", "image-search")

# Benchmark -> its name on the hub. A folder of its files is called so, with -- for the slash.
HUB_NAMES = {
    "chartqa": "HuggingFaceM4/ChartQA",
    "mathvision": "MathLLMs/MathVision",
    "dynamath": "DynaMath/DynaMath_Sample",
    "mathvr": "gogoduan/Math-VR-bench",
    "vstar": "craigwu/vstar_bench",
    "visualprobe": "Mini-o3/VisualProbe_Hard",
    "hrbench4k": "DreamMr/HR-Bench",
    "hrbench8k": "DreamMr/HR-Bench",
    "hrmmsearch": "sensenova/HR-MMSearch",
    "mmsearch": "CaraJ/MMSearch",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One id with one source."""

    env_id: str
    source: str  # "synthetic", a generated family, or the hub's name of a folder's data set
    generated: bool
    keywords: Mapping[str, Any] = field(default_factory=dict)  # for gymnasium.make

    @property
    def name(self) -> str:
        """Such as "ChartQA, synthetic"."""
        return f"{self.env_id.removeprefix('AXPO/').removesuffix('-Tools-v0')}, {self.source}"

    def make(self, **changes: Any) -> Any:
        """The unwrapped environment; `changes` go over the entry's keywords."""
        return gym.make(self.env_id, **{**self.keywords, **changes}).unwrapped


def find_entries(
    *,
    ids: Iterable[str] | None = None,
    data: str | Path | None = None,
    split: str = "test",
    difficulty: str = "nano",
    python: bool = True,
) -> list[Entry]:
    """The entries of `ids` (all if None): generated ones at `difficulty`, then folders of `data` that are there.

    Generated families that stand for no benchmark come last, under the first id. With `python` False the tool
    is left out. Raises ValueError for an unknown id, NotADirectoryError for a given `data` that is no folder.
    """
    wanted = list(axpo_env.IDS) if ids is None else list(ids)
    for env_id in wanted:
        if env_id not in axpo_env.IDS:
            raise ValueError(unknown_name("environment", env_id, axpo_env.IDS))
    folder = DATA_FOLDER if data is None else Path(data)
    if data is not None and not folder.is_dir():
        raise NotADirectoryError(f"no folder of data sets: {folder}")
    zoom_and_python = ZOOM_AND_PYTHON if python else ZOOM_AND_PYTHON[:1]
    entries: list[Entry] = []

    def add(env_id: str, name: str, family: str | None, **keywords: Any) -> None:
        searches = family == "lookups"  # real rows would have to search the web
        tools = (*zoom_and_python, *SEARCHES) if searches else zoom_and_python
        # Two looks, two searches and an answer are the longest demonstration.
        settings = {"split": split, "tools": tools, "max_turns": 5 if searches else 4, **keywords}
        generated = family is not None
        entries.append(Entry(env_id=env_id, source=name, generated=generated, keywords=settings))

    for env_id in wanted:
        benchmark = axpo_env.IDS[env_id]
        if benchmark in TWINS:
            add(env_id, "synthetic", TWINS[benchmark], source="synthetic", difficulty=difficulty)
        name = HUB_NAMES[benchmark]
        rows = folder / name.replace("/", "--")
        if rows.is_dir():
            add(env_id, name, None, source=str(rows))
    if ids is None:
        for family in FAMILIES:
            if family not in TWINS.values():
                add(wanted[0], family, family, source=family, difficulty=difficulty)
    return entries
