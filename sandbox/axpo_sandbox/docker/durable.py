"""Snapshots as images: what an engine keeps, and a registry carries, when no process is left.

All that a session writes lies in memory, so an image of its container would hold none of it. What is kept is the
journal, in an image on top of the one the sandbox runs: with it, the same packages are there when it is replayed.
"""

import io
import tarfile

from axpo_sandbox.base import SandboxUnavailable
from axpo_sandbox.docker import reaper
from axpo_sandbox.docker.engine import Engine

FOLDER, NAME = "/", "axpo-journal.json"
LABEL = "axpo.sandbox.journal"
_MAX_BYTES = 1 << 30


def commit(engine: Engine, base_image: str, journal: bytes, name: str) -> str:
    """Make image `name`, "repository:tag", of a journal; its id. Raises SandboxUnavailable."""
    container = _container(engine, base_image)
    try:
        engine.put_archive(container, FOLDER, _archive(journal))
        # A container's labels become its image's; these are no longer true there.
        stale = [f'LABEL {label}=""' for label in reaper.owner_labels()]
        return engine.commit(container, name, [*stale, f"LABEL {LABEL}={FOLDER}{NAME}"])
    finally:
        engine.remove(container)


def journal_of(engine: Engine, name: str) -> bytes:
    """The journal in image `name`. Raises SandboxUnavailable if there is no such image, or no journal in it."""
    container = _container(engine, engine.find_image(name))
    try:
        archive = engine.get_archive(container, FOLDER + NAME, _MAX_BYTES)
    finally:
        engine.remove(container)
    journal = None if archive is None else _unpacked(archive)
    if journal is None:
        raise SandboxUnavailable(f"image {name!r} was not made of a snapshot: it holds no {FOLDER}{NAME}")
    return journal


def _container(engine: Engine, image: str) -> str:
    """One that is never started: only its files are of use."""
    labels = reaper.owner_labels()
    return engine.create(image, host={}, more_host={}, labels=labels, entrypoint=["true"], command=[])


def _archive(journal: bytes) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        entry = tarfile.TarInfo(NAME)
        entry.size, entry.mode = len(journal), 0o444
        archive.addfile(entry, io.BytesIO(journal))
    return memory.getvalue()


def _unpacked(archive: bytes) -> bytes | None:
    """The file in an archive that is not trusted; None if there is none."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            member = opened.next()
            file = opened.extractfile(member) if member is not None and member.isreg() else None
            return None if file is None else file.read(_MAX_BYTES)
    except (tarfile.TarError, OSError):
        return None
