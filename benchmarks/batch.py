"""What a batch costs beside the authors' script, and whether an item costs the same in any batch.

    python benchmarks/batch.py                          # 64 requests; 8, 64 and 512 items
    python benchmarks/batch.py --requests 6 --items 8 16 --rounds 1
    python benchmarks/batch.py --batch-size 8           # decide on fewer at a time

First part: the same mixed requests through ``llmbind generate --from`` and through
``benchmarks/batch_contenders.py``, which loads a pipeline for each call and decodes without a KV
cache, one request at a time. Each runs in a process of its own, start and loading included; both
answer with the embedded bundle and make files with the same small random pipelines. Real ones take
longer to load, which one side does once and the other for each file, and longer to make a file,
which takes both sides the same. So the time in which loaded pipelines make files is also told, and
the ratio without it. CPU time is told beside wall time, for machines that do other work as well.
Bar: 10 times as fast, all included, by the clock.

Second part: time per item from the first result to the last, image pipeline in memory, no language
model, in batches of several sizes that take turns over some rounds, small ones several times a
round; medians over batches. Bar: the sizes differ by at most 10 %.

The exit code is 0 if both bars hold, 4 if one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch_contenders import CLASSES, save_pipelines

REQUESTS = Path(__file__).parents[1] / "tests" / "data" / "requests.jsonl"
SPEED_BAR = 10.0
FLAT_BAR = 1.10
LEAST_ITEMS = 64
"""Items of a size in each round: a small batch alone is over before the clock means much."""
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}


def mixed_requests(count: int) -> list[dict[str, Any]]:
    """Return requests for pictures, clips and sounds in turn, from the held-out requests."""
    rows = [json.loads(line) for line in REQUESTS.read_text().splitlines()]
    kinds = [[row for row in rows if row["task"] == task] for task in CLASSES]
    mixed = [row for group in zip(*kinds, strict=False) for row in group]
    if count > len(mixed):
        sys.exit(f"--requests {count}: there are {len(mixed)}")
    return [{"id": row["id"], "prompt": row["prompt"]} for row in mixed[:count]]


def generator_flags(pipelines: Path) -> list[str]:
    """Return the flags that name the pipelines."""
    return [word for task in CLASSES for word in ("--generator", f"{task}={pipelines / task}")]


@dataclass(frozen=True, kw_only=True)
class RunTime:
    """What a process took, its start included.

    Attributes:
        wall_s: Seconds by the clock.
        cpu_s: Seconds of all cores together.
    """

    wall_s: float
    cpu_s: float


def time_of(command: Sequence[str | Path]) -> RunTime:
    """Run a command; its failed items are no error, since both sides have the same."""
    wall_s, cpu_s = time.monotonic(), children_cpu_s()
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if run.returncode not in (0, 3):
        sys.exit(f"{command[0]} … ended with {run.returncode}:\n{run.stderr}")
    return RunTime(wall_s=time.monotonic() - wall_s, cpu_s=children_cpu_s() - cpu_s)


def children_cpu_s() -> float:
    """Return the CPU time of all ended processes that this one started."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def compare(count: int, batch_size: int, folder: Path) -> dict[str, Any]:
    """Time both ways on the same requests."""
    requests = folder / "requests.jsonl"
    requests.write_text("".join(json.dumps(row) + "\n" for row in mixed_requests(count)))
    pipelines = folder / "pipelines"
    contenders = Path(__file__).with_name("batch_contenders.py")
    slow = [sys.executable, contenders, requests, pipelines, folder / "script"]
    fast = [sys.executable, "-m", "llmbind_cli", "generate", "--from", requests, "--device", "cpu"]
    fast += ["--out", folder / "batch", *generator_flags(pipelines)]
    fast += ["--batch-size", str(batch_size)]
    batch, script = time_of(fast), time_of(slow)
    manifest = (folder / "batch" / "manifest.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in manifest]
    ours = {line["id"]: line["reply"] for line in lines}
    theirs = json.loads((folder / "script" / "replies.json").read_text())
    batch_making_s = sum(line["seconds"] for line in lines if line["files"])
    script_making_s = json.loads((folder / "script" / "making.json").read_text())
    rest = (script.wall_s - script_making_s) / (batch.wall_s - batch_making_s)
    return {
        "requests": count,
        "batch_size": batch_size,
        "batch_s": round(batch.wall_s, 1),
        "script_s": round(script.wall_s, 1),
        "ratio": round(script.wall_s / batch.wall_s, 2),
        "batch_cpu_s": round(batch.cpu_s, 1),
        "script_cpu_s": round(script.cpu_s, 1),
        "cpu_ratio": round(script.cpu_s / batch.cpu_s, 2),
        "batch_making_s": round(batch_making_s, 1),
        "script_making_s": round(script_making_s, 1),
        "ratio_without_making": round(rest, 2),
        "same_replies": sum(ours[name] == reply for name, reply in theirs.items()),
        "files": sum(line["status"] == "ok" for line in lines),
    }


def print_comparison(report: dict[str, Any]) -> None:
    """Print what :func:`compare` found."""
    print(
        f"{report['requests']} requests: batch {report['batch_s']} s, script "
        f"{report['script_s']} s: {report['ratio']} times as fast (bar {SPEED_BAR}); "
        f"{report['same_replies']} replies the same, {report['files']} files"
    )
    print(
        f"of these, loaded pipelines made files for {report['batch_making_s']} and "
        f"{report['script_making_s']} s; without: {report['ratio_without_making']} times as fast"
    )
    print(
        f"CPU time: {report['batch_cpu_s']} and {report['script_cpu_s']} s: "
        f"{report['cpu_ratio']} times"
    )


def cost_per_item(count: int, folder: Path, pipelines: Path, clock: Callable[[], float]) -> float:
    """Return seconds per item of a batch of pictures without a language model."""
    from llmbind_cli.inference.batch.batch import run_batch
    from llmbind_cli.inference.batch.batch_settings import BatchSettings
    from llmbind_cli.inference.model_options import ModelOptions

    folder.mkdir()
    requests = folder / "requests.jsonl"
    rows = [{"id": f"item-{number}", "prompt": "a cat and a dog"} for number in range(count)]
    requests.write_text("".join(json.dumps(row) + "\n" for row in rows))
    times: list[float] = []
    run_batch(
        BatchSettings(
            requests=str(requests),
            out=folder / "out",
            modality="image",
            direct=True,
            generators={"image": str(pipelines / "image")},
        ),
        ModelOptions(model="embedded", device="cpu", dtype="auto", offline=True),
        report=lambda _: times.append(clock()),
    )
    return (times[-1] - times[0]) / (len(times) - 1)


def measure_flatness(
    sizes: Sequence[int], rounds: int, folder: Path, clock: Callable[[], float]
) -> dict[str, Any]:
    """Return the median cost per item of each batch size, and their spread."""
    costs: dict[int, list[float]] = {size: [] for size in sizes}
    pipelines = folder / "pipelines"
    cost_per_item(4, folder / "warm-up", pipelines, clock)
    for turn in range(rounds):
        for size in sizes:
            for again in range(-(-LEAST_ITEMS // size)):
                batch = folder / f"{size}-{turn}-{again}"
                costs[size].append(cost_per_item(size, batch, pipelines, clock))
    medians = {size: statistics.median(found) for size, found in costs.items()}
    return {
        "ms_per_item": {str(size): round(1000 * cost, 2) for size, cost in medians.items()},
        "spread": round(max(medians.values()) / min(medians.values()), 3),
    }


def main() -> None:
    """Measure both parts and print them; with ``--report`` also write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=64, help="0 leaves the first part out")
    parser.add_argument("--batch-size", type=int, default=64, help="requests decided at once")
    parser.add_argument("--items", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="of the second part")
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = {"threads": os.environ.get("OMP_NUM_THREADS", "all")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_pipelines(folder / "pipelines")
        if args.requests:
            report |= compare(args.requests, args.batch_size, folder)
            print_comparison(report)
        clock = CLOCKS[args.clock]
        report |= measure_flatness(args.items, args.rounds, folder, clock) | {"clock": args.clock}
    for size, cost in report["ms_per_item"].items():
        print(f"{size:>5} items: {cost} ms each")
    print(f"largest over smallest: {report['spread']} (bar {FLAT_BAR})")
    if args.report:
        args.report.write_text(json.dumps(report, indent=2) + "\n")
    if report["spread"] > FLAT_BAR or report.get("ratio", SPEED_BAR) < SPEED_BAR:
        sys.exit(4)


if __name__ == "__main__":
    main()
