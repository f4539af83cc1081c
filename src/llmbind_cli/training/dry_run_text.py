"""The report of a dry run as text for a reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmbind_cli.training.rendering import Segment, rendered


def report_text(report: dict[str, Any]) -> str:
    """Return the text of a report; its fields are those of ``llmbind train --dry-run --json``."""
    blocks = [
        _base(report["base"]),
        _parameters(report["parameters"]),
        _data(report["data"]),
        _schedule(report["schedule"]),
        _memory(report["memory"]),
        _compute(report["compute"]),
        _sample_pictures(report["sample_pictures"]),
        _samples(report["samples"], measured=report["data"]["lengths"] == "measured"),
    ]
    if report["problems"]:
        blocks.append("\n".join(["problems", *(f"  {line}" for line in report["problems"])]))
    return "\n\n".join(block for block in blocks if block)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip


def _base(base: dict[str, Any]) -> str:
    where = {
        "cache": "configuration and tokenizer as cached",
        "recipe": "not cached: counted from [model.architecture], lengths estimated",
    }
    start = f"\nstart  {base['start']}" if base["start"] else ""
    return f"base  {base['source']}\n  {where[base['counted_from']]}{start}"


def _parameters(parameters: dict[str, Any]) -> str:
    rows = [["", "all", "trained", "share"]]
    totals = {"total": parameters["total"], "trainable": parameters["trainable"]}
    for name, part in (parameters["parts"] | {"all": totals}).items():
        share = part["trainable"] / part["total"] if part["total"] else 0.0
        rows.append([name, f"{part['total']:,}", f"{part['trainable']:,}", f"{share:.3%}"])
    base = parameters["parts"]["base"]["total"]
    adapters = (
        f"  adapters (lora_A + lora_B): {parameters['adapters']:,}, "
        f"{parameters['adapters_of_base']:.3%} of the base's {_short(base)}"
    )
    return "\n".join(["parameters", *_table(rows), adapters])


def _short(count: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.2f} {letter}"
    return f"{count:,}"


def _data(data: dict[str, Any]) -> str:
    if not data["sources"]:
        return "data: none could be read"
    about = "" if data["lengths"] == "measured" else "~"
    rows = [["", "kind", "dialogues", "examined", "mean ids", "longest"]]
    rows += [
        [
            source["name"],
            source["kind"],
            f"{source['dialogues']:,}",
            f"{source['examined']:,}",
            f"{about}{source['tokens_mean']:.0f}",
            f"{about}{source['tokens_longest']:,}",
        ]
        for source in data["sources"]
    ]
    lines_of_pictures = [
        f"  {source['name']}: {_pictures(source)}"
        for source in data["sources"]
        if source["pictures"]
    ]
    calls = ", ".join(f"{task} {count:,}" for task, count in data["calls"].items())
    lines = ["data", *_table(rows), f"  calls in those examined: {calls}"]
    lines += lines_of_pictures
    if about:
        lines.append(
            "  ~ no tokenizer at hand: 1 id for 4 characters, 8 for each turn, 32 for each dialogue"
        )
    return "\n".join([*lines, *_evaluation(data)])


def _pictures(source: dict[str, Any]) -> str:
    """Word what a source has of pictures."""
    text = f"{source['pictures']:,} pictures, {source['masks']:,} masks"
    if source["skipped"]:
        text += f"; {source['skipped']:,} pictures missing and left out"
    if source.get("dropped"):
        text += f"; {source['dropped']:,} dialogues left out, as evaluation has their picture"
    return text


def _evaluation(data: dict[str, Any]) -> list[str]:
    if not data["evaluation"]:
        return []
    lines = ["evaluation"]
    for source in data["evaluation"]:
        lines.append(f"  {source['name']}: {source['dialogues']:,} dialogues, {_pictures(source)}")
    shared = len(data["shared_pictures"])
    lines.append(
        f"  pictures that training has too, by name or content: {shared:,}"
        + (" (allowed)" if shared and data["overlap"] == "allow" else "")
    )
    return lines


def _sample_pictures(paths: Sequence[str]) -> str:
    if not paths:
        return ""
    return "\n".join(
        ["samples to look at, each with its dialogue beside it", *(f"  {p}" for p in paths)]
    )


def _schedule(schedule: dict[str, Any]) -> str:
    if not schedule["steps"]:
        return "optimizer steps: unknown until all data can be read"
    lines = ["optimizer steps"]
    for devices, steps in schedule["steps"].items():
        epochs = schedule["epochs"].get(devices)
        passes = "" if epochs is None else f", {epochs:.2f} passes over the data"
        lines.append(
            f"  {_devices(int(devices))}: {steps:,} steps of "
            f"{devices} × {schedule['batch_size']} × {schedule['accumulation']} = "
            f"{schedule['dialogues_per_step'][devices]:,} dialogues{passes}"
        )
    return "\n".join(lines)


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _memory(memory: dict[str, Any]) -> str:
    rows = [["model and optimizer", "frozen", "trained", "gradients", "optimizer", "all"]]
    rows += [
        [
            f"ZeRO {row['zero_stage']}, {_devices(row['devices'])}",
            f"{row['frozen_gib']:.2f}",
            f"{row['weights_gib']:.2f}",
            f"{row['gradients_gib']:.2f}",
            f"{row['optimizer_gib']:.2f}",
            f"{row['total_gib']:.2f}",
        ]
        for row in memory["model"]
    ]
    lines = [
        f"memory of one device in GiB ({memory['device']}, {memory['dtype']}; arithmetic, see "
        "docs/training.md)",
        *_table(rows),
    ]
    if memory["activations"] is None:
        return "\n".join([*lines, "  activations: not counted for this kind of block"])
    rows = [
        [
            f"activations of {memory['batch_size']} × {memory['tokens']:,} ids",
            "kept", "workspace", "logits", "all",
        ]
    ]  # fmt: skip
    for name in ("without", "with"):
        part = memory["activations"][f"{name}_checkpointing"]
        sizes = [part[f"{key}_gib"] for key in ("kept", "workspace", "logits", "total")]
        rows.append([f"{name} gradient checkpointing", *(f"{size:.2f}" for size in sizes)])
    chosen = "with" if memory["gradient_checkpointing"] else "without"
    model = {
        row["devices"]: row["total_gib"]
        for row in memory["model"]
        if row["zero_stage"] == memory["zero_stage"]
    }
    activations = memory["activations"][f"{chosen}_checkpointing"]["total_gib"]
    sums = ", ".join(
        f"{size + activations:.1f} on {_devices(devices)}" for devices, size in model.items()
    )
    return "\n".join(
        [
            *lines,
            *_table(rows),
            f"  this recipe (ZeRO {memory['zero_stage']}, {chosen} checkpointing), at most: {sums}",
        ]
    )


def _compute(compute: dict[str, Any] | None) -> str:
    if compute is None:
        return ""
    hours = "".join(
        f", {hours:.1f} h on {_devices(int(devices))}"
        for devices, hours in compute["hours"].items()
    )
    return (
        "time, by arithmetic and not measured\n"
        f"  {compute['flops_per_token'] / 1e9:.1f} GFLOP an id × {compute['tokens_per_step']:,.0f} "
        f"ids a step and device\n"
        f"  at {compute['assumed_utilisation']:.0%} of {compute['assumed_tflops']} TFLOP/s (A100, "
        f"bfloat16): {compute['seconds_per_step']:.2f} s a step{hours}; communication aside"
    )


def _samples(samples: list[dict[str, Any]], *, measured: bool) -> str:
    if not samples:
        return ""
    frame = "" if measured else "; the chat template's frame is left out"
    lines = [f"samples (⟦…⟧ or green: carries loss; ‹…› or reversed: one task token{frame})"]
    for number, sample in enumerate(samples, 1):
        segments = [Segment(**segment) for segment in sample["segments"]]
        lines.append(f"{number}. {sample['source']}")
        lines += [f"  {line}" for line in rendered(segments).split("\n")]
    return "\n".join(lines)
