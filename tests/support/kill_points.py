"""Runs trainings that are killed in the middle of a checkpoint, and goes on with them.

    python kill_points.py RECIPE FOLDER CALLS DELAYS [KEY=VALUE]…

Each training is a fork of this process, which has imported everything. ``CALLS`` trainings get
SIGKILL at a file-system call, drawn at random, of their second checkpoint; ``DELAYS`` trainings,
which write a checkpoint at every step, get it after a random time. Each is then resumed and its
bundle compared with that of a training that nobody disturbed.

Prints one JSON object: the number of file-system calls of a checkpoint, for each kill the step of
the checkpoint that was found after it, and how many trainings ended with the same weights.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

from llmbind_cli.errors import ModelNotFoundError
from llmbind_cli.training import checkpoints, run

STEPS = 6
CALLS_SEEN = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir"}


class Trainings:
    """Trainings of one recipe, each in a process and a folder of its own."""

    def __init__(self, recipe: Path, folder: Path, overrides: list[str]) -> None:
        self.recipe, self.folder = recipe, folder
        self.overrides = [f"train.steps={STEPS}", "train.accumulation=1", *overrides]
        self.found: list[int] = []
        self.survived = 0
        assert self.start("whole", every=3)() == 0
        self.expected = self.weights("whole")

    def start(self, name, *, every, resume=False, before=lambda: None):
        """Fork a training; return what waits for its end and tells how it ended."""
        child = os.fork()
        if child == 0:
            try:
                before()
                run.train(
                    self.recipe,
                    output=self.folder / name,
                    overrides=[*self.overrides, f"train.checkpoint_every={every}"],
                    resume=resume,
                )
            except ModelNotFoundError:
                os._exit(10)
            except BaseException as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                os._exit(1)
            os._exit(0)

        def wait():
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        wait.pid = child
        return wait

    def weights(self, name):
        """The bytes of a bundle's weights."""
        bundle = self.folder / name / "bundle"
        names = ("adapter/adapter_model.safetensors", "heads.safetensors")
        return [(bundle / name).read_bytes() for name in names]

    def resume(self, name, *, every):
        """Go on with a killed training and compare its end with that of the undisturbed one."""
        progress = self.folder / name / "last" / "progress.json"
        present = checkpoints.has_checkpoint(self.folder / name)
        self.found.append(json.loads(progress.read_text())["step"] if present else 0)
        if not present:  # killed before there was anything to resume: a new run in a new folder
            name = f"{name}-anew"
        code = self.start(name, every=every, resume=present)()
        self.survived += code == 0 and self.weights(name) == self.expected


def calls_of_second_checkpoint(act):
    """Have ``act`` called with the number of each file-system call of the second checkpoint."""
    state = {"checkpoints": 0, "inside": False, "calls": 0}
    save, fsync = checkpoints.save_checkpoint, os.fsync

    def saving(*args, **kwargs):
        state["checkpoints"] += 1
        state["inside"] = state["checkpoints"] == 2
        save(*args, **kwargs)
        state["inside"] = False

    def seen(event, _):
        if state["inside"] and event in CALLS_SEEN:
            state["calls"] += 1
            act(state["calls"])

    def flush(descriptor):
        seen("open", ())
        fsync(descriptor)

    run.save_checkpoint = saving
    os.fsync = flush
    sys.addaudithook(seen)


def kill_at(number):
    """Have this process killed at a call of its second checkpoint."""
    calls_of_second_checkpoint(
        lambda call: os.kill(os.getpid(), signal.SIGKILL) if call == number else None
    )


def killed_after(trainings, name, delay_s):
    """Kill a training after a time, a shorter one if it ended before; return its folder's name.

    How long a training takes varies with what else the machine does, so that one may end before
    its kill, which is then no kill.
    """
    for attempt in range(10):
        wait = trainings.start(f"{name}-{attempt}", every=1)
        time.sleep(delay_s / 2**attempt)
        os.kill(wait.pid, signal.SIGKILL)
        if wait() == -signal.SIGKILL:
            return f"{name}-{attempt}"
    raise AssertionError(f"ten trainings ended within {delay_s} s and less")


def main():
    """Kill, resume, compare, report."""
    recipe, folder = Path(sys.argv[1]), Path(sys.argv[2])
    num_calls, num_delays, overrides = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
    trainings = Trainings(recipe, folder, overrides)
    counter = folder / "calls"

    def count():
        calls_of_second_checkpoint(lambda call: os.write(descriptor, b"."))

    descriptor = os.open(counter, os.O_WRONLY | os.O_CREAT)
    assert trainings.start("counted", every=3, before=count)() == 0
    total = counter.stat().st_size
    draw = random.Random(0)
    for number in sorted(draw.sample(range(1, total + 1), min(num_calls, total))):
        name = f"call-{number}"
        killed = trainings.start(name, every=3, before=partial(kill_at, number))()
        assert killed == -signal.SIGKILL, (number, killed)
        trainings.resume(name, every=3)

    began = time.monotonic()
    assert trainings.start("timed", every=1)() == 0
    whole_s = time.monotonic() - began
    for number in range(num_delays):
        name = killed_after(trainings, f"delay-{number}", whole_s * draw.uniform(0.25, 0.75))
        trainings.resume(name, every=1)
    report = {"calls": total, "found": trainings.found, "survived": trainings.survived}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
