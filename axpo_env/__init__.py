"""Gymnasium environments where a policy answers questions about images with tools; they snapshot and fork.

Importing this registers the ids below and does nothing else: no task is made, no sandbox started, until an
environment is. Training is left to others; nothing here knows tokens.

    env = gymnasium.make("AXPO/ChartQA-Tools-v0", split="train", source="synthetic", difficulty="nano")
"""

import gymnasium

__all__ = ["IDS", "register_all"]

IDS = {"AXPO/ChartQA-Tools-v0": "chartqa"}  # environment id -> benchmark


def register_all() -> None:
    """Register every id with Gymnasium; ids already there are left alone."""
    for env_id, benchmark in IDS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                id=env_id,
                entry_point="axpo_env.env:ToolEnv",
                vector_entry_point="axpo_env.vector:make_threaded",
                kwargs={"benchmark": benchmark},
            )


register_all()
