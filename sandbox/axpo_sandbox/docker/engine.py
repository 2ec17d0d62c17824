"""The Docker engine at DOCKER_HOST: the only module that names the docker package. Every trouble is
SandboxUnavailable, saying what to do.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from axpo_sandbox.base import Closing, SandboxUnavailable
from axpo_sandbox.docker.advice import advice
from axpo_sandbox.names import unknown_name

_TIMEOUT_S = 60
_MAKE_IMAGE = "`python -m axpo_sandbox.docker.image` makes one"


class Engine(Closing):
    """What we ask of an engine. Threads may share it."""

    def __init__(self, timeout_s: int = _TIMEOUT_S) -> None:
        """Reach the one at DOCKER_HOST. timeout_s: of each request. Raises SandboxUnavailable."""
        try:
            import docker
        except ImportError as error:
            raise SandboxUnavailable(
                "the docker backend needs the package docker; install it with: pip install 'axpo[docker]'"
            ) from error
        with outage("the Docker engine refuses"):
            try:
                self._client = docker.from_env(timeout=timeout_s)
            except ValueError as error:  # a port that is none
                raise docker.errors.DockerException(str(error)) from error
            self._client.ping()
        self._api = self._client.api

    def close(self) -> None:
        """Close the connections to it; a later request opens one anew."""
        self._client.close()

    def find_image(self, name: str) -> str:
        """The id of image `name`. Raises SandboxUnavailable, naming those there are."""
        import docker

        with outage(f"cannot ask for image {name!r}"):
            try:
                return str(self._client.images.get(name).id)
            except docker.errors.ImageNotFound:
                tags = sorted(tag for image in self._client.images.list() for tag in image.tags)
            except docker.errors.APIError as error:
                if error.response is None or error.response.status_code != 400:
                    raise
                raise SandboxUnavailable(f"{name!r} is no name of an image: {error.explanation}") from error
        if not tags:
            raise SandboxUnavailable(f"no image {name!r}: the engine has none at all; {_MAKE_IMAGE}")
        raise SandboxUnavailable(f"{unknown_name('image', name, tags)}; {_MAKE_IMAGE}")

    def memory_bytes(self) -> int:
        """Memory of the engine's machine."""
        with outage("cannot ask for its memory"):
            return int(self._client.info()["MemTotal"])

    def create(
        self, image: str, *, host: Mapping[str, Any], more_host: Mapping[str, Any], **options: Any
    ) -> str:
        """Make a container; its id. host: for `create_host_config`; more_host: keys that has no name for."""
        with outage(f"cannot make a container of image {image!r}"):
            host_config = self._api.create_host_config(**host)
            host_config.update(more_host)
            return str(self._api.create_container(image, host_config=host_config, **options)["Id"])

    def attach(self, container_id: str) -> tuple[socket.socket, object]:
        """Its one stream, in and out, and the response it belongs to, to be closed after it."""
        with outage("cannot attach to a container"):
            raw = self._api.attach_socket(
                container_id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            )
        stream: socket.socket = getattr(raw, "_sock", raw)
        stream.settimeout(None)
        if isinstance(stream, socket.socket) and stream.family != socket.AF_UNIX:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # frames are short and awaited
        return stream, getattr(raw, "_response", raw)

    def start(self, container_id: str) -> None:
        """Start a container. Raises SandboxUnavailable."""
        with outage("cannot start a container"):
            self._api.start(container_id)

    def remove(self, container_id: str) -> None:
        """Kill and remove a container, if it is still there, and the engine, too."""
        import docker
        import requests

        with contextlib.suppress(
            docker.errors.DockerException, requests.exceptions.RequestException, OSError
        ):
            self._api.remove_container(container_id, force=True, v=True)

    def containers(self, label: str) -> list[tuple[str, dict[str, str]]]:
        """(id, labels) of all containers with `label`, running or not."""
        with outage("cannot list containers"):
            listed = self._api.containers(all=True, filters={"label": label})
        return [(str(item["Id"]), dict(item.get("Labels") or {})) for item in listed]

    def put_archive(self, container_id: str, folder: str, archive: bytes) -> None:
        """Unpack a tar archive into a container's folder."""
        with outage("cannot write into a container"):
            self._api.put_archive(container_id, folder, archive)

    def get_archive(self, container_id: str, path: str, max_bytes: int) -> bytes | None:
        """A file of a container as a tar archive; None if there is no such file. Raises SandboxUnavailable."""
        import docker

        with outage("cannot read from a container"):
            try:
                chunks, _ = self._api.get_archive(container_id, path)
            except docker.errors.NotFound:
                return None
            data = bytearray()
            for chunk in chunks:
                data += chunk
                if len(data) > max_bytes:
                    raise SandboxUnavailable(f"{path} of the image is longer than {max_bytes} bytes")
            return bytes(data)

    def commit(self, container_id: str, name: str, changes: Sequence[str]) -> str:
        """Make an image called `name` of a container; its id."""
        repository, tag = split_name(name)
        with outage(f"cannot make image {name!r}"):
            made = str(self._api.commit(container_id, changes="\n".join(changes))["Id"])
            try:
                self._api.tag(made, repository, tag, force=True)
            except BaseException:
                self.remove_image(made)  # or it would stay without a name
                raise
        return made

    def build_image(self, folder: Path, name: str, arguments: Mapping[str, str]) -> str:
        """Build the Dockerfile in `folder`; the image's id. Raises SandboxUnavailable with the last lines of it."""
        import docker

        with outage(f"cannot build image {name!r}"):
            try:
                image, _ = self._client.images.build(
                    path=str(folder), tag=name, buildargs=dict(arguments), rm=True, forcerm=True
                )
            except docker.errors.BuildError as error:
                lines = [str(line.get("stream", "")).strip() for line in error.build_log]
                said = " | ".join(line for line in lines if line)[-2000:]
                raise SandboxUnavailable(f"cannot build image {name!r}: {error}: {said}") from error
        return str(image.id)

    def import_image(self, archive: Iterator[bytes], name: str, changes: Sequence[str]) -> str:
        """Make an image of a root folder's tar archive; its id."""
        repository, tag = split_name(name)
        with outage(f"cannot import image {name!r}"):
            self._api.import_image(
                src=archive, repository=repository, tag=tag, changes=list(changes), stream_src=True
            )
        return self.find_image(name)

    def remove_image(self, image_id: str) -> None:
        """Remove an image that no container uses."""
        with outage(f"cannot remove image {image_id!r}"):
            self._api.remove_image(image_id)

    def image_bytes(self, image_id: str) -> int:
        """Size of an image, what it shares with others included."""
        with outage(f"cannot ask for image {image_id!r}"):
            return int(self._api.inspect_image(image_id)["Size"])


def split_name(name: str) -> tuple[str, str]:
    """("registry:5000/a/b", "tag") of an image's name; the tag is "latest" if it has none."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")


@contextlib.contextmanager
def outage(what: str) -> Iterator[None]:
    """Turn what the docker package and those below it raise into SandboxUnavailable, with what helps.

    what: said of an engine that answers, and refuses.
    """
    import docker
    import requests

    try:
        yield
    except docker.errors.APIError as error:  # it answered, so it is there
        said = str(error.explanation or error).strip().rstrip(".")
        raise SandboxUnavailable(_sentences(f"{what}: {said}", advice(said))) from error
    except Exception as error:
        known = docker.errors.DockerException | requests.exceptions.RequestException | OSError
        if not isinstance(error, known) and not type(error).__module__.startswith("paramiko"):
            raise
        host = os.environ.get("DOCKER_HOST") or "the usual socket (DOCKER_HOST is not set)"
        said = _cause(error)
        helps = advice(f"{type(error).__module__} {said}") or "Start an engine, or set DOCKER_HOST to one."
        # The packages below add three pages and no fact.
        raise SandboxUnavailable(_sentences(f"no Docker engine answers at {host}: {said}", helps)) from None


def _sentences(*sentences: str) -> str:
    return " ".join(sentence.rstrip(".") + "." for sentence in sentences if sentence)


def _cause(error: BaseException) -> str:
    """What the operating system said at the bottom of an error, or else the error itself."""
    found, waiting = str(error), [error]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, OSError) and inner.strerror:
            found = inner.strerror
        nested = [argument for argument in inner.args if isinstance(argument, BaseException)]
        waiting += [*nested, *(item for item in (inner.__cause__, inner.__context__) if item is not None)]
    return found
