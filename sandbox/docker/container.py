"""One container: made, attached to before it starts, ended. What is said over its stream is left to `link`."""

import contextlib
import os
import secrets
import socket
from typing import Any

from sandbox.docker import reaper
from sandbox.docker.bundle import BOOT
from sandbox.docker.config import DockerConfig
from sandbox.docker.engine import memory_of, outage
from sandbox.docker.profiles import USER, host_options, open_paths

NAME_PREFIX = "axpo-sandbox-"


class Container:
    """A started container and the two ends of its one stream. It is removed by the engine when it ends."""

    def __init__(self, client: Any, image_id: str, config: DockerConfig, profile: str) -> None:
        """Make, attach, start. Raises SandboxUnavailable, with nothing left behind."""
        self._api = client.api
        self._owner_pid = os.getpid()
        self.memory_bytes = config.total_memory_bytes or memory_of(client) * 3 // 4
        self.num_processes = config.total_processes
        self.name = NAME_PREFIX + secrets.token_hex(6)
        self.id = ""
        try:
            with outage(f"cannot start a container of image {config.image!r}"):
                self.id = self._create(image_id, config, profile)
                self.stream = self._attach()
                self._api.start(self.id)
        except BaseException:
            self.remove()
            raise

    def _create(self, image_id: str, config: DockerConfig, profile: str) -> str:
        host_config = self._api.create_host_config(
            **host_options(
                profile,
                memory_bytes=self.memory_bytes,
                num_processes=self.num_processes,
                num_cpus=config.num_cpus,
            )
        )
        host_config.update(open_paths(profile))
        made = self._api.create_container(
            image_id,
            name=self.name,
            entrypoint=[config.python, "-I", "-c", BOOT],
            command=[],
            stdin_open=True,  # until we let go of it, once
            user=USER,
            working_dir="/",
            network_disabled=True,
            labels=reaper.owner_labels(),
            healthcheck={"test": ["NONE"]},
            host_config=host_config,
        )
        return str(made["Id"])

    def _attach(self) -> socket.socket:
        # Before the start, so that nothing is missed; and the response's buffer holds nothing of the stream.
        raw = self._api.attach_socket(self.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self._raw = raw  # closes the stream if it is collected
        stream: socket.socket = getattr(raw, "_sock", raw)
        stream.settimeout(None)
        return stream

    def remove(self) -> None:
        """End it at once. Idempotent; does nothing in a process forked from the one that made it."""
        name, self.id = self.id, ""
        if name and self._owner_pid == os.getpid():
            remove(self._api, name)


def remove(api: Any, container_id: str) -> None:
    """Kill and remove a container, if it is still there and the engine, too."""
    import docker
    import requests

    with contextlib.suppress(docker.errors.DockerException, requests.exceptions.RequestException, OSError):
        api.remove_container(container_id, force=True, v=True)
