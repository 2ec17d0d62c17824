"""One container: made, attached to before it starts, ended. What is said over its stream is left to `link`."""

import os
import secrets

from axpo_sandbox.docker import reaper
from axpo_sandbox.docker.bundle import BOOT
from axpo_sandbox.docker.config import DockerConfig
from axpo_sandbox.docker.engine import Engine
from axpo_sandbox.docker.profiles import USER, host_options, open_paths

NAME_PREFIX = "axpo-sandbox-"


class Container:
    """A started container and its one stream. The engine removes it when it ends."""

    def __init__(self, engine: Engine, image_id: str, config: DockerConfig, profile: str) -> None:
        """Make, attach, start. Raises SandboxUnavailable, with nothing left behind."""
        self._engine = engine
        self._owner_pid = os.getpid()
        self._response: object = None
        self.memory_bytes = config.total_memory_bytes or engine.memory_bytes() * 3 // 4
        self.name = NAME_PREFIX + secrets.token_hex(6)
        self.id = engine.create(
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
            host=host_options(
                profile,
                memory_bytes=self.memory_bytes,
                num_processes=config.total_processes,
                num_cpus=config.num_cpus,
            ),
            more_host=open_paths(profile),
        )
        try:
            # Before the start, so that nothing is missed, and the response's own buffer holds nothing of it.
            self.stream, self._response = engine.attach(self.id)
            engine.start(self.id)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """End it at once. Idempotent; in a process forked from the one that made it, let go of the stream alone."""
        close = getattr(self._response, "close", None)
        if close is not None:
            close()  # it holds the stream's socket open, however often that is closed
        container_id, self.id = self.id, ""
        if container_id and self._owner_pid == os.getpid():
            self._engine.remove(container_id)
