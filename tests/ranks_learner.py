"""Run by torchrun: an update, a supervised step and a checkpoint of several ranks against those of one process.

    torchrun --nproc-per-node N tests/ranks_learner.py FOLDER [OTHER]

Every rank also does the work of all by itself, and compares. Rank 1 has no images, the last rank no samples. Goes on
from the checkpoints it has written to FOLDER, and from those in OTHER, which another number of ranks has written.
"""

import copy
import sys
from pathlib import Path

import torch
from test_packing import Maker, group

from axpo_algo.config import LoraConfig, LossConfig, OptimizerConfig, PolicyConfig
from axpo_algo.distributed import SINGLE, ranks_of_torchrun, whole
from axpo_algo.learner import Learner
from axpo_algo.models.nano import NanoConfig, build_nano
from axpo_algo.policies import _for_training
from axpo_algo.run.checkpoint import load_checkpoint, save_checkpoint
from axpo_algo.types import Sample

TOLERANCE = 1e-5


def make_policy(*, tied, seed=3, **config):
    nano = NanoConfig(vision_depth=2, deepstack=(0,), num_layers=2, tie_word_embeddings=tied)
    return _for_training(build_nano(nano, seed=seed), PolicyConfig(device="cpu", **config))


def make_learner(policy, reference, ranks, *, lora_rank=0, offload=False, **loss):
    loss = LossConfig(max_tokens_per_micro_batch=120, kl_coefficient=0.1, **loss)
    # eps: a step in proportion to the gradient, so that rounding stays rounding.
    optimizer = OptimizerConfig(
        learning_rate=1e-2, eps=1e-2, warmup_steps=0, max_grad_norm=1e9, offload=offload
    )
    return Learner(
        policy, reference, loss=loss, optimizer=optimizer, lora=LoraConfig(rank=lora_rank), ranks=ranks
    )


def make_parts(policy, size):
    """Samples of each rank."""
    maker = Maker(policy, 0)
    parts = [[] for _ in range(size)]
    for number in range(max(1, size - 1)):
        if number == 1:
            texts = [maker.trajectory(maker.question(with_image=False), turns=1, length=n) for n in (4, 9)]
            parts[1] = [Sample(trajectory=t, advantage=-0.5, length=len(t.token_ids)) for t in texts]
        else:
            parts[number] = [s for n in range(number + 1) for s in group(maker, continuations=n + 1)]
    return parts


def require_close(name, mine, reference, *, rounding=0.0):
    error = float(((mine - reference).norm() - rounding) / reference.norm().clamp(min=1e-12))
    if not error <= TOLERANCE:
        raise AssertionError(f"{name}: relative error {error:.2g}")


def compare(one, several, before):
    """Weights and moments of two learners; of weights what has changed since `before`. The first moment is the
    gradient, by a factor."""
    found = several.policy.model.state_dict()
    for name, value in one.policy.model.state_dict().items():
        if torch.equal(value, before[name]):
            assert torch.equal(found[name], value), name
        rounding = float(value.norm()) * torch.finfo(torch.float32).eps
        require_close(name, found[name] - before[name], value - before[name], rounding=rounding)
    tensors = several.tensors()
    for name, value in one.tensors().items():
        if name.startswith("weights."):
            continue
        power = 0.5 if name.endswith("exp_avg_sq") else 1
        require_close(name, whole(tensors[name]) ** power, value**power)


SETUPS = [
    (True, {}, {}),
    (False, {"gradient_checkpointing": True}, {"share_prefixes": False}),
    (True, {"freeze_vision": True}, {"offload": True}),
    (True, {}, {"lora_rank": 4}),
]


def run(ranks, folder, other_folder):
    for number, (tied, config, loss) in enumerate(SETUPS):
        policy = make_policy(tied=tied, **config)
        other = copy.deepcopy(policy)
        before = {name: value.clone() for name, value in policy.model.state_dict().items()}
        parts = make_parts(policy, ranks.size)
        reference = make_policy(tied=tied, seed=4)  # another policy, so that there is a KL term
        one = make_learner(policy, reference.clone_frozen(), SINGLE, **loss)
        several = make_learner(other, reference.clone_frozen(), ranks, **loss)
        everything = [sample for part in parts for sample in part]
        wanted = one.update(everything, num_trajectories=20)
        found = several.update(parts[ranks.rank], num_trajectories=20)
        for name in ("loss", "kl", "num_trained_tokens", "clip_fraction", "importance_weight"):
            require_close(name, torch.tensor(found[name]), torch.tensor(wanted[name]))
        compare(one, several, before)
        path = folder / str(number)
        save_checkpoint(path, 1, other, several.counters(), several.tensors(), keep=1, ranks=ranks)

        demonstrations = [sample.trajectory for part in make_parts(policy, 4) for sample in part]
        mine = ranks.slice(len(demonstrations))
        wanted = one.update_supervised(demonstrations, learning_rate=1e-2)
        found = several.update_supervised(demonstrations[mine.start : mine.stop], learning_rate=1e-2)
        require_close("supervised loss", torch.tensor(found["loss"]), torch.tensor(wanted["loss"]))
        if ranks.is_main:
            torch.save(found, path / "supervised.pt")
        for folder_of in filter(None, (folder, other_folder)):
            resumed = make_policy(tied=tied, **config)
            again = make_learner(resumed, None, ranks, **loss)
            checkpoint = folder_of / str(number) / "step-000001"
            _, counters = load_checkpoint(checkpoint, resumed, again.tensors(), ranks=ranks)
            again.set_counters(counters)
            assert again.num_updates == 1
            going_on = again.update_supervised(demonstrations[mine.start : mine.stop], learning_rate=1e-2)
            known = torch.load(folder_of / str(number) / "supervised.pt")
            if folder_of == folder:
                assert going_on == found
            require_close("resumed loss", torch.tensor(going_on["loss"]), torch.tensor(known["loss"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ranks_of_torchrun(timeout_s=60) as ranks:
        run(ranks, Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    print("equal")
