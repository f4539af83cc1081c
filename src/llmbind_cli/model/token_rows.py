"""New vocabulary rows: their initial values, and their place in a causal LM.

Only the rows of task tokens train; the base's embedding and output matrices stay as they are
(training both whole would cost 262 M parameters at 7 B). With tied embeddings one set of rows
serves input and output, as the base does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmbind_cli.nn.token_rows import TokenRowEmbedding, TokenRowHead
from llmbind_cli.tokens import CLOSING_INIT_WORDS, TokenTable, encode_user_text

INPUT_ROWS = "token_rows.input"
OUTPUT_ROWS = "token_rows.output"


def is_tied(language_model: Any) -> bool:
    """Tell whether input and output embeddings are one matrix."""
    weight = language_model.get_input_embeddings().weight
    return bool(language_model.get_output_embeddings().weight.data_ptr() == weight.data_ptr())


def initial_rows(
    matrix: Tensor, tokenizer: Any, table: TokenTable, *, generator: torch.Generator
) -> Tensor:
    """Return fp32 rows ``[K, D]`` for the table's ids, in the order of ``table.ids``.

    Each row is the mean row of related words plus a little noise (2 % of the mean's scale), so
    that tokens that share words still differ. A fresh random row would start far from every
    hidden state; see Hewitt, "Initializing new word embeddings" (2021).
    """
    words = {t.open: t.init_words for t in table.tokens}
    words |= {t.close: CLOSING_INIT_WORDS for t in table.tokens if t.close is not None}
    rows = []
    for spelling in table.ids:
        ids = [i for word in words[spelling] for i in encode_user_text(tokenizer, word)]
        rows.append(matrix[ids].float().mean(dim=0))
    means = torch.stack(rows)
    noise = torch.randn(means.shape, generator=generator).to(means.device)
    return means + 0.02 * means.std() * noise


def attach_token_rows(
    language_model: Any, table: TokenTable, rows: dict[str, Tensor]
) -> dict[str, nn.Parameter]:
    """Wrap the input and output embeddings so that the table's ids use ``rows``.

    Args:
        language_model: A transformers causal LM; changed in place.
        table: The token table; row ``k`` belongs to the ``k``-th id of ``table.ids``.
        rows: ``token_rows.input`` and, for untied embeddings, ``token_rows.output``: ``[K, D]``.

    Returns:
        The trainable parameters under the same names.
    """
    token_ids = list(table.ids.values())
    parameters = {name: nn.Parameter(value.float()) for name, value in rows.items()}
    embedding = TokenRowEmbedding(
        language_model.get_input_embeddings(), token_ids=token_ids, rows=parameters[INPUT_ROWS]
    )
    head = TokenRowHead(
        language_model.get_output_embeddings(),
        token_ids=token_ids,
        rows=parameters.get(OUTPUT_ROWS, parameters[INPUT_ROWS]),
    )
    language_model.set_input_embeddings(embedding)
    language_model.set_output_embeddings(head)
    return parameters


def attached_rows(language_model: Any) -> dict[str, nn.Parameter]:
    """Return the token rows of a model to which :func:`attach_token_rows` was applied."""
    inputs = language_model.get_input_embeddings().rows
    outputs = language_model.get_output_embeddings().rows
    return {INPUT_ROWS: inputs} if outputs is inputs else {INPUT_ROWS: inputs, OUTPUT_ROWS: outputs}
