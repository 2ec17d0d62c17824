"""The families of generated tasks, and which of them stands for which benchmark. Imported when asked for."""

import importlib
from typing import Any

from axpo_env.names import unknown_name
from axpo_env.tasks.base import TaskSource

# Family -> module and class. Each name is also a `source` that any environment may be given.
FAMILIES = {
    "charts": ("charts", "ChartSource"),
    "signs": ("signs", "SignSource"),
    "figures": ("figures", "FigureSource"),
    "ledgers": ("ledgers", "LedgerSource"),
    "lookups": ("lookups", "LookupSource"),
}
# Benchmark -> the family that `source="synthetic"` stands for.
TWINS = {
    "chartqa": "charts",
    "mathvision": "figures",
    "dynamath": "figures",
    "mathvr": "figures",
    "vstar": "signs",
    "visualprobe": "signs",
    "hrbench4k": "signs",
    "hrbench8k": "signs",
    "hrmmsearch": "lookups",
    "mmsearch": "lookups",
}


def make_generated(*, benchmark: str, source: str, split: str, difficulty: Any) -> TaskSource:
    """The source of `benchmark`'s twin (`source="synthetic"`), or of the family that `source` names.

    A benchmark gives its twin the manner of asking. HR-Bench 8K's "hard" is the 8k canvas. Raises ValueError
    for unknown names.
    """
    if benchmark not in TWINS:
        raise ValueError(unknown_name("benchmark", benchmark, TWINS))
    family = TWINS[benchmark] if source == "synthetic" else source
    if family not in FAMILIES:
        raise ValueError(unknown_name("family", family, FAMILIES))
    module, name = FAMILIES[family]
    make = getattr(importlib.import_module(f"axpo_env.tasks.synthetic.{module}"), name)
    if benchmark == "hrbench8k" and family == "signs" and difficulty == "hard":
        difficulty = "hard-8k"
    # Charts have one benchmark and one manner.
    form = {} if family == "charts" else {"form": benchmark if family == TWINS[benchmark] else ""}
    made: TaskSource = make(split=split, difficulty=difficulty, **form)
    return made
