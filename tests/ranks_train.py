"""`axpo_algo.train` as torchrun starts it; rank 1 kills itself in the second step, in a stage that is named.

torchrun --nproc-per-node 2 tests/ranks_train.py rollout|update|saving|never KEY=VALUE ...
"""

import os
import signal
import sys

from axpo_algo import train, trainer
from axpo_algo.learner import Learner

stage, *arguments = sys.argv[1:]
calls = 0


def dies(function):
    """`function`, which does not return from its second call."""

    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    if os.environ["RANK"] == "1" and stage == "rollout":
        trainer.Trainer._roll_out = dies(trainer.Trainer._roll_out)
    elif os.environ["RANK"] == "1" and stage == "update":
        Learner._backward = dies(Learner._backward)
    elif os.environ["RANK"] == "1" and stage == "saving":
        train.save_checkpoint = dies(train.save_checkpoint)
    train.main(arguments)
