"""Errors that a user can cause or meet, one class for each exit code.

The command line turns an :class:`LlmbindError` into one line on stderr and the
class's ``exit_code``. Anything else that escapes is a bug and exits with 1.
The codes follow ``sysexits.h`` where it has a fitting one.
"""

from __future__ import annotations


class LlmbindError(Exception):
    """Base of all errors that llmbind raises on purpose.

    Args:
        message: What went wrong, where, and what to do about it, in one line.
    """

    exit_code = 1


class UsageError(LlmbindError):
    """Wrong options or arguments for what was asked."""

    exit_code = 2


class PartialFailure(LlmbindError):
    """Some items of a batch, or one reply, failed; the rest is done."""

    exit_code = 3


class GateFailed(LlmbindError):
    """A score fell below the bound that the user set."""

    exit_code = 4


class NothingToDo(LlmbindError):
    """There was no item, and the user asked for that to be an error."""

    exit_code = 5


class ModelNotFoundError(LlmbindError):
    """A model, adapter, weight file or generator could not be found."""

    exit_code = 10


class LockHeldError(LlmbindError):
    """Another run holds the lock of the same folder."""

    exit_code = 11


class IntegrityError(LlmbindError):
    """Weights or tokenizer fail an integrity or safety check."""

    exit_code = 12


class InputDataError(LlmbindError):
    """Input data cannot be read or does not follow its format."""

    exit_code = 65


class UnavailableError(LlmbindError):
    """An optional package, a device or a model for this task is missing."""

    exit_code = 69


class OutputError(LlmbindError):
    """An output file or folder cannot be created."""

    exit_code = 73


class StorageError(LlmbindError):
    """Reading or writing failed: disk full, device error."""

    exit_code = 74


class TemporaryError(LlmbindError):
    """A failure that may pass: try again later."""

    exit_code = 75


class PolicyError(LlmbindError):
    """Refused by policy, for example weights that need remote code."""

    exit_code = 77


class ConfigurationError(LlmbindError):
    """A recipe or a configuration file is wrong."""

    exit_code = 78


def error_of(exit_code: int, message: str) -> LlmbindError:
    """Return an error again that was written down as its code and message.

    Args:
        exit_code: Of any class here; another one gives the base class.
        message: As it was.
    """
    for kind in LlmbindError.__subclasses__():
        if kind.exit_code == exit_code:
            return kind(message)
    return LlmbindError(message)
