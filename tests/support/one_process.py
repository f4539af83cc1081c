"""``llmbind`` as one process of several, for tests of what launchers start.

    torchrun … one_process.py ARGUMENTS…

ZeRO 3 shards tensors of any size here, since all tensors of a small model are small. With
``DIES_AT=RANK:STEP`` the process of that rank gets SIGKILL (or the signal ``DIES_BY``) in that
step of the launcher's first attempt.
"""

from __future__ import annotations

import os
import signal
import sys

from llmbind_cli.app import main
from llmbind_cli.training import deepspeed_engine
from llmbind_cli.training.deepspeed_engine import DeepSpeedEngine

deepspeed_engine.PERSISTENT_ELEMENTS = 0
rank, _, step = os.environ.get("DIES_AT", "-1:0").partition(":")
is_first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
if rank == os.environ.get("RANK") and is_first_attempt:
    take_step = DeepSpeedEngine.step
    steps = iter(range(1, 1_000_000))

    def dying(engine):
        if next(steps) == int(step):
            os.kill(os.getpid(), int(os.environ.get("DIES_BY", signal.SIGKILL)))
        return take_step(engine)

    DeepSpeedEngine.step = dying

sys.exit(main())
