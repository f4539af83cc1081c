"""What a batch is asked to do, and what follows from it for each request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmbind_cli.errors import InputDataError, NothingToDo, UsageError
from llmbind_cli.generators.registry import MODALITIES
from llmbind_cli.inference.decisions import Decision
from llmbind_cli.inference.dispatch import Job, item_seed, jobs_of_reply
from llmbind_cli.inference.masks import MaskSettings
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.inference.requests import BadLine, Request, read_requests
from llmbind_cli.inference.shards import Shard

_ONE_TASK = ("edit", "segment")
"""Tasks of commands that do nothing else."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What a batch is to do; see ``commands/generate.md``.

    Attributes:
        requests: A file of JSON lines, or ``-`` for stdin.
        out: The output folder.
        modality: What to make of requests that do not say; ``None`` lets the model choose.
        direct: Hand the words to the generator as they are.
        generators: Modality → source, from ``--generator``.
        batch_size: Requests decided at once.
        max_new_tokens: Longest reply, in tokens.
        seed: Seed of the run.
        resume: Go on with the job in the folder; otherwise the folder must be empty.
        shard: The part of the job to do.
        wait_s: How long to wait for another run in the same folder, in seconds.
        fail_if_empty: No requests are an error.
        masks: How masks are written, of a job that points at things.
        teacher_forced: Take each request's own ``reply`` for what the model said.
    """

    requests: str
    out: Path
    modality: str | None = None
    direct: bool = False
    generators: dict[str, str] = field(default_factory=dict)
    batch_size: int = 32
    max_new_tokens: int = 256
    seed: int = 0
    resume: bool = True
    shard: Shard = field(default_factory=Shard)
    wait_s: float = 0.0
    fail_if_empty: bool = False
    masks: MaskSettings | None = None
    teacher_forced: bool = False

    def flags(self, options: ModelOptions) -> dict[str, Any]:
        """Return name → value of the flags that shape results."""
        return {
            "modality": self.modality or "auto",
            "direct": self.direct,
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
            "device": options.device,
            "dtype": options.dtype,
            **{f"{m} settings": options.settings.shape(m) for m in MODALITIES},
            **({} if self.masks is None else {"masks": asdict(self.masks)}),
            **({"teacher_forced": True} if self.teacher_forced else {}),
        }

    def read(self) -> list[Request | BadLine]:
        """Return all requests of the file, of every shard, each as its line has it.

        A line that asks for another task than the command's only one is a bad one.

        Raises:
            InputDataError: The file cannot be read, or an id stands for two requests.
            NothingToDo: There are none, and that is to be an error.
        """
        items = read_requests(self.requests)
        if not items and self.fail_if_empty:
            raise NothingToDo(f"{self.requests}: there are no requests")
        return [self._refuse_other_modality(item) for item in items]

    def _refuse_other_modality(self, item: Request | BadLine) -> Request | BadLine:
        """Turn a line that asks ``edit`` or ``segment`` for something else into a bad one."""
        if isinstance(item, BadLine) or item.modality is None or self.modality not in _ONE_TASK:
            return item
        error = InputDataError(
            f'{item.id}: "modality" is {item.modality!r}, and this command makes {self.modality}; '
            f"leave it out"
        )
        return BadLine(id=item.id, error=error)

    def modalities(self, requests: Iterable[Request]) -> set[str]:
        """Return what requests are for; empty where the model chooses for one of them."""
        found = {request.modality or self.modality for request in requests}
        return set() if None in found else {str(modality) for modality in found}

    def with_modality(self, request: Request) -> Request:
        """Return a request with the modality that the flags settle for it.

        Raises:
            UsageError: It goes to a generator directly, and none is named.
        """
        modality = request.modality or self.modality
        if self.direct and modality is None:
            raise UsageError(
                f"--direct hands {request.id!r} to no generator: name one with --modality image, "
                f"video or audio"
            )
        return replace(request, modality=modality)


def jobs_of(
    request: Request, decision: Decision | None, settings: BatchSettings
) -> list[Job] | None:
    """Return the jobs of a request; ``None`` where the model has not decided yet."""
    if settings.direct:
        own = item_seed(settings.seed, request.id) if request.seed is None else request.seed
        job = Job(
            item_id=request.id,
            index=0,
            task=str(request.modality),
            prompt=request.prompt,
            seed=own,
            extra=request.extra,
        )
        return [job]
    if decision is None:
        return None
    if decision.error is not None:
        return []
    return jobs_of_reply(
        decision.calls,
        item_id=request.id,
        run_seed=settings.seed,
        seed=request.seed,
        reply=decision.reply,
        extra=request.extra,
    )
