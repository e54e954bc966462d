"""``vie-pretrain`` with something done to it, as the environment says; run by ``torchrun``, or by forks.

STILL=1: batch norm stays in eval mode, as it sees each rank's own clips, so that only then several ranks are one.
KILL=STEP:RANK:SIGNAL: a rank sends itself a signal in the middle of a step.
SLOW=SECONDS: every step takes so long.
LATE=SECONDS: the first rank waits so long before it puts a checkpoint in its place.
"""
# ruff: noqa: E402

import gc
import importlib
import os
import signal
import sys
import time
from typing import Any

gc.disable()  # until the imports are done, which are most of a short run, and it is a quarter of them

from torch import Tensor, nn

from pretrain.checkpoint import Checkpoints
from pretrain.cli import main
from pretrain.objective import Objective

importlib.import_module("pretrain.train")  # as main would do
gc.freeze()
gc.enable()


def run(arguments: list[str]) -> None:
    """Does what the environment says, to this process for good, and then what the command says."""
    if os.environ.get("STILL"):
        for norm in (nn.BatchNorm2d, nn.BatchNorm3d):
            norm.forward = lambda self, x: nn.functional.batch_norm(  # type: ignore[method-assign]
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )

    loss = Objective.loss
    kill_step, kill_rank, kill_signal = os.environ.get("KILL", "-1:0:SIGKILL").split(":")

    def interrupted(self: Objective, embedding: Tensor, instances: Tensor, step: int) -> Any:
        time.sleep(float(os.environ.get("SLOW", "0")))
        if step == int(kill_step) and os.environ.get("RANK", "0") == kill_rank:
            os.kill(os.getpid(), signal.Signals[kill_signal])
        return loss(self, embedding, instances, step)

    finish = Checkpoints.finish

    def late(self: Checkpoints) -> None:
        if self._writing is not None and self.ranks.rank == 0:
            time.sleep(float(os.environ.get("LATE", "0")))
        finish(self)

    Objective.loss = interrupted  # type: ignore[method-assign]
    Checkpoints.finish = late  # type: ignore[method-assign]
    main(arguments)


if __name__ == "__main__":
    run(sys.argv[1:])
