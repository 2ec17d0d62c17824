"""Web search by Tavily's client, with bounded retries and every answer cached on disk.

The only file that knows tavily-python (`pip install 'axpo[search]'`). The key is read from TAVILY_API_KEY when a
request is made and kept nowhere; without one, only cached requests are answered.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from axpo_env.tools.base import ToolUnavailable
from axpo_env.tools.search_cache import ResponseCache

KEY = "TAVILY_API_KEY"
TIMEOUT_S = 20.0  # of one try
NUM_TRIES = 3
FIRST_PAUSE_S = 1.0  # doubled after every try
_FINAL = ("InvalidAPIKeyError", "MissingAPIKeyError", "ForbiddenError", "BadRequestError")


class TavilyEngine:
    """Asks Tavily, or the cache. Thread-safe; pickles and copies without its connections."""

    def __init__(
        self,
        *,
        cache: str | Path | None = None,  # folder of answers; None: the user's cache folder
        api_base_url: str | None = None,  # None: Tavily's own
        timeout_s: float = TIMEOUT_S,
        num_tries: int = NUM_TRIES,
        first_pause_s: float = FIRST_PAUSE_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if num_tries < 1:
            raise ValueError(f"num_tries must be at least 1, not {num_tries}")
        self._cache = ResponseCache(cache)
        self._api_base_url = api_base_url
        self._timeout_s, self._num_tries, self._first_pause_s = timeout_s, num_tries, first_pause_s
        self._sleep = sleep
        self._clients = threading.local()  # the client's connections are not made for several threads

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_clients"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._clients = threading.local()

    def search(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Tavily's answer to `request` (keywords of its client's `search`), the same for ever.

        Raises ToolUnavailable where neither the cache nor Tavily answers.
        """
        cached = self._cache.get(request)
        response = self._cache.put(request, self._ask(request)) if cached is None else cached
        return dict(response)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        client = self._client()
        problem = ""
        for attempt in range(self._num_tries):
            if attempt:
                self._sleep(self._first_pause_s * 2 ** (attempt - 1))
            try:
                response = client.search(**request, timeout=self._timeout_s)
            except Exception as error:  # the client raises its own errors, requests' and what JSON raises
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
                if _is_final(error):
                    break
            else:
                if isinstance(response, dict) and isinstance(response.get("results"), list):
                    return response
                problem = "an answer without results"
        raise ToolUnavailable(f"Tavily: {problem} ({attempt + 1} of {self._num_tries} tries)")

    def _client(self) -> Any:
        key = os.environ.get(KEY)
        if not key:
            raise ToolUnavailable(f"no answer in the search cache, and {KEY} is not set")
        if getattr(self._clients, "key", None) != key:
            try:
                from tavily import TavilyClient
            except ImportError as error:
                raise ToolUnavailable("web search needs tavily-python: pip install 'axpo[search]'") from error
            base = {} if self._api_base_url is None else {"api_base_url": self._api_base_url}
            self._clients.client, self._clients.key = TavilyClient(key, **base), key
        return self._clients.client


def _is_final(error: Exception) -> bool:
    """Whether another try would end the same: the key or the request was refused. 408 and 429 come and go."""
    if type(error).__name__ in _FINAL:
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is not None and 400 <= status < 500 and status not in (408, 429)
