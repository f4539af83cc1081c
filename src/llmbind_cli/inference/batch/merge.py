"""``--merge``: the shards of a job become one folder with one manifest, in input order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from llmbind_cli.console import console
from llmbind_cli.errors import ConfigurationError, OutputError, PartialFailure
from llmbind_cli.inference.artifacts import ArtifactFile, ArtifactFolder, ResultLine
from llmbind_cli.inference.batch.job import JOB_NAME, JobCard
from llmbind_cli.inference.batch.ledger import Ledger, is_whole
from llmbind_cli.inference.decisions import Decision
from llmbind_cli.inference.json_lines import replace_lines, to_json
from llmbind_cli.inference.shards import Shard
from llmbind_cli.weights.atomic import write_atomically
from llmbind_cli.weights.lock import exclusive_lock


def run_merge(sources: Sequence[Path], *, out: Path, wait_s: float) -> None:
    """Merge what the shards of a job have done so far, and print the path of the manifest.

    Args:
        sources: Folders that shards of one job wrote to.
        out: Folder for the whole job; may be one of them.
        wait_s: How long to wait for another run in ``out``, in seconds.

    Raises:
        PartialFailure: Items are missing or failed; the others are merged.
        ConfigurationError: A folder holds no job, or another one than the others.
        LockHeldError: Another run works in ``out``.
        OutputError: ``out`` cannot be written, or holds something else.
    """
    card = _common_card(sources)
    is_source = any(source.resolve() == out.resolve() for source in sources)
    shards = [Shard(index=number, count=card.shards) for number in range(1, card.shards + 1)]
    ledgers = [Ledger(out=source, shard=shard) for source in sources for shard in shards]
    folder = ArtifactFolder(out=out)
    with exclusive_lock(folder.lock, wait_s=wait_s):
        if not is_source:
            _require_room(out, card)
        lines, missing = _collect(card, ledgers)
        merged = [replace(line, files=tuple(_bring(f, out) for f in line.files)) for line in lines]
        replace_lines(folder.manifest, [line.to_json() for line in merged])
        if not is_source:
            decisions = [decision for ledger in ledgers for decision in ledger.decisions]
            journal = Ledger(out=out, shard=Shard()).journal
            replace_lines(journal, [to_json(decision.as_dict()) for decision in decisions])
            replace(card, shards=1).write(out)
    console.result(str(folder.manifest))
    _raise_incomplete(card, missing, {line.id for line in merged if line.error is not None})


def _common_card(sources: Sequence[Path]) -> JobCard:
    """Return the card of the job that all folders hold a part of."""
    card: JobCard | None = None
    for source in sources:
        found = JobCard.read(source)
        if found is None:
            raise ConfigurationError(f"{source}: holds no job ({JOB_NAME} is missing)")
        card = found if card is None else card.continued_by(found, out=source)
    if card is None:
        raise ValueError("sources must name a folder, got none")
    return card


def _require_room(out: Path, card: JobCard) -> None:
    """Refuse a folder that holds something else than an earlier merge of the same job."""
    earlier = JobCard.read(out)
    if earlier is not None:
        earlier.continued_by(replace(card, shards=earlier.shards), out=out)
    elif any(not path.name.startswith(".") for path in out.iterdir()):
        raise OutputError(f"{out}: is not empty; name another --out")


def _collect(card: JobCard, ledgers: Sequence[Ledger]) -> tuple[list[ResultLine], list[str]]:
    """Return the results in the order of requests, and the ids of those that lack some."""
    decisions = {decision.id: decision for ledger in ledgers for decision in ledger.decisions}
    found: dict[str, list[ResultLine]] = {}
    for line in (line for ledger in ledgers for line in ledger.results):
        if all(is_whole(Path(file.path), file.sha256) for file in line.files):
            found.setdefault(line.id, []).append(line)
    lines, missing = [], []
    for item_id in card.requests:
        decision = decisions.get(item_id)
        results = found.pop(item_id, [])
        lines += _in_call_order(results, decision)
        expected = 1 if decision is None else max(1, len(decision.calls))
        if len(results) < expected:
            missing.append(item_id)
    # What is left are the records of lines that were no request.
    return lines + [line for results in found.values() for line in results], missing


def _in_call_order(results: Sequence[ResultLine], decision: Decision | None) -> list[ResultLine]:
    order: dict[tuple[str, str], int] = {}
    for index, call in enumerate(decision.calls if decision is not None else ()):
        order.setdefault((call.task, call.prompt), index)
    return sorted(results, key=lambda line: order.get((line.task, line.prompt), len(order)))


def _bring(file: ArtifactFile, out: Path) -> ArtifactFile:
    """Put a file into the merged folder, without a second copy where the file system allows."""
    source = Path(file.path)
    target = out / source.name
    if not is_whole(target, file.sha256):
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            _copy(source, target)
    return replace(file, path=str(target))


def _copy(source: Path, target: Path) -> None:
    def write(stream: BinaryIO) -> None:
        with source.open("rb") as content:
            shutil.copyfileobj(content, stream)

    write_atomically(target, write)


def _raise_incomplete(card: JobCard, missing: Sequence[str], failed: set[str]) -> None:
    for text in _missing_lines(card, missing):
        console.warn(text)
    if missing or failed:
        raise PartialFailure(
            f"{len(missing)} of {len(card.requests)} items are missing and {len(failed)} failed; "
            f"run their shards again"
        )


def _missing_lines(card: JobCard, missing: Sequence[str]) -> Iterator[str]:
    for item_id in missing:
        number = next(
            n for n in range(1, card.shards + 1) if Shard(index=n, count=card.shards).takes(item_id)
        )
        yield f"missing: {item_id} (shard {number}/{card.shards})"
