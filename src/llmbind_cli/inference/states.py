"""Hidden states of semantic-embedding tokens as text, so that decisions can be kept on the disk."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from llmbind_cli.errors import InputDataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def text_of_state(state: Tensor) -> str:
    """Write a hidden state, [D] of any float type, as base64 of little-endian float32."""
    values = state.detach().float().cpu().numpy()
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def state_of_text(text: str) -> NDArray[np.float32]:
    """Read what :func:`text_of_state` wrote; float32 [D].

    Raises:
        InputDataError: The text is none.
    """
    import numpy as np

    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except ValueError as error:
        raise InputDataError(f"not a hidden state: {error}") from None
    return values.astype(np.float32)
