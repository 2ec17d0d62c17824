"""What generated families share: levels, an item, the source that makes and caches tasks.

A family draws an item's data, question and solution first and paints its images only when a task is asked for; so
a question can be had without its pixels. Which families there are is said in `families`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, ClassVar, Generic, TypeVar, cast, get_args, get_origin

from PIL import Image

from axpo_env.grading.options import LETTERS, show_options
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.names import shorten, unknown_name
from axpo_env.tasks.base import SPLITS, Grader, Random, Task, check_index, check_split
from axpo_env.tasks.cache import task_cache
from axpo_env.tasks.synthetic.answers import grade_exact, grade_option
from axpo_env.tasks.synthetic.draws import item_rng
from axpo_env.views import from_pil

NUM_TASKS = 2**31 - 1  # per split: as good as unlimited
CAP_SHARE = 0.7  # a capital letter's height as a share of the font's size

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Box1000 = tuple[int, int, int, int]  # the same in thousandths of width and height
Solve = Callable[[Random, Sequence[float] | float], list[str]]  # rng, aim_noise -> actions, one a turn


class AnyLevel:
    """What the levels of every family can tell. They are dataclasses, whose fields are their knobs."""

    name: str
    view_pixels: int  # the policy's max_pixels the level is meant for: with more, small print turns legible
    from_zero: ClassVar[tuple[str, ...]] = ()  # whole numbers that may be 0
    ranges: ClassVar[tuple[str, ...]] = ()  # pairs that are a fewest and a most

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError naming a knob that will not do."""
        for item in fields(cast(Any, self)):
            value, name = getattr(self, item.name), f"{item.name} of a {type(self).__name__}"
            if not _fits(value, item.type):
                kind = item.type.__name__ if type(item.type) is type else item.type
                raise TypeError(f"{name} must be {kind}, not {shorten(value)}")
            least = 0 if item.name in self.from_zero or "float" in str(item.type) else 1
            parts = value if isinstance(value, tuple) else (value,)
            if not all(least <= part < math.inf for part in parts if type(part) in (int, float)):
                raise ValueError(f"{name} must be at least {least}, not {shorten(value)}")
            if item.name in self.ranges and value[0] > value[1]:
                raise ValueError(f"{name} must be from fewest to most, not {shorten(value)}")
            if value == () and item.default != ():
                raise ValueError(f"{name} must hold one or more")

    def print_px(self, font_px: int, width_px: float, height_px: float) -> float:
        """How high a capital letter or digit of print is seen in a view of a part so wide and high."""
        return CAP_SHARE * font_px * min(1.0, math.sqrt(self.view_pixels / (width_px * height_px)))

    @property
    def knobs(self) -> str:
        """All knobs as text: two levels make the same items just if these agree."""
        return repr([(item.name, getattr(self, item.name)) for item in fields(cast(Any, self))])


def _fits(value: Any, kind: Any) -> bool:
    """Whether `value` is of the type that a knob is declared with."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        parts = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if origin is not None:
        return isinstance(value, Mapping) and all(map(_fits, value.values(), parts[1:] * len(value)))
    return type(value) is int if kind is int else isinstance(value, int | float if kind is float else kind)


@dataclass(frozen=True, kw_only=True)
class Level(AnyLevel):
    """A level of any family but charts, which have their own order of knobs. Each family adds its own."""

    name: str
    view_pixels: int
    stain_depth: float = 0.6  # how much of the light the darkest stains under small print take; 0: no stains


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One question, before anything is painted."""

    kind: str
    question: str
    answer: str
    aliases: tuple[str, ...] = ()  # other right answers
    guesses: tuple[str, ...]  # what one may answer who does not look, each as likely
    guess_note: str = "guess"  # what one thinks who does not look
    needs_tools: tuple[str, ...]
    gold_boxes: tuple[Box1000, ...] = ()
    places: tuple[Box1000, ...] = ()
    paint: Callable[[], tuple[Image.Image, ...]]
    solve: Solve
    grader: Grader = grade_exact
    details: Mapping[str, Any] = field(default_factory=dict)


LevelT = TypeVar("LevelT", bound=AnyLevel)
Kind = TypeVar("Kind")


class GeneratedSource(ABC, Generic[LevelT]):
    """The tasks of one family, level and split: items, painted when asked for and then kept in a cache.

    Task `index` is made from nothing but `key`, split and index. All sources share the cache, and any number of
    threads may share a source.
    """

    family: ClassVar[str]
    levels: ClassVar[Mapping[str, AnyLevel]]
    asks: ClassVar[Mapping[str, Any]] = {}  # by kind of question, where levels have `kinds`

    def __init__(self, *, split: str, difficulty: str | LevelT, form: str = "") -> None:
        """`form` is the benchmark whose manner of asking is followed; families say what they know.

        Raises ValueError for an unknown split, level or kind of question, TypeError for a level of another family.
        """
        self.split, self.form = check_split(split), form
        self.level: LevelT = self._find_level(difficulty)
        for kind in getattr(self.level, "kinds", None) or ():
            find_kind(self.asks, kind)
        # Other knobs make other items, so their ids must not be taken for the named level's.
        named = self.levels.get(self.level.name) == self.level
        self.key = "/".join(part for part in (self.family, form, self.level.name) if part)
        self.key += "" if named else self.level.knobs

    @property
    def num_tasks(self) -> int:
        return NUM_TASKS

    def _find_level(self, difficulty: str | LevelT) -> Any:
        if isinstance(difficulty, str):
            if difficulty not in self.levels:
                raise ValueError(unknown_name(f"difficulty of {self.family}", difficulty, self.levels))
            return self.levels[difficulty]
        wanted = type(next(iter(self.levels.values())))
        if not isinstance(difficulty, wanted):
            raise TypeError(
                f"{self.family} take a level's name or a {wanted.__name__}, not a {type(difficulty).__name__}"
            )
        return difficulty

    @abstractmethod
    def draw(self, rng: Any, index: int) -> Item:
        """Item `index`, from `rng` alone where the family does not say otherwise."""

    def item(self, index: int) -> Item:
        """Item `index` without its pixels."""
        index = check_index(index, self.num_tasks, self.key)
        return self.draw(item_rng(self.key, self.split, index), index)

    def get(self, index: int) -> Task:
        index = check_index(index, self.num_tasks, self.key)
        return task_cache.get(f"{self.key}/{self.split}/{index}", lambda: self._make(index))

    def _make(self, index: int) -> Task:
        item = self.item(index)
        return Task(
            id=f"{self.key}/{self.split}/{index}",
            index=index,
            split=self.split,
            source="synthetic",
            question=item.question,
            images=tuple(from_pil(picture) for picture in item.paint()),
            references=(item.answer, *item.aliases),
            needs_tools=item.needs_tools,
            gold_boxes=item.gold_boxes,
            places=item.places,
            details={"family": self.family, "level": self.level.name, "kind": item.kind, **item.details},
            grader=item.grader,
            demonstrator=_demonstrator(item),
        )


def _demonstrator(item: Item) -> Callable[..., list[str]]:
    def demonstrate(
        rng: Random, *, use_tools: bool = True, aim_noise: Sequence[float] | float = 0
    ) -> list[str]:
        if use_tools or not item.needs_tools:
            return item.solve(rng, aim_noise)
        # A single guess draws nothing: trained recipes rest on the numbers that follow.
        place = int(rng.random() * len(item.guesses)) if len(item.guesses) > 1 else 0
        return [format_action(item.guess_note, format_answer(item.guesses[place]))]

    return demonstrate


def find_kind(kinds: Mapping[str, Kind], name: str) -> Kind:
    """The kind of question called so. Raises ValueError naming those there are."""
    if name not in kinds:
        raise ValueError(unknown_name("question kind", name, kinds))
    return kinds[name]


def wording(split: str, wordings: tuple[str, str, str]) -> str:
    """The split's own way to ask: no two splits share a sentence."""
    return wordings[SPLITS.index(split)]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A multiple choice."""

    question: str  # with the options under it
    letter: str  # of the right one
    letters: tuple[str, ...]
    grader: Grader


def make_choice(rng: Random, question: str, answer: str, others: Sequence[str]) -> Choice:
    """`answer` among `others`, in random order."""
    options = sorted([answer, *others], key=lambda _: rng.random())
    return Choice(
        question=show_options(question, options),
        letter=LETTERS[options.index(answer)],
        letters=tuple(LETTERS[: len(options)]),
        grader=grade_option(options),
    )


def zoom_call(label: str, box: Box1000) -> str:
    """A call that zooms into a box."""
    return format_call("image_zoom_in", {"label": label, "bbox_2d": list(box)})


def to_1000(box: Box, width_px: int, height_px: int) -> Box1000:
    """A pixel box in thousandths of the image's sides, rounded outwards and kept inside."""
    left, top, right, bottom = box
    return (
        max(0, int(1000 * left // width_px)),
        max(0, int(1000 * top // height_px)),
        min(1000, int(-(-1000 * right // width_px))),
        min(1000, int(-(-1000 * bottom // height_px))),
    )
