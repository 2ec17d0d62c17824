"""Files of a data set: in a folder, or fetched one by one from a hub repository.

Some data sets keep their images beside the table rather than in it; a row then holds a path.
"""

from pathlib import Path, PurePosixPath
from typing import Protocol


class Files(Protocol):
    """Where a row's paths point to."""

    def read(self, path: str) -> bytes:
        """The file's bytes. Raises FileNotFoundError where there is none, ValueError for a path that leads outside."""
        ...


class FolderFiles:
    """Files in a folder; a path may start with the folder's own name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str) -> bytes:
        for inside in _candidates(path):
            if (self.folder / inside).is_file():
                return (self.folder / inside).read_bytes()
        raise FileNotFoundError(f"no file {path!r} in {self.folder}")


class HubFiles:
    """Files of a hub repository of data, kept in the hub's cache once fetched."""

    def __init__(self, name: str) -> None:
        try:
            import huggingface_hub
        except ImportError as error:
            raise ImportError("reading from the hub needs datasets: pip install 'axpo[data]'") from error
        self.name = name
        self._hub = huggingface_hub

    def fetch(self, path: str) -> Path:
        """The local copy of a file of the repository."""
        return Path(self._hub.hf_hub_download(self.name, path, repo_type="dataset"))

    def read(self, path: str) -> bytes:
        reason: Exception | None = None
        for inside in _candidates(path):
            try:
                return self.fetch(inside).read_bytes()
            except self._hub.errors.EntryNotFoundError as error:
                reason = error
        raise FileNotFoundError(f"no file {path!r} in {self.name}: {reason}") from reason


def _candidates(path: str) -> list[str]:
    """`path` inside a repository, as it stands and without its first folder. Raises ValueError if it leads out."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ValueError(f"the path {path!r} leads outside of the data set")
    return [str(pure)] + ([str(PurePosixPath(*pure.parts[1:]))] if len(pure.parts) > 1 else [])
