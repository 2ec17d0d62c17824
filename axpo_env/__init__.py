"""Gymnasium environments where a policy answers questions about images with tools; they snapshot and fork.

Importing this registers the ids below and does nothing else: no task is made, no sandbox started, until an
environment is. Training is left to others; nothing here knows tokens.

    env = gymnasium.make("AXPO/ChartQA-Tools-v0", split="train", source="synthetic", difficulty="nano")
"""

import gymnasium

__all__ = ["IDS", "register_all"]

IDS = {  # environment id -> benchmark
    "AXPO/ChartQA-Tools-v0": "chartqa",
    "AXPO/MathVision-Tools-v0": "mathvision",
    "AXPO/DynaMath-Tools-v0": "dynamath",
    "AXPO/MathVR-Tools-v0": "mathvr",
    "AXPO/VStar-Tools-v0": "vstar",
    "AXPO/VisualProbe-Tools-v0": "visualprobe",
    "AXPO/HRBench4K-Tools-v0": "hrbench4k",
    "AXPO/HRBench8K-Tools-v0": "hrbench8k",
    "AXPO/HRMMSearch-Tools-v0": "hrmmsearch",
    "AXPO/MMSearch-Tools-v0": "mmsearch",
}


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
