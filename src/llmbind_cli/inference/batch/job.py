"""``job.json``: what shapes the results in an output folder, so that a rerun is the same job.

A second run with the same request file, weights and flags goes on with what the first one left.
With other weights or flags it is refused, since half of the results would be of another kind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmbind_cli.errors import ConfigurationError, InputDataError
from llmbind_cli.inference.batch.identity import Identity
from llmbind_cli.inference.requests import Request
from llmbind_cli.weights.atomic import write_atomically

JOB_NAME = "job.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class JobCard:
    """What a batch is: everything that its results depend on.

    Attributes:
        model: The bundle that decides; ``None`` with ``--direct``.
        generators: Modality → the generator that serves it.
        flags: Name → value of each flag that shapes results.
        shards: Parts that the job is done in.
        requests: Id → digest of each request, in the order they came.
    """

    model: Identity | None
    generators: Mapping[str, Identity]
    flags: Mapping[str, Any]
    shards: int
    requests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, out: Path) -> JobCard | None:
        """Return the card of a folder, ``None`` where no batch ran in it.

        Raises:
            ConfigurationError: It cannot be read, or a later version of llmbind wrote it.
        """
        path = out / JOB_NAME
        try:
            fields = json.loads(path.read_bytes())
            version = fields.pop("format")
            if version != FORMAT:
                raise ConfigurationError(
                    f"{path}: job format {version}, this llmbind reads {FORMAT}"
                )
            model = fields.pop("model")
            generators = fields.pop("generators")
            return cls(
                model=None if model is None else Identity(**model),
                generators={name: Identity(**entry) for name, entry in generators.items()},
                **fields,
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{path}: not a job card: {error}") from error

    def write(self, out: Path) -> None:
        """Write the card, whole or not at all.

        Raises:
            OutputError: The folder cannot be written.
            StorageError: The disk is full or failing.
        """
        content = json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"
        write_atomically(out / JOB_NAME, lambda stream: stream.write(content.encode()))

    def differences(self, other: JobCard) -> list[str]:
        """Return what shapes results and is not the same, each as ``NAME: this, now that``.

        A generator that only one of the two has makes no difference: without it, nothing was made.
        """
        pairs: list[tuple[str, Any, Any]] = [("shards", self.shards, other.shards)]
        names = dict.fromkeys([*self.flags, *other.flags])
        pairs += [(name, self.flags.get(name), other.flags.get(name)) for name in names]
        changed = [f"{name}: {old}, now {new}" for name, old, new in pairs if old != new]
        weights: list[tuple[str, Identity | None, Identity | None]] = []
        weights += [("model", self.model, other.model)]
        weights += [
            (f"{modality} generator", old, other.generators[modality])
            for modality, old in self.generators.items()
            if modality in other.generators
        ]
        for name, before, now in weights:
            if before is None or now is None:
                if before is not now:
                    changed.append(f"{name}: {before or 'none'}, now {now or 'none'}")
            elif before.differs(now):
                changed.append(f"{name}: {before}, now {now}")
        return changed

    def continued_by(self, other: JobCard, *, out: Path) -> JobCard:
        """Return the card of the job that goes on with another run's requests.

        Raises:
            ConfigurationError: The other run is another job; its differences are told (fault 50).
            InputDataError: An id stands for another request than before (fault 9).
        """
        changed = self.differences(other)
        if changed:
            raise ConfigurationError(
                f"{out}: holds the results of another job ({'; '.join(changed)}); repeat its "
                f"flags, or name another --out"
            )
        for item_id, digest in other.requests.items():
            if self.requests.get(item_id, digest) != digest:
                raise InputDataError(
                    f"id {item_id!r} stood for another request when {out} was made; give the new "
                    f"request a new id, or name another --out"
                )
        return JobCard(
            model=other.model,
            generators={**self.generators, **other.generators},
            flags=other.flags,
            shards=other.shards,
            requests={**self.requests, **other.requests},
        )


def digests(requests: Iterable[Request]) -> dict[str, str]:
    """Return id → 16 hexadecimal digits over the content of each request."""
    return {request.id: _digest(request) for request in requests}


def _digest(request: Request) -> str:
    content = [
        request.prompt,
        [[turn.role, turn.content] for turn in request.history],
        [str(image) for image in request.images],
        request.modality,
        request.seed,
        request.extra,
    ]
    if request.reply is not None:
        content.append(request.reply)
    text = json.dumps(content, sort_keys=True)  # escapes keep lone surrogates encodable
    return hashlib.sha256(text.encode()).hexdigest()[:16]
