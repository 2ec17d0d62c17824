"""Finding pages offline: by words (SQLite's full-text index, bm25) and by looks (nearest thumbnails).

The same pages and query give the same results in every process. Results have the shape of a web search's:
title, url, content, score. What a policy sees of them is left to the tools. Every page may be found: it is the
user's own.

Chinese, Japanese and Korean are written without spaces between words, or with other things at their ends: there, any
two signs in a row count as a word.
"""

import os
import re
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from axpo_env.tools.pages import PageLike, load_image, read_folder

TITLE_WEIGHT = 3.0  # a word in the title counts as this many in the text
MAX_TERMS = 64  # words of a query that are looked for
THUMBNAIL_PX = 16
# Han, kana, Hangul.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_CJK_SIGN = re.compile(f"([{_CJK}])")
_WORD = re.compile(rf"[{_CJK}]+|[^\W{_CJK}]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """One hit, as a web search gives it."""

    title: str
    url: str
    content: str  # the passage that fits best
    score: float  # 0 to 1, higher is better


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageResult(SearchResult):
    """One hit with an image."""

    image: NDArray[np.uint8]  # [H, W, 3]


class PageIndex:
    """An index of pages, built when first used. Thread-safe; copies share it, other processes build their own."""

    def __init__(self, pages: Iterable[PageLike]) -> None:
        self.pages = tuple(pages)
        self._lock = threading.Lock()
        self._owner: int | None = (
            None  # process in which the two below were built: a fork must not share them
        )
        self._words: sqlite3.Connection | None = None
        self._looks: tuple[NDArray[np.float32], tuple[int, ...]] | None = None  # thumbnails, their pages

    def __deepcopy__(self, memo: Any) -> "PageIndex":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return PageIndex, (self.pages,)

    def search(self, query: str, *, max_results: int, max_chars: int) -> list[SearchResult]:
        """At most `max_results` pages that share words with `query`, best first.

        Each with a passage of at most about `max_chars` characters.
        """
        terms = query_terms(query)
        found: list[SearchResult] = []
        for number, score in self._matches(terms, max_results):
            page = self.pages[number]
            content = passage(page.content, terms, max_chars)
            found.append(SearchResult(title=page.title, url=page.url, content=content, score=score))
        return found

    def images_about(self, query: str, *, max_results: int, max_chars: int) -> list[ImageResult]:
        """As `search`, among the pages that have an image."""
        terms = query_terms(query)
        matches = self._matches(terms, max_results, with_image=True)
        return [self._with_image(number, score, terms, max_chars) for number, score in matches]

    def images_like(self, image: NDArray[np.uint8], *, max_results: int, max_chars: int) -> list[ImageResult]:
        """The pages whose images look most like `image` [H, W, 3], best first; equal ones in page order."""
        thumbnails, numbers = self._ready_looks()
        if not numbers:
            return []
        difference = thumbnails - thumbnail(image)
        scores = 1 / (1 + np.sqrt((difference**2).mean(axis=1)))
        order = [int(place) for place in np.argsort(-scores, kind="stable")]
        return [
            self._with_image(numbers[at], round(float(scores[at]), 6), (), max_chars)
            for at in order[:max_results]
        ]

    def _with_image(self, number: int, score: float, terms: Sequence[str], max_chars: int) -> ImageResult:
        page = self.pages[number]
        image = load_image(page)
        assert image is not None
        content = passage(page.content, terms, max_chars)
        return ImageResult(title=page.title, url=page.url, content=content, score=score, image=image)

    def _matches(
        self, terms: Sequence[str], limit: int, *, with_image: bool = False
    ) -> list[tuple[int, float]]:
        """(page number, score) of the best matches. bm25 is lower for better, below 0 for every match."""
        if not terms:
            return []
        match = " OR ".join(f'"{_apart(term)}"' for term in terms)
        rows = f"SELECT rowid, bm25(pages, {TITLE_WEIGHT}, 1.0) AS rank FROM pages WHERE pages MATCH ?"
        found: list[tuple[int, float]] = []
        with self._lock:
            for number, rank in self._ready_words().execute(f"{rows} ORDER BY rank, rowid", (match,)):
                page = self.pages[number]
                if with_image and page.image is None:
                    continue
                found.append((number, _score(rank)))
                if len(found) == limit:
                    break
        return found

    def _ready_words(self) -> sqlite3.Connection:
        self._forget_other_process()
        if self._words is None:
            words = sqlite3.connect(":memory:", check_same_thread=False)  # the lock is ours
            tokens = "porter unicode61 remove_diacritics 2"
            words.execute(f"CREATE VIRTUAL TABLE pages USING fts5(title, content, tokenize='{tokens}')")
            rows = (
                (number, _apart(page.title), _apart(page.content)) for number, page in enumerate(self.pages)
            )
            words.executemany("INSERT INTO pages(rowid, title, content) VALUES (?, ?, ?)", rows)
            self._words = words
        return self._words

    def _ready_looks(self) -> tuple[NDArray[np.float32], tuple[int, ...]]:
        with self._lock:
            self._forget_other_process()
            if self._looks is None:
                numbers = tuple(n for n, page in enumerate(self.pages) if page.image is not None)
                images = (load_image(self.pages[number]) for number in numbers)
                rows = [thumbnail(image) for image in images if image is not None]
                self._looks = (np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32), numbers)
            return self._looks

    def _forget_other_process(self) -> None:
        if self._owner != os.getpid():
            self._owner, self._words, self._looks = os.getpid(), None, None


@lru_cache(maxsize=8)
def folder_index(folder: str) -> PageIndex:
    """The index of a folder of pages, read once per process: results do not change while a run goes on."""
    return PageIndex(read_folder(folder))


def query_terms(query: str) -> tuple[str, ...]:
    """The distinct words of `query`, in order, case folded; at most `MAX_TERMS`. "日本語" is "日本" and "本語"."""
    words = (part for word in _WORD.findall(query.casefold()) for part in _pairs(word))
    return tuple(dict.fromkeys(words))[:MAX_TERMS]


def _pairs(word: str) -> list[str]:
    """Any two signs in a row of a word in Han, kana or Hangul; any other word, or a single sign, as it is."""
    if len(word) == 1 or not _CJK_SIGN.match(word):
        return [word]
    return [word[at : at + 2] for at in range(len(word) - 1)]


def _words_in(text: str) -> set[str]:
    """All that a term of a query may be found as in `text`."""
    words = _WORD.findall(text.casefold())
    return {part for word in words for part in _pairs(word)} | set(_CJK_SIGN.findall(text))


def _apart(text: str) -> str:
    """`text` with each sign of Han, kana or Hangul as a word of its own, for the index; a pair is then a phrase."""
    return _CJK_SIGN.sub(r" \1 ", text).strip()


def _score(rank: float) -> float:
    """0 to 1, higher for a better bm25. The fourth root keeps words seen on nearly all pages, which bm25 all but
    drops (it gives them a millionth), above 0 and in their order."""
    root = float((-rank) ** 0.25)
    return round(root / (1 + root), 6)


def is_excluded(url: str, domains: Sequence[str]) -> bool:
    """Whether `url` lies in one of `domains` or below it."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return False
    return any(host == domain or host.endswith("." + domain) for domain in domains)


def passage(content: str, terms: Sequence[str], max_chars: int) -> str:
    """The run of whole sentences of at most `max_chars` characters with most of `terms`; the first of equals."""
    if len(content) <= max_chars:
        return content
    sentences = [sentence for sentence in _SENTENCE_END.split(content) if sentence.strip()]
    wanted = set(terms)
    has = [wanted & _words_in(sentence) for sentence in sentences]
    best, best_count = (0, 1), -1
    for start in [at for at, words in enumerate(has) if words] or [0]:
        end, length, seen = start, 0, set[str]()
        while end < len(sentences) and (end == start or length + len(sentences[end]) <= max_chars):
            length += len(sentences[end]) + 1
            seen |= has[end]
            end += 1
        if len(seen) > best_count:
            best, best_count = (start, end), len(seen)
    start, end = best
    text = " ".join(sentence.strip() for sentence in sentences[start:end])
    if len(text) > max_chars:
        text, end = text[:max_chars], 0
    return f"{'... ' if start else ''}{text}{' ...' if end < len(sentences) else ''}"


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What an image looks like from afar, as a vector: a small copy, freed of brightness and contrast.

    Its mean colour is added with a small weight, so that plain images differ, too.
    """
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small = PILImage.fromarray(image).resize(size, PILImage.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)
    spread = max(float(pixels.std()), 8.0)  # in a plain image, noise must not become a pattern
    centred = (pixels - pixels.mean()) / spread
    colour = np.repeat(pixels.mean(axis=(0, 1)) / 128, THUMBNAIL_PX)
    return np.concatenate([centred.ravel(), colour]).astype(np.float32)
