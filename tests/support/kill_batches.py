"""Runs batches that are killed at any moment, and goes on with them.

    python kill_batches.py BUNDLE FOLDER KILLS

Each batch is a fork of this process, which has imported everything and holds the model, whose
replies are scripted. Half of the batches get SIGKILL at a file-system call drawn at random, the
others after a random time. Each is then run again, and what lies in its folder is compared with
what a batch that nobody disturbed left.

Prints one JSON object: the number of file-system calls of a batch, how many results each kill
left, and for how many batches all came out the same.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import fake_makers

from llmbind_cli.app import main as llmbind
from llmbind_cli.inference import planner
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.model.decode import Reply
from llmbind_cli.model.loader import load_model
from llmbind_cli.tokens import encode_reply_text

CALLS_SEEN = {"open", "os.rename", "os.remove", "os.truncate"}
REPLIES = {
    "one": "<gen>picture</gen>",
    "two": "<vid_cap>clip</vid_cap>",
    "three": "<aud_cap>sound</aud_cap>",
    "four": "<aud_cap>sound</aud_cap> and <gen>picture</gen><edit>other</edit>",
    "five": "Words only.",
    "six": "<gen>cut",
}


def write_requests(path):
    """Write 18 requests of six kinds, and a line that is none."""
    rows = [{"id": f"{word} {n}", "prompt": f"{word} {n}"} for n in range(3) for word in REPLIES]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")


def decode(model, prompts, *, openings, **_options):
    """Answer as the table says, in place of the model."""
    replies = []
    for prompt, opening in zip(prompts, openings, strict=True):
        asked = model.tokenizer.decode(prompt).rpartition("<|im_start|>user")[2]
        said = next(reply for word, reply in REPLIES.items() if word in asked)
        ids = encode_reply_text(model.tokenizer, said, model.token_table)
        replies.append(Reply(ids=[*opening, *ids], finished=True))
    return replies


def at_file_system_calls(folder, act):
    """Have ``act`` called with the number of each call that touches a folder, from now on."""
    state = {"calls": 0}
    fsync = os.fsync

    def count():
        state["calls"] += 1
        act(state["calls"])

    def seen(event, arguments):
        if event in CALLS_SEEN and str(folder) in str(arguments[0]):
            count()

    def flush(descriptor):
        count()
        fsync(descriptor)

    os.fsync = flush
    sys.addaudithook(seen)


class Batches:
    """Batches of the same requests, each in a process and a folder of its own."""

    def __init__(self, bundle, folder):
        self.folder = folder
        self.arguments = ["generate", "--model", str(bundle), "--from", str(folder / "r.jsonl")]
        self.arguments += ["--batch-size", "4", "--quiet", "--debug", *fake_makers.FLAGS]
        self.left: list[int] = []
        self.survived = 0
        write_requests(folder / "r.jsonl")
        self.run("whole")
        self.whole = self.state("whole")
        assert len(self.whole[0]) == 18, sorted(self.whole[0])

    def start(self, name, before=lambda: None):
        """Fork a batch; return its process id."""
        child = os.fork()
        if child == 0:
            told = os.open(self.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(told, 1)
            os.dup2(told, 2)
            before()
            os._exit(llmbind([*self.arguments, "--out", str(self.folder / name)]))
        return child

    def run(self, name, before=lambda: None):
        """Run a batch to its end; three of its items answer in words, three are cut, one is bad."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.start(name, before), 0)[1])
        assert code == 3, (code, (self.folder / f"{name}.log").read_text())

    def state(self, name):
        """Name → content of all files made, and the manifest's lines but for order and time."""
        folder = self.folder / name
        files = {
            path.name: path.read_bytes()
            for path in folder.iterdir()
            if path.suffix != ".jsonl" and path.name != ".lock"
        }
        files.pop("job.json")
        return files, sorted(self.lines(folder / "manifest.jsonl"))

    def lines(self, manifest):
        for text in manifest.read_text().splitlines():
            fields = json.loads(text) | {"seconds": None}
            fields["files"] = [file | {"path": Path(file["path"]).name} for file in fields["files"]]
            yield json.dumps(fields)

    def killed_after(self, name, delay_s):
        """Start a batch, kill it after a while, and say whether it was still running."""
        child = self.start(name)
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1] == signal.SIGKILL

    def go_on(self, name):
        """Run a killed batch again, and compare."""
        manifest = self.folder / name / "manifest.jsonl"
        self.left.append(manifest.read_text().count("\n") if manifest.exists() else 0)
        self.run(name)
        if self.state(name) == self.whole:
            self.survived += 1
        else:
            sys.stderr.write(f"{name} differs\n")


def main():
    """Kill, run again, compare, report."""
    bundle, folder, num_kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    sys.path.insert(0, str(fake_makers.install(folder / "plug-in")))
    model = load_model(str(bundle), device="cpu")
    ModelOptions.load = lambda self: model
    planner.decode = decode
    batches = Batches(bundle, folder)

    counter = os.open(folder / "calls", os.O_WRONLY | os.O_CREAT)

    def count(_):
        os.write(counter, b".")

    batches.run("counted", before=lambda: at_file_system_calls(folder / "counted", count))
    total = os.fstat(counter).st_size
    draw = random.Random(0)
    for number in sorted(draw.sample(range(1, total + 1), num_kills // 2)):

        def kill(call, number=number):
            if call == number:
                os.kill(os.getpid(), signal.SIGKILL)

        name = f"call-{number}"
        act = functools.partial(at_file_system_calls, folder / name, kill)
        child = batches.start(name, before=act)
        end = os.waitpid(child, 0)[1]
        assert end == signal.SIGKILL, f"{name} ended with status {end}"
        batches.go_on(name)

    os.environ["FAKE_SLEEP_S"] = "0.02"  # long enough for a kill to fall anywhere
    began = time.monotonic()
    batches.run("timed")
    whole_s = time.monotonic() - began
    for number in range(num_kills - num_kills // 2):
        name, delay_s = f"delay-{number}", whole_s * draw.uniform(0.02, 0.8)
        while not batches.killed_after(name, delay_s):
            shutil.rmtree(folder / name)  # it had ended before: the machine has become faster
            delay_s /= 2
        batches.go_on(name)
    report = {"calls": total, "left": batches.left, "survived": batches.survived}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
