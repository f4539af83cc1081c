"""``--merge``: the shards of a job become one folder with one manifest, in input order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from llmbind_cli.console import console
from llmbind_cli.errors import ConfigurationError, OutputError, PartialFailure
from llmbind_cli.inference.artifacts import ArtifactFile, ArtifactFolder, ResultLine
from llmbind_cli.inference.batch.job import JOB_NAME, JobCard
from llmbind_cli.inference.batch.ledger import Ledger, is_whole
from llmbind_cli.inference.decisions import Decision, is_record_of_bad_line
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
    shards = Shard.all_of(card.shards)
    parts = {(source.resolve(), shard): source for source in sources for shard in shards}
    is_source = out.resolve() in {folder for folder, _ in parts}
    folder = ArtifactFolder(out=out)
    with exclusive_lock(folder.lock, wait_s=wait_s):
        earlier = JobCard.read(out)
        if not is_source:
            card = _with_earlier(card, earlier, out=out)
        left = dict.fromkeys([Shard(), *Shard.all_of(0 if earlier is None else earlier.shards)])
        collected = _collect(
            card,
            [Ledger(out=source, shard=shard) for (_, shard), source in parts.items()],
            [Ledger(out=out, shard=own) for own in left if (out.resolve(), own) not in parts],
        )
        merged = [
            replace(line, files=tuple(_bring(file, out) for file in line.files))
            for line in collected.lines
        ]
        replace_lines(folder.manifest, [line.to_json() for line in merged])
        if not is_source:
            journal = Ledger(out=out, shard=Shard()).journal
            replace_lines(journal, [to_json(made.as_dict()) for made in collected.decisions])
            replace(card, shards=1).write(out)
    console.result(str(folder.manifest))
    _raise_incomplete(card, collected.missing, _failed(merged, card))


@dataclass(frozen=True, kw_only=True)
class _Collected:
    """What the folders hold of a job.

    Attributes:
        lines: The results, in the order of requests.
        missing: Ids of the requests that lack some.
        decisions: One for each id that the model decided on.
    """

    lines: Sequence[ResultLine]
    missing: Sequence[str]
    decisions: Sequence[Decision]


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


def _with_earlier(card: JobCard, earlier: JobCard | None, *, out: Path) -> JobCard:
    """Return the card with the requests of the job that an output folder holds already.

    Raises:
        ConfigurationError: That is another job.
        OutputError: The folder holds something else.
    """
    if earlier is not None:
        earlier.continued_by(replace(card, shards=earlier.shards), out=out)
        return replace(card, requests={**card.requests, **earlier.requests})
    if any(not path.name.startswith(".") for path in out.iterdir()):
        raise OutputError(f"{out}: is not empty; name another --out")
    return card


def _collect(card: JobCard, parts: Sequence[Ledger], own: Sequence[Ledger]) -> _Collected:
    """Choose the results of each item.

    All of an item come from one ledger, the first of those that have most of it, so that they
    belong to one reply.

    Args:
        card: The job.
        parts: What the shards did.
        own: What earlier merges, and runs since, left in the output folder.
    """
    ledgers = [*parts, *own]
    found: dict[str, tuple[Ledger, list[ResultLine]]] = {}
    for ledger in ledgers:
        for item_id, results in _whole_results(ledger).items():
            if item_id not in found or _num_good(results) > _num_good(found[item_id][1]):
                found[item_id] = ledger, results
    decisions = {made.id: made for ledger in reversed(ledgers) for made in ledger.decisions}
    lines, missing = [], []
    for item_id in card.requests:
        chosen, results = found.pop(item_id, (None, []))
        decision = None if chosen is None else chosen.decision(item_id)
        if decision is not None:
            decisions[item_id] = decision
        decision = decisions.get(item_id)
        lines += _in_call_order(results, decision)
        expected = 1 if decision is None else max(1, len(decision.calls))
        if len(results) < expected:
            missing.append(item_id)
    # What is left are the records of lines that were no request, and results of other runs.
    for item_id, (ledger, results) in found.items():
        if ledger in parts or not _is_cured(item_id, results, parts):
            lines += results
    return _Collected(lines=lines, missing=missing, decisions=list(decisions.values()))


def _whole_results(ledger: Ledger) -> dict[str, list[ResultLine]]:
    """Return id → its results whose files are as they were written."""
    found: dict[str, list[ResultLine]] = {}
    for line in ledger.results:
        if all(is_whole(Path(file.path), file.sha256) for file in line.files):
            found.setdefault(line.id, []).append(line)
    return found


def _num_good(results: Sequence[ResultLine]) -> int:
    return sum(line.error is None for line in results)


def _is_cured(item_id: str, results: Sequence[ResultLine], parts: Sequence[Ledger]) -> bool:
    """Say whether the shard that recorded a bad line is there and no longer tells of it."""
    return all(is_record_of_bad_line(line.as_dict()) for line in results) and any(
        part.shard.takes(item_id) and part.manifest.is_file() for part in parts
    )


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


def _failed(lines: Sequence[ResultLine], card: JobCard) -> set[str]:
    """Return the ids of the job's items that failed; those of other runs are not its own."""
    return {
        line.id
        for line in lines
        if line.error is not None
        and (line.id in card.requests or is_record_of_bad_line(line.as_dict()))
    }


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
        (shard,) = (shard for shard in Shard.all_of(card.shards) if shard.takes(item_id))
        yield f"missing: {item_id} (shard {shard.index}/{card.shards})"
