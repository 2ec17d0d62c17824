"""`tavily-search`: a search for pages, on the web or offline, with one shape of results.

Where it looks: in the pages or folder it is given; else, for a synthetic task, in the synthetic encyclopaedia;
else on the web by Tavily. Finding is left to `page_index` and `tavily`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axpo_env.names import check_text, check_whole, shorten
from axpo_env.tools.base import ArgumentError, ToolResult, ToolUnavailable, function_schema
from axpo_env.tools.page_index import PageIndex, SearchResult, folder_index, is_excluded
from axpo_env.tools.pages import PageLike, check_not_empty, check_pages
from axpo_env.tools.tavily import TavilyEngine

if TYPE_CHECKING:
    from axpo_env.state import EpisodeState
    from axpo_env.tools.interpreter import Interpreter

EXCLUDED_DOMAINS = ("huggingface.co",)  # hosts the benchmarks with their answers
DEFAULT_RESULTS = 5
MAX_RESULTS = 10
MAX_QUERY_CHARS = 400  # Tavily's own limit
MAX_CONTENT_CHARS = 1_000  # of one result
MAX_NAME_CHARS = 300  # of a title, of a url


class PageSearch:
    """Where a search tool looks. Settings only: copies and pickles stay small.

    Raises TypeError, ValueError or NotADirectoryError for options that will not do. A file that cannot be read as
    pages is an outage of the search.
    """

    def __init__(
        self,
        *,
        folder: str | Path | None = None,  # pages as .md, .txt, .html or .json files
        pages: Iterable[PageLike] | None = None,  # or pages at hand
        online: bool | None = None,  # True: Tavily for every task; False: never; None: as the module says
        exclude_domains: Sequence[str] = EXCLUDED_DOMAINS,  # of the web; pages at hand are all searched
        engine: TavilyEngine | None = None,  # how to ask Tavily; None: with its defaults
        max_content_chars: int = MAX_CONTENT_CHARS,
    ) -> None:
        given = [value is not None for value in (folder, pages)] + [online is True]
        if sum(given) > 1:
            raise ValueError("give one of folder, pages and online=True")
        if online is not None and not isinstance(online, bool):
            raise TypeError(f"online must be True, False or None, not {shorten(online)}")
        if isinstance(exclude_domains, str) or not isinstance(exclude_domains, Iterable):
            raise TypeError(f"exclude_domains is a sequence of domains, not {shorten(exclude_domains)}")
        exclude_domains = [check_text("exclude_domains: a domain", domain) for domain in exclude_domains]
        if engine is not None and not callable(getattr(engine, "search", None)):
            raise TypeError(f"engine must be a TavilyEngine, not {shorten(engine)}")
        check_whole("max_content_chars", max_content_chars)
        self.exclude_domains = tuple(domain.lower().strip(".") for domain in exclude_domains)
        self.max_content_chars = max_content_chars
        self.engine = TavilyEngine() if engine is None else engine
        self._folder = None if folder is None else str(check_not_empty(folder))
        self._index = None if pages is None else PageIndex(check_pages(pages))
        self._online = online

    @property
    def has_pages(self) -> bool:
        """Whether it was given pages to search, or a folder of them."""
        return self._index is not None or self._folder is not None

    def index_for(self, state: "EpisodeState") -> PageIndex | None:
        """The pages to search in this episode; None: search the web. Raises ToolUnavailable for neither."""
        if self._index is not None:
            return self._index
        if self._folder is not None:
            try:
                return folder_index(self._folder)
            except (OSError, ValueError) as error:
                raise ToolUnavailable(f"the folder of pages: {error}") from error
        if self._online:
            return None
        if state.task.source == "synthetic":
            return encyclopaedia_index(int(state.task.details.get("encyclopaedia_seed", 0)))
        if self._online is False:
            raise ToolUnavailable("no pages to search offline: give Search(folder=...)")
        return None


class Search(PageSearch):
    """Find pages for `query`: title, url, best passage and score of each."""

    name = "tavily-search"
    schema = function_schema(
        "tavily-search",
        "Search for pages. Returns titles, urls and the passages that fit best.",
        {
            "query": {"type": "string", "description": "what to look for"},
            "max_results": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_RESULTS,
                "description": "how many pages at most",
                "default": DEFAULT_RESULTS,
            },
        },
        required=("query",),
    )

    def run(
        self, arguments: Mapping[str, Any], state: "EpisodeState", interpreter: "Interpreter"
    ) -> ToolResult:
        query = check_query(arguments["query"])
        limit = arguments.get("max_results", DEFAULT_RESULTS)
        index = self.index_for(state)
        if index is None:
            results = self._search_web(query, limit)
        else:
            results = index.search(query, max_results=limit, max_chars=self.max_content_chars)
        texts = [describe(result, f"{number}.") for number, result in enumerate(results, start=1)]
        return ToolResult(text="\n\n".join(texts) or f"No results for {shorten(query)}.")

    def _search_web(self, query: str, limit: int) -> list[SearchResult]:
        request = {"query": query, "max_results": limit, "exclude_domains": list(self.exclude_domains)}
        answer = self.engine.search(request)
        return read_results(answer["results"], self.exclude_domains, self.max_content_chars)[:limit]


def check_query(query: str) -> str:
    """`query` without blanks around it. Raises ArgumentError for one that no engine takes."""
    query = " ".join(query.split())
    if not query:
        raise ArgumentError("query is empty")
    if len(query) > MAX_QUERY_CHARS:
        raise ArgumentError(f"query has {len(query)} characters, at most {MAX_QUERY_CHARS} are allowed")
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError("query is not valid Unicode") from error
    return query


def read_results(items: Sequence[Any], exclude_domains: Sequence[str], max_chars: int) -> list[SearchResult]:
    """A web search's results, without excluded domains. Raises ToolUnavailable if they are not of the shape."""
    results = []
    for item in items:
        try:
            result = SearchResult(
                title=str(item["title"]),
                url=str(item["url"]),
                content=str(item["content"])[:max_chars],
                score=float(item["score"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ToolUnavailable(f"a search result of another shape: {error!r}") from error
        if not is_excluded(result.url, exclude_domains):
            results.append(result)
    return results


def describe(result: SearchResult, label: str) -> str:
    """One result as the policy reads it."""
    title = " ".join(result.title.split())[:MAX_NAME_CHARS]
    lines = [f"{label} {title}", f"URL: {result.url[:MAX_NAME_CHARS]}", f"Score: {result.score:.2f}"]
    return "\n".join([*lines, result.content]).rstrip()


@lru_cache(maxsize=64)
def encyclopaedia_index(seed: int) -> PageIndex:
    """The index of the synthetic encyclopaedia of `seed`."""
    from axpo_env.tasks.synthetic.encyclopaedia import encyclopaedia

    return PageIndex(encyclopaedia(seed))
