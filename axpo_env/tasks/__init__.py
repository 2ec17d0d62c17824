"""Where tasks come from, by benchmark and source. Data sets are imported when asked for, not before."""

import importlib
import threading
from collections.abc import Hashable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from axpo_env.grading.judge import make_judge
from axpo_env.names import unknown_name
from axpo_env.tasks.base import TaskSource
from axpo_env.tasks.datasets.rows import table_stamps
from axpo_env.tasks.synthetic.families import FAMILIES, make_generated

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

# Tables in use: environments of one configuration share one, and what it keeps of its rows.
_opened: "WeakValueDictionary[Hashable, TableSource]" = WeakValueDictionary()
_opening = threading.Lock()


def make_source(config: "EnvConfig") -> TaskSource:
    """The task source `config` names.

    Raises ValueError for unknown names and for a variant where there is none, ImportError for a missing reader.
    """
    if config.benchmark not in BENCHMARKS:
        raise ValueError(unknown_name("benchmark", config.benchmark, BENCHMARKS))
    if config.source == "synthetic" or config.source in FAMILIES:
        if config.variant is not None:
            raise ValueError(f"a variant is for published rows, not for generated ones: {config.variant!r}")
        return make_generated(
            benchmark=config.benchmark,
            source=config.source,
            split=config.split,
            difficulty=config.difficulty,
        )
    module, name = DATASETS[config.benchmark]
    make = getattr(importlib.import_module(f"axpo_env.tasks.datasets.{module}"), name)
    judge = make_judge(config.judge)
    key = (config.benchmark, config.split, config.source, config.variant, judge, table_stamps(config.source))
    with _opening:
        source = _opened.get(key)
        if source is None:
            source = make(split=config.split, source=config.source, variant=config.variant, judge=judge)
            _opened[key] = source
    return source
