"""One rank of two, started with torchrun's variables: is late, raises, or dies, while the other waits.

WORLD_SIZE=2 RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=... ranks_failing.py WHAT WHERE
"""

import os
import signal
import sys
import time

from axpo_algo import distributed

distributed.SILENCE_S, distributed.GRACE_S = 4.0, 1.0
what, where = sys.argv[1:]

with distributed.ranks_of_torchrun(timeout_s=2.0 if what == "late" else 600.0) as ranks:
    ranks.barrier()
    if ranks.rank == 1:
        if what == "late":
            time.sleep(6.0)
        elif what == "raises":
            raise ValueError("the disk is full")
        elif what == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
    found = ranks.gather(ranks.rank) if where == "gather" else ranks.sum(ranks.rank)
print(found)
