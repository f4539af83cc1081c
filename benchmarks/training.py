"""Training speed and peak memory of llmbind beside PEFT under transformers' Trainer.

Run from a checkout:

    python benchmarks/training.py
    python benchmarks/training.py --threads 1 --clock cpu      # on a machine that others use
    python benchmarks/training.py --device cuda --hidden-size 4096 --intermediate-size 11008 \
        --layers 32 --heads 32 --kv-heads 32 --vocab-size 32000

Contenders, each in a process of its own: llmbind's loop with LoRA-MoE (N = 4, r = 8, top-2, on
gate/up/down of every second layer); PEFT LoRA of rank N r on the same linears under Trainer with
its own default AdamW; and the same mixture as a loop over experts, trained by llmbind's loop, once
with every expert computing every token (as LoRAMoE does) and once with each expert computing the
tokens that chose it (as MixLoRA does); of the two, the faster counts. All see the same base, ids,
batches, precision and attention, and no token rows train. Dialogues are random ids with the lengths
and the share of replies of those that the embedded bundle was trained on.

Everything runs twice: with loss on all ids, and with loss on replies. Trainer applies the output
layer to every position either way, llmbind only to those that carry loss. A round is one pass over
the same batches; the contenders take turns within a round, each round starting with another one,
and ratios are taken within a round. The exit code is 0 if every bar holds, 4 if one does not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from training_contenders import (
    CONTENDERS,
    EXPERT_LOOP,
    GATHER_LOOP,
    OURS,
    PEFT,
    make_samples,
    train_contender,
)
from training_rounds import CLOCKS, Result, Settings

from llmbind_cli.data.batches import collate, epoch_order
from llmbind_cli.data.mixture import Mixture
from llmbind_cli.nn.device import choose_device, choose_dtype

LOSS_ON = ("all", "replies")
MIN_SPEED_TO_PEFT = 0.97
MIN_SPEED_TO_LOOP = 1.5

# All adapters start at zero, so every contender's first step scores the base: up to rounding.
FIRST_LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender's line of the table.

    Attributes:
        loss_on: ``all`` ids or ``replies``.
        contender: Its name.
        tokens_per_s: Ids processed, padding left out: median, least and most over the rounds.
        lead: llmbind's speed over this one's: median, least and most of the rounds' ratios.
        result: The figures that its process reported.
    """

    loss_on: str
    contender: str
    tokens_per_s: tuple[float, float, float]
    lead: tuple[float, float, float]
    result: Result


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bound on llmbind's speed over that of ``against``: holds where ``value`` ≥ ``limit``."""

    loss_on: str
    against: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the bound holds."""
        return self.value >= self.limit


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return statistics.median(values), min(values), max(values)


def take_turns(settings: Settings, *, loss_on: str) -> dict[str, Result]:
    """Train all contenders, one round of one contender at a time.

    Args:
        settings: What all contenders share.
        loss_on: ``all`` ids or ``replies``.

    Returns:
        Contender → figures.
    """
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    context = multiprocessing.get_context("spawn")
    channels: dict[str, Any] = {}
    processes = []
    try:
        for name in CONTENDERS:
            channels[name], far_end = context.Pipe()
            process = context.Process(
                target=train_contender, args=(far_end, settings, name, loss_on), daemon=True
            )
            process.start()
            processes.append(process)
            far_end.close()
        for name in CONTENDERS:
            channels[name].recv()  # ready
        for turn in range(settings.turns):
            first = turn % len(CONTENDERS)
            for name in CONTENDERS[first:] + CONTENDERS[:first]:
                channels[name].send(None)
                channels[name].recv()
        return {name: channels[name].recv() for name in CONTENDERS}
    except (EOFError, ConnectionError):
        sys.exit("a contender's process ended early; its message stands above")
    finally:
        for process in processes:
            process.join(timeout=30)
            process.terminate()


def compare(results: dict[str, Result], *, loss_on: str, num_ids: int) -> list[Row]:
    """Put the contenders' figures side by side.

    Args:
        results: Contender → figures.
        loss_on: ``all`` ids or ``replies``.
        num_ids: Ids in one round, padding left out.
    """
    ours = results[OURS].seconds
    return [
        Row(
            loss_on=loss_on,
            contender=name,
            tokens_per_s=spread([num_ids / seconds for seconds in result.seconds]),
            lead=spread([b / a for a, b in zip(ours, result.seconds, strict=True)]),
            result=result,
        )
        for name, result in results.items()
    ]


def check_bars(rows: list[Row]) -> list[Bar]:
    """The bounds on llmbind's speed, from the rows of one kind of loss."""
    named = {row.contender: row for row in rows}
    loop = min(EXPERT_LOOP, GATHER_LOOP, key=lambda name: -named[name].tokens_per_s[0])
    return [
        Bar(loss_on=rows[0].loss_on, against=name, value=named[name].lead[0], limit=limit)
        for name, limit in ((PEFT, MIN_SPEED_TO_PEFT), (loop, MIN_SPEED_TO_LOOP))
    ]


def check_first_losses(rows: list[Row], *, dtype: str) -> None:
    """Refuse figures of contenders that did not start from the same model and targets."""
    losses = {row.contender: row.result.first_loss for row in rows}
    if max(losses.values()) - min(losses.values()) > FIRST_LOSS_TOLERANCE[dtype]:
        sys.exit(f"the contenders differ before any has learned, so they do other work: {losses}")


def batch_figures(settings: Settings) -> tuple[int, float]:
    """Ids in one round, padding left out, and the share of padding beside them."""
    samples = make_samples(settings, loss_on="all", vocab_size=2)
    lengths = [len(sample.ids) for sample in samples]
    mixture = Mixture(sizes=[len(samples)], weights=None, seed=0)
    order = epoch_order(mixture, lengths, settings.batch_size, seed=0, epoch=0)
    cells = sum(collate([samples[i] for i in batch]).input_ids.numel() for batch in order)
    return sum(lengths), 1 - sum(lengths) / cells


def print_tables(rows: list[Row], bars: list[Bar]) -> None:
    """Print figures and bars of one kind of loss for people."""
    print(
        f"{'loss on':<8} {'contender':<14} {'tokens/s':>8} {'(least–most)':>14}  "
        f"{'llmbind leads by':>18}  {'peak MB':>8} {'at start':>8} {'trained':>11}  "
        f"{'first':>7} {'last loss':>9}"
    )
    for row in rows:
        speed, slow, fast = row.tokens_per_s
        result = row.result
        print(
            f"{row.loss_on:<8} {row.contender:<14} {speed:>8.0f} {f'({slow:.0f}–{fast:.0f})':>14}  "
            f"{'{:.3f} ({:.3f}–{:.3f})'.format(*row.lead):>18}  {result.peak_bytes / 1e6:>8.0f} "
            f"{result.start_bytes / 1e6:>8.0f} {result.trained:>11,}  "
            f"{result.first_loss:>7.4f} {result.last_loss:>9.4f}"
        )
    print()
    for bar in bars:
        verdict = "held" if bar.holds else "MISSED"
        name = f"speed over {bar.against}, loss on {bar.loss_on}"
        print(f"{name:<44} {bar.value:.3f} ≥ {bar.limit:.2f} {verdict}")
    print(flush=True)


def parse_options() -> tuple[Settings, Path | None]:
    """Read the command line: what the contenders share, and where the report goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", help="source of a base LLM; a random Llama if not given")
    shape = parser.add_argument_group("shape of the random Llama, by default SmolLM2-135M's")
    shape.add_argument("--hidden-size", type=int, default=576)
    shape.add_argument("--intermediate-size", type=int, default=1536)
    shape.add_argument("--layers", type=int, default=30)
    shape.add_argument("--heads", type=int, default=9)
    shape.add_argument("--kv-heads", type=int, default=3)
    shape.add_argument("--vocab-size", type=int, default=49152)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--clock", default="wall", choices=sorted(CLOCKS))
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, beside a first")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps a round")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--median-length", type=int, default=92, help="ids of a dialogue")
    parser.add_argument("--report", type=Path, help="also write the figures to this JSON file")
    options = vars(parser.parse_args())
    report: Path | None = options.pop("report")
    if options["dtype"] == "auto":
        chosen = choose_dtype("auto", choose_device(options["device"]))
        options["dtype"] = "bfloat16" if chosen == torch.bfloat16 else "float32"
    return Settings(**options), report


def main() -> int:
    """Measure, print, and write the report."""
    settings, report = parse_options()
    num_ids, padding = batch_figures(settings)
    versions = {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}
    print(
        f"{settings.rounds} rounds of {settings.steps} steps: {num_ids:,} ids, {padding:.1%} "
        f"padding; {settings.dtype}, {settings.device}, {settings.threads} threads, "
        f"{settings.clock} clock; {', '.join(' '.join(item) for item in versions.items())}",
        file=sys.stderr,
    )
    rows: list[Row] = []
    bars: list[Bar] = []
    for loss_on in LOSS_ON:
        results = take_turns(settings, loss_on=loss_on)
        measured = compare(results, loss_on=loss_on, num_ids=num_ids)
        check_first_losses(measured, dtype=settings.dtype)
        checked = check_bars(measured)
        print_tables(measured, checked)
        rows, bars = rows + measured, bars + checked
    if report is not None:
        fields = {
            "command": "python benchmarks/training.py",
            "settings": asdict(settings),
            "environment": {**versions, "machine": platform.machine(), "cores": os.cpu_count()},
            "ids_per_round": num_ids,
            "padding": padding,
            "rows": [asdict(row) for row in rows],
            "bars": [asdict(bar) | {"holds": bar.holds} for bar in bars],
        }
        report.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    return 0 if all(bar.holds for bar in bars) else 4


if __name__ == "__main__":
    sys.exit(main())
