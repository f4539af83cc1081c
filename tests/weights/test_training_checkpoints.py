"""Pickled weights as training programs write them: beside an optimizer's and a sampler's state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llmbind_cli.errors import IntegrityError
from llmbind_cli.weights.convert import MODEL_FILE, convert_pickle

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.num": torch.tensor(3)}


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_the_weights_are_taken_and_the_rest_is_dropped(tmp_path, key):
    content = {
        key: WEIGHTS,
        "iteration": 600_000,
        "best": np.float64(0.438),
        "sampler": {"order": np.arange(5), "loss": np.zeros(3, dtype=np.float32)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
    }
    torch.save(content, tmp_path / "w.pth")
    convert_pickle(tmp_path / "w.pth", tmp_path)
    found = load_file(tmp_path / MODEL_FILE)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_code_beside_the_weights_is_still_refused(tmp_path, capsys):
    torch.save({"model": WEIGHTS, "sampler": Harmful()}, tmp_path / "w.pth")
    with pytest.raises(IntegrityError, match="cannot be read as pickled weights"):
        convert_pickle(tmp_path / "w.pth", tmp_path)
    assert "must not run" not in capsys.readouterr().out
