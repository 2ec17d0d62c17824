"""Answers of a web service on disk, keyed by the request: what was asked once is answered the same for ever.

That makes a web search depend on its inputs only, as the snapshot law asks. Several processes and threads may
share a folder. The folder is never cleaned up.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axpo_env.tools.base import ToolUnavailable


def default_folder() -> Path:
    """Where answers go unless told otherwise: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "axpo_env" / "search"


class ResponseCache:
    """One JSON file per request. Whatever is wrong with the folder raises ToolUnavailable."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder).expanduser()

    def get(self, request: Mapping[str, Any]) -> Any:
        """The answer to `request` (JSON), or None if there is none yet."""
        path = self._path(request)
        try:
            return json.loads(path.read_bytes())["response"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ToolUnavailable(f"the search cache's {path} cannot be read: {error}") from error

    def put(self, request: Mapping[str, Any], response: Any) -> Any:
        """Keep `response` unless another came first. Returns the one that is kept."""
        path = self._path(request)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            data = json.dumps({"request": dict(request), "response": response}).encode()
            handle, draft = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                with contextlib.suppress(FileExistsError):
                    os.link(draft, path)  # unlike a rename, this never replaces
            finally:
                os.unlink(draft)
        except OSError as error:
            raise ToolUnavailable(f"the search cache's {path} cannot be written: {error}") from error
        return self.get(request)

    def _path(self, request: Mapping[str, Any]) -> Path:
        key = hashlib.sha256(json.dumps(dict(request), sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.json"
