"""GGUF and pickled weights → safetensors."""

from __future__ import annotations

import os
import pickle
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmbind_cli.errors import IntegrityError, StorageError
from llmbind_cli.weights.convert import convert_gguf, convert_pickle


@pytest.fixture(scope="module")
def converted(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("converted")
    directory.chmod(0o755)
    convert_gguf(tiny_gguf, directory)
    return directory


def test_weights_are_the_unpacked_blocks_in_bfloat16(converted: Path, tiny_gguf: Path) -> None:
    """The independent reference is gguf's own unpacking, per tensor."""
    import gguf

    tensors = load_file(converted / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in tensors  # tied
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj.weight",
        "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
        "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    blocks = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny_gguf).tensors}
    for ours, theirs in names.items():
        block = blocks[ours]
        unpacked = torch.from_numpy(gguf.quants.dequantize(block.data, block.tensor_type).copy())
        assert torch.equal(tensors[theirs], unpacked.to(torch.bfloat16)), ours
        # bfloat16 keeps 8 significant bits: half a unit in the last place is 2⁻⁹ of the value.
        assert torch.all((tensors[theirs].float() - unpacked).abs() <= unpacked.abs() * 2**-8)


def test_the_directory_loads_offline(converted: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(converted, local_files_only=True)
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    assert model.config.num_attention_heads == 2
    assert model.generation_config.eos_token_id == 2
    tokenizer = AutoTokenizer.from_pretrained(converted, local_files_only=True)
    assert len(tokenizer) == model.config.vocab_size == 260
    assert tokenizer.model_max_length == 128
    assert tokenizer.chat_template is not None
    assert tokenizer.decode(tokenizer("naïve 🙂").input_ids) == "naïve 🙂"
    assert tokenizer("<|im_end|>").input_ids == [2]


def test_digits_are_split_before_the_spaces_around_them(converted: Path) -> None:
    """Without the rule of the file the second space would join the digit's piece."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted, local_files_only=True)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("x  21").input_ids)
    assert pieces == ["x", "ĠĠ", "2", "1"]


def test_files_have_the_permissions_of_the_directory(converted: Path) -> None:
    expected = converted.stat().st_mode & 0o666
    assert (
        {path.stat().st_mode & 0o777 for path in converted.glob("model*")} == {expected} == {0o644}
    )


@pytest.mark.parametrize("length", [0, 3, 100, 5000, 20000])
def test_a_truncated_gguf_is_refused(tiny_gguf: Path, tmp_path: Path, length: int) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(tiny_gguf.read_bytes()[:length])
    with pytest.raises(IntegrityError, match=r"short\.gguf"):
        convert_gguf(short, tmp_path)


def test_a_gguf_that_lacks_a_tensor_is_refused(tmp_path: Path, write_gguf: Callable) -> None:
    write_gguf(tmp_path / "lacks.gguf", leave_out="blk.0.ffn_up")
    with pytest.raises(IntegrityError, match=r"lacks weights of the model: .*up_proj"):
        convert_gguf(tmp_path / "lacks.gguf", tmp_path)


def test_a_full_disk_is_a_storage_error(tiny_gguf: Path, tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk: safetensors reports both alike."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            convert_gguf(tiny_gguf, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_pickle_of_tensors_is_converted(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {"a": shared, "b": shared.t(), "c": torch.tensor([1], dtype=torch.int64)}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    convert_pickle(tmp_path / "w.pth", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


class _Planted:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    for name, write in {
        "torch.pth": lambda path: torch.save({"a": _Planted(tmp_path / "ran")}, path),
        "plain.pth": lambda path: path.write_bytes(pickle.dumps(_Planted(tmp_path / "ran"))),
    }.items():
        write(tmp_path / name)
        with pytest.raises(IntegrityError, match=name):
            convert_pickle(tmp_path / name, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1], {}, {"a": 1}, {"a": {"b": torch.zeros(1)}}])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(IntegrityError, match=r"w\.pth"):
        convert_pickle(tmp_path / "w.pth", tmp_path)


def test_a_truncated_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    for length in (0, 10, 2000):
        (tmp_path / "w.pth").write_bytes(content[:length])
        with pytest.raises(IntegrityError, match=r"w\.pth"):
            convert_pickle(tmp_path / "w.pth", tmp_path)


def test_what_libraries_print_while_they_save_stays_off_stdout(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from transformers import PreTrainedModel

    save = PreTrainedModel.save_pretrained

    def chatty(self: PreTrainedModel, *args: object, **kwargs: object) -> None:
        sys.stdout.write("[WARNING] some library says hello\n")
        save(self, *args, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", chatty)
    convert_gguf(tiny_gguf, tmp_path)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "says hello" in captured.err
