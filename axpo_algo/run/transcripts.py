"""Groups of trajectories as transcripts to read: who wrote what, with the images where they were shown."""

from collections.abc import Sequence

from axpo_algo.models.chat import Chat
from axpo_algo.run.pages import Message, Transcript
from axpo_algo.types import Group, Trajectory

__all__ = ["transcripts"]


def transcripts(groups: Sequence[Group], chat: Chat, *, num_shown: int) -> list[Transcript]:
    """Up to `num_shown` trajectories: those with continuations first, each followed by its continuations."""
    shown: list[Transcript] = []
    names = [
        f"question {number}" + (f" of {group.env_name}" if group.env_name else "")
        for number, group in enumerate(groups)
    ]
    for name, group in zip(names, groups, strict=True):
        for source, copies in group.continuations.items():
            shown.append(_transcript(f"{name}, rollout {source}: source", group.trajectories[source], chat))
            shown += [
                _transcript(f"{name}, rollout {source}, continuation {k}", copy, chat)
                for k, copy in enumerate(copies)
            ]
    for name, group in zip(names, groups, strict=True):
        shown += [
            _transcript(f"{name}, rollout {k}", trajectory, chat)
            for k, trajectory in enumerate(group.trajectories)
        ]
    return shown[:num_shown]


def _transcript(title: str, trajectory: Trajectory, chat: Chat) -> Transcript:
    facts: dict[str, object] = {"reward": trajectory.reward, "status": trajectory.status}
    if trajectory.confidence is not None:
        facts["confidence in the call"] = trajectory.confidence
    if trajectory.source is not None:
        facts["tokens kept from the source"] = trajectory.prefix_length
    messages = []
    at, image_at = 0, 0
    for turn in trajectory.turns:
        observed = trajectory.token_ids[at : turn.start]
        count = trajectory.num_images_before(turn.start, chat.image_token_id)
        images = [image.pixels for image in trajectory.images[image_at:count]]
        messages.append(Message(role="environment", text=chat.readable(observed), images=images))
        messages.append(Message(role="policy", text=turn.text))
        at, image_at = turn.end, count
    return Transcript(title=title, facts=facts, messages=messages)
