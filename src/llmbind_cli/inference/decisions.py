"""What the model decided on each request, kept so that it is asked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from llmbind_cli.errors import InputDataError, LlmbindError, PartialFailure, error_of
from llmbind_cli.inference.artifacts import ResultLine
from llmbind_cli.inference.dispatch import item_seed
from llmbind_cli.inference.requests import BadLine, Request

if TYPE_CHECKING:
    from llmbind_cli.inference.planner import Plan


@dataclass(frozen=True, kw_only=True)
class DecidedCall:
    """One call of a reply.

    Attributes:
        task: Task name of the token table.
        prompt: What the model wrote for the generator, or the phrase that a single token is tied
            to.
        state: Hidden state of a single token, as text; ``None`` for pairs.
    """

    task: str
    prompt: str
    state: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A reply, and what it asks for.

    Attributes:
        id: The item's id.
        reply: The whole reply, task tokens spelled out; ``None`` where there was none.
        calls: The task calls, in order; empty for plain talk.
        error: Why the reply makes no calls although it tried, or why there is none.
        seconds: The item's share of the wall time of its batch.
    """

    id: str
    reply: str | None
    calls: Sequence[DecidedCall]
    error: LlmbindError | None
    seconds: float

    @classmethod
    def of(cls, plan: Plan) -> Decision:
        """Return what a plan decided."""
        return cls(
            id=plan.request.id,
            reply=plan.reply,
            calls=[
                DecidedCall(
                    task=call.task, prompt=call.prompt, state=plan.states.get(call.position)
                )
                for call in plan.calls
            ],
            error=plan.error,
            seconds=plan.seconds,
        )

    def restricted_to(self, tasks: Sequence[str]) -> Decision:
        """Return the decision without the calls of other tasks."""
        return replace(self, calls=[call for call in self.calls if call.task in tasks])

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as a JSON object; a call's state appears only where it has one."""
        error = self.error
        return {
            "id": self.id,
            "reply": self.reply,
            "calls": [
                {name: value for name, value in asdict(call).items() if value is not None}
                for call in self.calls
            ],
            "error": error and {"code": error.exit_code, "message": str(error)},
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Decision:
        """Return the decision of a JSON object.

        Raises:
            InputDataError: The object is no decision.
        """
        try:
            error = fields["error"]
            return cls(
                id=fields["id"],
                reply=fields["reply"],
                calls=[DecidedCall(**call) for call in fields["calls"]],
                error=error and error_of(error["code"], error["message"]),
                seconds=fields["seconds"],
            )
        except (KeyError, TypeError) as problem:
            raise InputDataError(f"a line of the decisions is none: {problem}") from problem

    def line_without_call(self, request: Request, *, run_seed: int, model: str) -> ResultLine:
        """Return the result of a request from which nothing can be made.

        Args:
            request: The request that this decides on.
            run_seed: Value of ``--seed``.
            model: The bundle's name.
        """
        said = PartialFailure(f"{self.id}: the model answered in words only: {self.reply}")
        return ResultLine(
            id=self.id,
            status="empty" if self.error is None else "failed",
            task="text",
            prompt="",
            reply=self.reply,
            seed=item_seed(run_seed, request.id) if request.seed is None else request.seed,
            model=model,
            seconds=self.seconds,
            error=said if self.error is None else self.error,
            extra=request.extra,
        )


def line_of_bad_line(item: BadLine) -> ResultLine:
    """Return the result of a line that is no request."""
    return ResultLine(
        id=item.id,
        status="failed",
        task="text",
        prompt="",
        reply=None,
        seed=None,
        model="",
        seconds=0.0,
        error=item.error,
    )


def is_record_of_bad_line(fields: Mapping[str, Any]) -> bool:
    """Say whether a line of a manifest tells of an input line that was no request."""
    return fields.get("status") == "failed" and fields.get("seed") is None
