"""Where tasks come from, by benchmark and source. Data sets are imported when asked for, not before."""

import importlib
import os
import threading
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from axpo_env.names import unknown_name
from axpo_env.tasks.base import SPLITS, TaskSource
from axpo_env.tasks.datasets.rows import check_folder, table_stamps
from axpo_env.tasks.synthetic.families import FAMILIES, TWINS, make_generated

if TYPE_CHECKING:
    from axpo_env.env import EnvConfig
    from axpo_env.tasks.datasets.source import TableSource

# Benchmark -> module and class of its published rows.
DATASETS = {
    "chartqa": ("chartqa", "ChartQASource"),
    "mathvision": ("mathvision", "MathVisionSource"),
    "dynamath": ("dynamath", "DynaMathSource"),
    "mathvr": ("mathvr", "MathVRSource"),
    "vstar": ("vstar", "VStarSource"),
    "visualprobe": ("visualprobe", "VisualProbeSource"),
    "hrbench4k": ("hrbench", "HRBench4KSource"),
    "hrbench8k": ("hrbench", "HRBench8KSource"),
    "hrmmsearch": ("hrmmsearch", "HRMMSearchSource"),
    "mmsearch": ("mmsearch", "MMSearchSource"),
}
BENCHMARKS = tuple(DATASETS)

# Keywords of search tasks: two searches take more turns than zoom, python, answer.
SEARCHING = {"tools": ("image_zoom_in", "python", "tavily-search", "image-search"), "max_turns": 6}

# Tables in use: environments of one configuration share one, and what it keeps of its rows.
_opened: "WeakValueDictionary[Hashable, TableSource]" = WeakValueDictionary()
_opening = threading.Lock()


def usual_keywords(config: "EnvConfig") -> dict[str, Any]:
    """What look-ups, and the ids of their benchmarks, take beyond `EnvConfig`'s defaults."""
    return dict(SEARCHING) if "lookups" in (config.source, TWINS[config.benchmark]) else {}


def choose_split(config: "EnvConfig") -> str:
    """The split that is given; if none is, train, or the only one of a benchmark that has none to train on.

    Raises ValueError for an unknown benchmark or source, FileNotFoundError for a folder that is not there.
    """
    if config.benchmark not in BENCHMARKS:
        raise ValueError(unknown_name("benchmark", config.benchmark, BENCHMARKS))
    _check_source(config.source)
    if config.split is not None:
        return config.split
    splits = SPLITS if _is_generated(config.source) else _dataset(config.benchmark).splits
    return "train" if "train" in splits else splits[0]


def _is_generated(source: str) -> bool:
    return source == "synthetic" or source in FAMILIES


def _check_source(source: object) -> None:
    if isinstance(source, str) and source:  # else it is anything at all
        if _is_generated(source) or source == "hub" or Path(source).is_dir():
            return
        if os.path.dirname(source) or Path(source).exists():  # a path, not a name
            check_folder(Path(source))
    known = ("synthetic", "hub", *FAMILIES)
    raise ValueError(
        f"{unknown_name('source', source, known)}; a folder's name will do, but none is called so"
    )


def _dataset(benchmark: str) -> "type[TableSource]":
    module, name = DATASETS[benchmark]
    dataset: type[TableSource] = getattr(importlib.import_module(f"axpo_env.tasks.datasets.{module}"), name)
    return dataset


def make_source(config: "EnvConfig") -> TaskSource:
    """The task source `config` names.

    Raises as `choose_split`, ValueError for other unknown names and for a variant where there is none,
    ImportError for a missing reader.
    """
    split = choose_split(config)
    if _is_generated(config.source):
        if config.variant is not None:
            raise ValueError(f"a variant is for published rows, not for generated ones: {config.variant!r}")
        return make_generated(
            benchmark=config.benchmark,
            source=config.source,
            split=split,
            difficulty=config.difficulty,
        )
    make = _dataset(config.benchmark)
    stamps = table_stamps(config.source)
    key = (config.benchmark, split, config.source, config.variant, config.judge, stamps)
    with _opening:
        source = _opened.get(key)
        if source is None:
            source = make(split=split, source=config.source, variant=config.variant, judge=config.judge)
            _opened[key] = source
    return source
