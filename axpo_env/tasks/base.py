"""A task (images, question, reference answer) and where tasks come from.

How an answer is found and graded is left to `grading`; how an episode runs to `dynamics`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from axpo_env.grading import Grade, grade_chartqa
from axpo_env.names import unknown_name
from axpo_env.views import downscale, freeze

SPLITS = ("train", "validation", "test")


class Random(Protocol):
    """What a demonstrator needs of a random generator.

    `random.Random` and `numpy.random.Generator` both have it.
    """

    def random(self) -> float:
        """A float in [0, 1)."""
        ...


Demonstrator = Callable[..., list[str]]
Grader = Callable[[str | None, Sequence[str]], Grade]  # answer, references -> verdict


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One question about images."""

    id: str  # unique over all sources, names source, split and index
    index: int  # in its source's own order
    split: str
    source: str
    question: str
    images: tuple[NDArray[np.uint8], ...]  # full resolution, each [H, W, 3]
    references: tuple[str, ...]  # any of them is right
    needs_tools: tuple[str, ...] = ()  # names of tools without which the policy can only guess; () if unknown
    gold_boxes: tuple[tuple[int, int, int, int], ...] = ()  # where the facts stand, 0-1000 of the sides
    places: tuple[tuple[int, int, int, int], ...] = ()  # where such facts stand at all; () if unknown
    # [H, W, 3], a picture of what a search for what looks like image 0 found; None: none was published
    image_search_result: NDArray[np.uint8] | None = None
    details: dict[str, Any] = field(default_factory=dict)  # whatever else the source knows, for analysis only
    grader: Grader = grade_chartqa
    demonstrator: Demonstrator | None = None
    _views: dict[int, tuple[NDArray[np.uint8], ...]] = field(default_factory=dict, init=False, repr=False)

    def views(self, max_pixels: int) -> tuple[NDArray[np.uint8], ...]:
        """Fresh read-only copies of the images, of at most `max_pixels` pixels each, as the policy sees them."""
        if any(image.shape[0] * image.shape[1] > max_pixels for image in self.images):
            if max_pixels not in self._views:  # the rollouts of a question need the same ones
                self._views[max_pixels] = tuple(downscale(image, max_pixels) for image in self.images)
            return tuple(freeze(view.copy()) for view in self._views[max_pixels])
        return tuple(downscale(image, max_pixels) for image in self.images)

    def grade(self, answer: str | None) -> Grade:
        """Grade an extracted answer; None means the policy never answered.

        The grade's `correct` is None where only a judge could tell and there is none.
        """
        return self.grader(answer, self.references)

    def demonstrate(
        self, rng: Random, *, use_tools: bool = True, aim_noise: Sequence[float] | float = 0
    ) -> list[str]:
        """Action texts, one a turn, that solve the task the way its source shows it.

        `aim_noise` is read by sources whose demonstrator can miss; 0 never misses. Raises LookupError for a
        task of a source that has no demonstrations.
        """
        if self.demonstrator is None:
            raise LookupError(f"task {self.id} has no demonstration")
        return self.demonstrator(rng, use_tools=use_tools, aim_noise=aim_noise)

    def describe(self) -> dict[str, Any]:
        """The task's identity, without images, question or answer."""
        return {
            "id": self.id,
            "index": self.index,
            "split": self.split,
            "source": self.source,
            "needs_tools": self.needs_tools,
        }


class TaskSource(Protocol):
    """An ordered collection of tasks. `get` may be called from several threads."""

    @property
    def num_tasks(self) -> int:
        """How many tasks there are; a large number where they are made on demand."""
        ...

    def get(self, index: int) -> Task:
        """Task `index` of 0 .. num_tasks - 1, always the same one. Raises IndexError outside."""
        ...


def check_split(split: str) -> str:
    """`split` if it is one of `SPLITS`, else ValueError."""
    if split not in SPLITS:
        raise ValueError(unknown_name("split", split, SPLITS))
    return split


def check_index(index: int, num_tasks: int, where: str) -> int:
    """`index` as an int in range. Raises IndexError outside, TypeError for anything but an integer."""
    if isinstance(index, bool) or not isinstance(index, int | np.integer):
        raise TypeError(f"a task index is an integer, not {type(index).__name__}")
    if not 0 <= index < num_tasks:
        raise IndexError(f"{where} has tasks 0 to {num_tasks - 1}, not {index}")
    return int(index)
