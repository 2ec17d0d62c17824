"""`image-search`: pages by their images, for words or for a look-alike of one of the episode's images.

Offline, found images join the episode's and the policy sees them. On the web, Tavily finds images for words only and
gives their urls and descriptions; they are not fetched. Where it looks is as in `search`. A task may come with what
such a search found for its first image; then that is what a look-alike of it gives, unless the tool has its own pages.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from axpo_env.names import shorten
from axpo_env.tools.base import ArgumentError, ToolResult, ToolUnavailable, function_schema
from axpo_env.tools.page_index import ImageResult, PageIndex, is_excluded
from axpo_env.tools.search import MAX_NAME_CHARS, PageSearch, check_query, describe

if TYPE_CHECKING:
    from axpo_env.state import EpisodeState
    from axpo_env.tools.interpreter import Interpreter

DEFAULT_RESULTS = 3
MAX_RESULTS = 5


class ImageSearch(PageSearch):
    """Find images for `query`, or ones that look like image `img_idx`."""

    name = "image-search"
    schema = function_schema(
        "image-search",
        "Search for images, and the pages they stand on: give words, or the number of an image to find ones "
        "that look like it.",
        {
            "query": {"type": "string", "description": "what to look for"},
            "img_idx": {"type": "integer", "description": "which image to look for, counted from 0"},
            "max_results": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_RESULTS,
                "description": "how many images at most",
                "default": DEFAULT_RESULTS,
            },
        },
        required=(),
    )

    def run(
        self, arguments: Mapping[str, Any], state: "EpisodeState", interpreter: "Interpreter"
    ) -> ToolResult:
        if ("query" in arguments) == ("img_idx" in arguments):
            raise ArgumentError("give either query or img_idx")
        limit = arguments.get("max_results", DEFAULT_RESULTS)
        number = arguments.get("img_idx", 0)
        if "img_idx" in arguments and not 0 <= number < len(state.images):
            raise ArgumentError(f"img_idx is {shorten(number)}, images are 0 to {len(state.images) - 1}")
        published = state.task.image_search_result
        if "img_idx" in arguments and number == 0 and published is not None and not self.has_pages:
            return ToolResult(text="What an image search for image 0 found:", images=(published,))
        index = self.index_for(state)
        if "img_idx" in arguments:
            if index is None:
                raise ArgumentError("the web search for images takes a query only, no img_idx")
            return self._found(index, state, None, number, limit)
        query = check_query(arguments["query"])
        if index is None:
            return self._search_web(query, limit)
        return self._found(index, state, query, 0, limit)

    def _found(
        self, index: PageIndex, state: "EpisodeState", query: str | None, number: int, limit: int
    ) -> ToolResult:
        options: dict[str, Any] = {"max_results": limit, "max_chars": self.max_content_chars}
        results: Sequence[ImageResult]
        try:
            if query is None:
                results = index.images_like(state.images[number], **options)
            else:
                results = index.images_about(query, **options)
        except (OSError, ValueError) as error:
            raise ToolUnavailable(f"a page's image: {error}") from error
        if not results:
            return ToolResult(text="No images found.")
        first = len(state.images)
        texts = [describe(result, f"Image {place}:") for place, result in enumerate(results, start=first)]
        return ToolResult(text="\n\n".join(texts), images=tuple(result.image for result in results))

    def _search_web(self, query: str, limit: int) -> ToolResult:
        request = {
            "query": query,
            "exclude_domains": list(self.exclude_domains),
            "include_images": True,
            "include_image_descriptions": True,
        }
        answer = self.engine.search(request)
        images = answer.get("images")
        if not isinstance(images, list):
            raise ToolUnavailable("a search for images gave an answer without images")
        texts: list[str] = []
        for item in images:
            url, description = _url_and_description(item)
            if not is_excluded(url, self.exclude_domains):
                texts.append(f"{len(texts) + 1}. {url[:MAX_NAME_CHARS]}\n{description}".rstrip())
        shown = "\n\n".join(text[: self.max_content_chars] for text in texts[:limit])
        return ToolResult(text=shown or "No images found.")


def _url_and_description(item: Any) -> tuple[str, str]:
    """Tavily gives urls, or objects with url and description."""
    if isinstance(item, str):
        return item, ""
    if isinstance(item, dict) and isinstance(item.get("url"), str):
        return item["url"], str(item.get("description") or "")
    raise ToolUnavailable(f"an image result of another shape: {shorten(item)}")
