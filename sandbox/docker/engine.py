"""The Docker engine at DOCKER_HOST: reaching it, finding an image in it. Every trouble is SandboxUnavailable,
saying what to do.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from sandbox.base import SandboxUnavailable, unknown_name

_TIMEOUT_S = 60
_MAKE_IMAGE = "`python -m sandbox.docker.image` makes one"


def connect() -> Any:
    """A docker.DockerClient. Raises SandboxUnavailable."""
    try:
        import docker
    except ImportError as error:
        raise SandboxUnavailable(
            "the docker backend needs the package docker; install it with: pip install 'axpo[docker]'"
        ) from error
    with outage("no Docker engine answers"):
        client = docker.from_env(timeout=_TIMEOUT_S)
        client.ping()
    return client


@contextlib.contextmanager
def outage(what: str) -> Iterator[None]:
    """Turn what the docker package raises into SandboxUnavailable("`what` at ...")."""
    import docker
    import requests

    try:
        yield
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        host = os.environ.get("DOCKER_HOST") or "the usual socket (DOCKER_HOST is not set)"
        raise SandboxUnavailable(f"{what} at {host}: {error}. Start an engine, or set DOCKER_HOST.") from error


def find_image(client: Any, name: str) -> str:
    """The id of image `name`. Raises SandboxUnavailable naming those there are."""
    import docker

    with outage(f"cannot ask for image {name!r}"):
        try:
            return str(client.images.get(name).id)
        except docker.errors.ImageNotFound:
            tags = sorted(tag for image in client.images.list() for tag in image.tags)
        except docker.errors.APIError as error:
            if error.response is None or error.response.status_code != 400:
                raise
            raise SandboxUnavailable(f"{name!r} is no name of an image: {error.explanation}") from error
    if not tags:
        raise SandboxUnavailable(f"no image {name!r}: the engine has none at all; {_MAKE_IMAGE}")
    raise SandboxUnavailable(f"{unknown_name('image', name, tags)}; {_MAKE_IMAGE}")


def memory_of(client: Any) -> int:
    """Bytes of memory of the engine's machine."""
    with outage("cannot ask for its memory"):
        return int(client.info()["MemTotal"])
