"""An output folder as the place of one job: started, or gone on with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from llmbind_cli.errors import ConfigurationError, InputDataError, LockHeldError, OutputError
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.inference.artifacts import ArtifactFolder
from llmbind_cli.inference.batch.batch_settings import BatchSettings
from llmbind_cli.inference.batch.identity import bundle_identity, generator_identities
from llmbind_cli.inference.batch.job import JobCard, digests
from llmbind_cli.inference.batch.ledger import Ledger
from llmbind_cli.inference.json_lines import COMMIT_WAIT_S, commit_lock
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.inference.requests import Request
from llmbind_cli.inference.shards import Shard
from llmbind_cli.weights.lock import exclusive_lock


def open_job(
    settings: BatchSettings,
    options: ModelOptions,
    requests: Sequence[Request],
    *,
    registry: GeneratorRegistry,
    folder: ArtifactFolder,
) -> JobCard:
    """Start a job in an output folder, or go on with the one in it.

    Raises:
        ConfigurationError: The folder holds another job.
        InputDataError: An id stands for another request than before.
        OutputError: The folder holds what another run made.
    """
    out = folder.out
    with ExitStack() as stack:
        if settings.shard.count > 1:
            # Shards share the card. What is not in shards holds this lock for as long as it runs.
            stack.enter_context(exclusive_lock(out / ".lock", wait_s=COMMIT_WAIT_S))
        known = JobCard.read(out)
        if not settings.resume and any(path.name[0] != "." for path in out.iterdir()):
            raise OutputError(f"{out}: is not empty; name another --out, or leave --no-resume out")
        card = card_of(settings, options, requests, registry=registry, known=known)
        if known is None:
            taken = Ledger(out=out, shard=settings.shard).ids()
            for request in requests:
                if request.id in taken:
                    raise OutputError(
                        f"{out}: holds a result under the id {request.id!r} that another run made; "
                        f"name another --out"
                    )
        else:
            # This run holds its own lock, and that of the whole folder.
            others = [
                other
                for other in Shard.all_of(known.shards)
                if other not in (Shard(), settings.shard)
            ]
            locks = [ArtifactFolder(out=out, shard=other).lock for other in others]
            card = card_after(known, card, out=out, locks=locks)
        folder.replaces = known is not None
        if card != known:
            card.write(out)
    _clear_leftovers(folder, settings.shard)
    return card


def card_of(
    settings: BatchSettings,
    options: ModelOptions,
    requests: Sequence[Request],
    *,
    registry: GeneratorRegistry,
    known: JobCard | None,
) -> JobCard:
    """Return the card of the job that these settings describe; nothing is loaded.

    Raises:
        ModelNotFoundError: The bundle, or a generator that was named, is not there.
    """
    model = None
    if not settings.direct:
        model = bundle_identity(options.folder(), known=known.model if known is not None else None)
    return JobCard(
        model=model,
        generators=generator_identities(
            registry,
            named=settings.generators,
            known=known.generators if known is not None else {},
        ),
        flags=settings.flags(options),
        shards=settings.shard.count,
        requests=digests(requests),
    )


def card_after(known: JobCard, card: JobCard, *, out: Path, locks: Iterable[Path] = ()) -> JobCard:
    """Return the card of an output folder that another run comes to.

    A job that has neither a result nor a decision, as one with a wrong flag, gives way.

    Args:
        known: The card in the folder.
        card: The card of the run.
        out: The folder.
        locks: What runs that may be at work on the known job hold.

    Raises:
        ConfigurationError: The folder holds another job.
        InputDataError: An id stands for another request than before.
    """
    try:
        return known.continued_by(card, out=out)
    except (ConfigurationError, InputDataError):
        if _has_made_something(known, out) or any(_is_held(lock) for lock in locks):
            raise
        return card


def _has_made_something(card: JobCard, out: Path) -> bool:
    for shard in {Shard(), *Shard.all_of(card.shards)}:
        ledger = Ledger(out=out, shard=shard)
        if ledger.decisions:
            return True
        if any(line.status == "ok" and line.id in card.requests for line in ledger.results):
            return True
    return False


def _is_held(lock: Path) -> bool:
    try:
        with exclusive_lock(lock):
            return False
    except LockHeldError:
        return True


def _clear_leftovers(folder: ArtifactFolder, shard: Shard) -> None:
    """Remove the temporary files that a killed run left, and make sure that a manifest is there.

    Other shards may be writing theirs at this moment, so only a job in one part is cleared.
    """
    with commit_lock(folder.manifest):
        for path in folder.out.glob(".llmbind-*.tmp") if shard.count == 1 else ():
            path.unlink(missing_ok=True)
