"""Where tasks come from, by benchmark and source. Data sets are imported when asked for, not before."""

from typing import TYPE_CHECKING

from axpo_env.names import unknown_name
from axpo_env.tasks.base import TaskSource
from axpo_env.tasks.synthetic.families import FAMILIES, make_generated

if TYPE_CHECKING:
    from axpo_env.env import EnvConfig

BENCHMARKS = ("chartqa",)


def make_source(config: "EnvConfig") -> TaskSource:
    """The task source `config` names.

    Raises ValueError for unknown names, ImportError for a missing reader.
    """
    if config.source == "synthetic" or config.source in FAMILIES:
        return make_generated(
            benchmark=config.benchmark,
            source=config.source,
            split=config.split,
            difficulty=config.difficulty,
        )
    if config.benchmark not in BENCHMARKS:
        raise ValueError(unknown_name("benchmark", config.benchmark, BENCHMARKS))
    from axpo_env.tasks.datasets.chartqa import ChartQASource

    return ChartQASource(split=config.split, source=config.source)
