"""Pages to search offline: what a page is, and a folder of files as pages.

A page may have one image, given as an array or as a file that is decoded when it is needed. Finding pages is
left to `page_index`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from axpo_env.names import check_keys, check_text, shorten
from axpo_env.views import decode_image

SUFFIXES = (".md", ".txt", ".html", ".htm", ".json")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_IMAGE_PIXELS = 67_108_864
_MARKDOWN_TITLE = re.compile(r"^#\s+(.+?)\s*#*\s*$", re.MULTILINE)
_MARKDOWN_IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)[^)]*\)")
_PARTS = ("url", "title", "content", "image")  # of a page
_UNSEEN_TAGS = ("script", "style", "template")


class PageLike(Protocol):
    """What is searched; any class with these four will do."""

    @property
    def url(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def image(self) -> Any:
        """uint8 [H, W, 3], a Path of an image file, or None."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """One page."""

    url: str
    title: str
    content: str  # plain text
    image: NDArray[np.uint8] | Path | None = None  # [H, W, 3], or a file that holds it


def load_image(page: PageLike) -> NDArray[np.uint8] | None:
    """The page's image, read-only [H, W, 3]; None if it has none. Raises ValueError, OSError for a bad file."""
    if page.image is None or isinstance(page.image, np.ndarray):
        return page.image
    try:
        return decode_image(Path(page.image).read_bytes(), max_pixels=MAX_IMAGE_PIXELS)
    except ValueError as error:
        raise ValueError(f"{page.image}: {error}") from error


def check_pages(pages: Iterable[PageLike]) -> tuple[PageLike, ...]:
    """`pages` as a tuple. Raises TypeError or ValueError for none, or for what is no page."""
    if isinstance(pages, str | bytes | Mapping) or not isinstance(pages, Iterable):
        raise TypeError(f"pages is a sequence of pages, not {shorten(pages)}")
    pages = tuple(pages)
    if not pages:
        raise ValueError("pages is empty")
    for number, page in enumerate(pages):
        where = f"pages[{number}]"
        lacking = ", ".join(name for name in _PARTS if not hasattr(page, name))
        if lacking:
            needs = f"must have {', '.join(_PARTS)}, as a Page does"
            raise TypeError(f"{where} {needs}; {type(page).__name__} has no {lacking}")
        for name in ("url", "title", "content"):
            check_text(f"{where}: {name}", getattr(page, name))
        _check_image(f"{where}: image", page.image)
    return pages


def _check_image(name: str, image: Any) -> None:
    given = shorten(image)
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
            return
        given = f"{image.dtype} {list(image.shape)}"
    elif image is None or isinstance(image, str | Path):
        return
    raise TypeError(f"{name} must be an array uint8 [H, W, 3], a file or None, not {given}")


def check_folder(folder: str | Path) -> Path:
    """`folder` as an absolute path. Raises TypeError for what is no path, NotADirectoryError for no folder."""
    if not isinstance(folder, str | Path):
        raise TypeError(f"folder must be a path, not {shorten(folder)}")
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise NotADirectoryError(f"no folder of pages: {path}")
    return path


def read_folder(folder: str | Path) -> list[Page]:
    """The pages of all .md, .txt, .html and .json files in `folder` and below, in order of their paths.

    A page's title is its first heading (Markdown), its <title> (HTML) or the file's name; its url is the path
    within the folder; its image the first local one it shows, else a picture beside it with the same name.
    A .json file holds one object, or a list of them, with `content` and, if need be, `title`, `url` and `image`
    (a path). Raises ValueError for a file that cannot be read so, or a folder without pages.
    """
    root = check_not_empty(folder)
    pages = [page for path in sorted(_files(root)) for page in _read_file(path, root)]
    if not pages:
        raise ValueError(f"no page in the files of {root}")
    return pages


def check_not_empty(folder: str | Path) -> Path:
    """As `check_folder`. Raises ValueError for a folder without a file of pages, too."""
    root = check_folder(folder)
    if next(_files(root), None) is None:
        raise ValueError(f"no {', '.join(SUFFIXES)} in {root}")
    return root


def _files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _read_file(path: Path, root: Path) -> Iterator[Page]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            yield from _read_json(json.loads(text), path, root)
            return
    except ValueError as error:  # not UTF-8, not JSON, or not of the form
        raise ValueError(f"{path}: {error}") from error
    title, content, shown = path.stem, text, []
    if path.suffix.lower() == ".md":
        heading = _MARKDOWN_TITLE.search(text)
        title = heading.group(1) if heading else title
        shown = _MARKDOWN_IMAGE.findall(text)
        content = _MARKDOWN_IMAGE.sub("", text)
    elif path.suffix.lower() in (".html", ".htm"):
        reader = _HtmlReader()
        reader.feed(text)
        reader.close()
        title, content, shown = reader.title or title, reader.content, reader.images
    image = _find_image(path, root, shown)
    yield Page(url=path.relative_to(root).as_posix(), title=title, content=content.strip(), image=image)


def _read_json(data: Any, path: Path, root: Path) -> Iterator[Page]:
    many = isinstance(data, list)
    for number, item in enumerate(data if many else [data]):
        where = f"[{number}]" if many else ""
        if not isinstance(item, dict):
            raise ValueError(f"page{where} must be an object, not {type(item).__name__}")
        check_keys("key of a page", item, _PARTS)
        for name, value in item.items():
            if not isinstance(value, str) and not (value is None and name == "image"):
                raise ValueError(f"page{where}: {name} must be a string, not {type(value).__name__}")
        if "content" not in item:
            raise ValueError(f"page{where} lacks 'content'")
        image = None
        if item.get("image"):
            image = _inside(path.parent / item["image"], root)
            if image is None:
                raise ValueError(f"page{where}: no image {item['image']} in the folder")
        name = path.relative_to(root).as_posix()
        yield Page(
            url=item.get("url", name + (f"#{number}" if many else "")),
            title=item.get("title", path.stem),
            content=item["content"],
            image=image,
        )


def _find_image(path: Path, root: Path, shown: list[str]) -> Path | None:
    beside = [path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES]
    for candidate in (*(path.parent / name for name in shown if "://" not in name), *beside):
        found = _inside(candidate, root)
        if found is not None:
            return found
    return None


def _inside(path: Path, root: Path) -> Path | None:
    """`path` if it is an image file within `root`: pages from elsewhere must not show the rest of the disk."""
    try:
        path = path.resolve()
        good = path.suffix.lower() in IMAGE_SUFFIXES and path.is_relative_to(root) and path.is_file()
    except (OSError, ValueError):  # no name of a file
        return None
    return path if good else None


class _HtmlReader(HTMLParser):
    """Title, visible text and image sources."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.images: list[str] = []
        self._parts: list[str] = []
        self._open: list[str] = []  # of the tags whose text is not shown, and title

    @property
    def content(self) -> str:
        lines = (" ".join(line.split()) for line in "".join(self._parts).splitlines())
        return "\n".join(line for line in lines if line)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in (*_UNSEEN_TAGS, "title"):
            self._open.append(tag)
        elif tag == "img":
            self.images += [value for name, value in attrs if name == "src" and value]
        elif tag in ("p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4"):
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            self._open.remove(tag)
        elif tag in ("p", "div", "li", "tr", "td", "th", "h1", "h2", "h3", "h4"):
            self._parts.append(" " if tag in ("td", "th") else "\n")

    def handle_data(self, data: str) -> None:
        if "title" in self._open:
            self.title = " ".join(f"{self.title} {data}".split())
        elif not self._open:
            self._parts.append(data)
