"""What a job has done already: the decisions that were made, and the results that are in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmbind_cli.inference.artifacts import ResultLine, manifest_path
from llmbind_cli.inference.decisions import Decision, is_record_of_bad_line
from llmbind_cli.inference.dispatch import Job
from llmbind_cli.inference.json_lines import append_lines, read_lines, replace_lines, to_json
from llmbind_cli.inference.shards import Shard
from llmbind_cli.weights.hashes import sha256_file


@dataclass(kw_only=True)
class _Entry:
    """A line of the manifest.

    Attributes:
        text: The line.
        fields: Its object.
        stands: Whether the item's result is still this one.
    """

    text: str
    fields: dict[str, Any]
    stands: bool = False


class Ledger:
    """The manifest and the decisions of one shard of a job.

    Args:
        out: The output folder; it need not exist.
        shard: The part of the job that is done here.

    Raises:
        InputDataError: A whole line of one of the two is no JSON object.
    """

    def __init__(self, *, out: Path, shard: Shard) -> None:
        self.out = out
        self.shard = shard
        self.manifest = manifest_path(out, shard)
        self.journal = out / f"decisions{shard.suffix}.jsonl"
        self._entries = [
            _Entry(text=text, fields=fields) for text, fields in read_lines(self.manifest)
        ]
        self._by_id: dict[str, list[_Entry]] = {}
        for entry in self._entries:
            self._by_id.setdefault(str(entry.fields.get("id")), []).append(entry)
        self._decisions = {
            decision.id: decision
            for decision in (Decision.from_dict(fields) for _, fields in read_lines(self.journal))
        }

    @property
    def results(self) -> Iterator[ResultLine]:
        """The result of each line of the manifest.

        Raises:
            InputDataError: A line is no result.
        """
        return (ResultLine.from_dict(entry.fields, out=self.out) for entry in self._entries)

    @property
    def decisions(self) -> Sequence[Decision]:
        """All decisions that were made."""
        return list(self._decisions.values())

    def ids(self) -> set[str]:
        """Return the ids that have a result."""
        return set(self._by_id)

    def decision(self, item_id: str) -> Decision | None:
        """Return what the model decided on an item, where it was asked."""
        return self._decisions.get(item_id)

    def decide(self, decisions: Iterable[Decision]) -> None:
        """Keep the decisions of one batch, and flush those with a reply to the disk.

        A request without a reply (too long, no memory) is asked again by the next run.
        """
        made = [decision for decision in decisions if decision.reply is not None]
        append_lines(self.journal, [to_json(decision.as_dict()) for decision in made])
        self._decisions |= {decision.id: decision for decision in made}

    def done(self, job: Job) -> ResultLine | None:
        """Return the result of a job whose file is there as it was written (fault 51).

        Its status is ``skipped``, for the run that finds it made nothing.
        """
        wanted = (job.task, job.prompt, job.seed, job.reply)
        for entry in reversed(self._by_id.get(job.item_id, [])):
            fields = entry.fields
            made = tuple(fields.get(name) for name in ("task", "prompt", "seed", "reply"))
            if fields.get("status") == "ok" and made == wanted:
                line = ResultLine.from_dict(fields, out=self.out)
                if all(is_whole(Path(file.path), file.sha256) for file in line.files):
                    entry.stands = True
                    return replace(line, status="skipped")
        return None

    def has(self, line: ResultLine) -> bool:
        """Say whether a result is recorded already, the time that it took left aside."""
        wanted = line.as_dict() | {"seconds": None}
        for entry in self._by_id.get(line.id, []):
            if entry.fields | {"seconds": None} == wanted:
                entry.stands = True
                return True
        return False

    def drop_stale(self, ids: Iterable[str]) -> None:
        """Take the lines of items that are to be done again out of the manifest.

        Records of bad lines that the file has no more leave as well.

        Args:
            ids: The items of this run; results of other ids stay.
        """
        own = set(ids)
        kept = [
            entry
            for entry in self._entries
            if entry.stands
            or not (str(entry.fields.get("id")) in own or is_record_of_bad_line(entry.fields))
        ]
        if len(kept) < len(self._entries):
            replace_lines(self.manifest, (entry.text for entry in kept))
            self._entries = kept


def is_whole(path: Path, sha256: str) -> bool:
    """Say whether a file is there as it was written."""
    return path.is_file() and not path.is_symlink() and sha256_file(path) == sha256
