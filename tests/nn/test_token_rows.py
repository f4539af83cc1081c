"""Trainable rows against the literal whole-matrix embedding and output layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.nn.token_rows import TokenRowEmbedding, TokenRowHead

VOCAB, WIDTH = 11, 6
INSIDE, APPENDED, GAPPED, MIXED = [3, 0, 10], [11, 12, 13], [14, 12], [2, 12, 11, 7]
ID_SETS = [INSIDE, APPENDED, GAPPED, MIXED]


def make_rows(token_ids: list[int]) -> nn.Parameter:
    generator = torch.Generator().manual_seed(1)
    return nn.Parameter(
        torch.randn(len(token_ids), WIDTH, dtype=torch.float64, generator=generator)
    )


def make_embedding() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(VOCAB, WIDTH, dtype=torch.float64).requires_grad_(False)


def make_head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCAB, bias=False, dtype=torch.float64).requires_grad_(False)


def whole_matrix(base: Tensor, token_ids: list[int], rows: Tensor) -> Tensor:
    """The full matrix in which each listed row stands in its place; zeros in a gap."""
    lines = list(base) + [torch.zeros_like(base[0])] * (max(token_ids) + 1 - base.shape[0])
    for token_id, row in zip(token_ids, rows, strict=True):
        lines[token_id] = row
    return torch.stack(lines)


@pytest.mark.parametrize("token_ids", ID_SETS)
def test_embedding_equals_the_whole_matrix(token_ids: list[int]) -> None:
    base, rows = make_embedding(), make_rows(token_ids)
    layer = TokenRowEmbedding(base, token_ids=token_ids, rows=rows)
    known = sorted({*range(VOCAB), *token_ids})
    ids = torch.tensor([known, known[::-1], token_ids[:1] * len(known)])
    ours = layer(ids)
    reference = functional.embedding(ids, whole_matrix(base.weight, token_ids, rows))
    assert torch.equal(ours, reference)
    weights = torch.randn_like(ours)
    (ours_grad,) = torch.autograd.grad((ours * weights).sum(), rows)
    (reference_grad,) = torch.autograd.grad((reference * weights).sum(), rows)
    torch.testing.assert_close(ours_grad, reference_grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("token_ids", ID_SETS)
@pytest.mark.parametrize("shape", [(WIDTH,), (5, WIDTH), (2, 3, WIDTH)])
def test_head_equals_the_whole_matrix(token_ids: list[int], shape: tuple[int, ...]) -> None:
    base, rows = make_head(), make_rows(token_ids)
    layer = TokenRowHead(base, token_ids=token_ids, rows=rows)
    hidden_states = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    ours = layer(hidden_states)
    reference = functional.linear(hidden_states, whole_matrix(base.weight, token_ids, rows))
    unowned = sorted(set(range(VOCAB, max(token_ids) + 1)) - set(token_ids))
    assert ours.shape == reference.shape
    assert (ours[..., unowned] == float("-inf")).all()
    owned = sorted(set(range(ours.shape[-1])) - set(unowned))
    # float64, the same products in another order
    torch.testing.assert_close(ours[..., owned], reference[..., owned], rtol=1e-12, atol=1e-12)
    labels = torch.full(shape[:-1], token_ids[0]).reshape(-1)

    def loss(logits: Tensor) -> Tensor:
        kept = logits.reshape(-1, logits.shape[-1]).index_fill(
            -1, torch.tensor(unowned, dtype=torch.long), float("-inf")
        )
        return functional.cross_entropy(kept, labels)

    for pair in zip(
        torch.autograd.grad(loss(ours), [hidden_states, rows]),
        torch.autograd.grad(loss(reference), [hidden_states, rows]),
        strict=True,
    ):
        assert torch.isfinite(pair[0]).all()
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)


def test_tied_rows_collect_both_gradients_in_one_parameter() -> None:
    base, rows = make_embedding(), make_rows(MIXED)
    head_base = nn.Linear(WIDTH, VOCAB, bias=False, dtype=torch.float64)
    head_base.weight = base.weight
    model = nn.Sequential(
        TokenRowEmbedding(base, token_ids=MIXED, rows=rows),
        TokenRowHead(head_base, token_ids=MIXED, rows=rows),
    )
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable == ["0.rows"]
    ids = torch.tensor([2, 12, 5, 11])
    matrix = whole_matrix(base.weight, MIXED, rows)
    reference = functional.embedding(ids, matrix) @ matrix.T
    ours = model(ids)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(ours)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), rows),
        torch.autograd.grad((reference * weights).sum(), rows),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("autocast", [False, True])
def test_fp32_rows_beside_a_bf16_base(autocast: bool) -> None:
    rows = nn.Parameter(torch.randn(3, WIDTH))
    embedding = TokenRowEmbedding(make_embedding().bfloat16(), token_ids=APPENDED, rows=rows)
    head = TokenRowHead(make_head().bfloat16(), token_ids=APPENDED, rows=rows)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        embedded = embedding(torch.tensor([[1, 12]]))
        logits = head(embedded)
    assert embedded.dtype == logits.dtype == torch.bfloat16
    assert torch.equal(embedded[0, 1], rows[1].bfloat16())
    logits.float().sum().backward()
    assert rows.grad is not None
    assert rows.grad.dtype == torch.float32
    assert rows.grad.abs().min() > 0


def test_the_base_matrices_keep_their_size_and_are_reachable() -> None:
    embedding, head = make_embedding(), make_head()
    rows = make_rows(GAPPED)
    assert TokenRowEmbedding(embedding, token_ids=GAPPED, rows=rows).weight is embedding.weight
    assert TokenRowHead(head, token_ids=GAPPED, rows=rows).weight is head.weight
    assert embedding.weight.shape == head.weight.shape == (VOCAB, WIDTH)


def test_an_id_that_nobody_owns_is_an_index_error() -> None:
    layer = TokenRowEmbedding(make_embedding(), token_ids=GAPPED, rows=make_rows(GAPPED))
    for token_id in (11, 13, 15):
        with pytest.raises(IndexError):
            layer(torch.tensor([token_id]))


@pytest.mark.parametrize(
    ("token_ids", "num_rows", "message"),
    [
        ([], 0, "at least one token"),
        ([1, 1], 2, "must differ"),
        ([-1, 2], 2, "must be ≥ 0, got -1"),
        ([1, 2], 3, r"rows must have shape \(2, 6\).*got \(3, 6\)"),
    ],
)
def test_bad_arguments_are_named(token_ids: list[int], num_rows: int, message: str) -> None:
    rows = nn.Parameter(torch.zeros(num_rows, WIDTH))
    with pytest.raises(ValueError, match=message):
        TokenRowEmbedding(make_embedding(), token_ids=token_ids, rows=rows)
    with pytest.raises(ValueError, match=message):
        TokenRowHead(make_head(), token_ids=token_ids, rows=rows)


def test_a_head_with_bias_is_refused() -> None:
    with pytest.raises(ValueError, match="no bias"):
        TokenRowHead(nn.Linear(WIDTH, VOCAB), token_ids=[1], rows=nn.Parameter(torch.zeros(1, 6)))
