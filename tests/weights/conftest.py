"""Small weights, wheels and a model hub on this machine."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip and uv take for the package index."""
    return tmp_path_factory.mktemp("links")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and package indexes that reach nothing but `links`."""
    for name, value in {
        "LLMBIND_CACHE": str(tmp_path / "cache"),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(links),
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(links),
        "UV_CACHE_DIR": str(links / "uv"),
        "UV_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "cache"


@pytest.fixture
def build_wheel(links: Path) -> Callable[..., Path]:
    """Writes a wheel of the package `tinyweights` where pip and uv look for wheels."""

    def build(members: dict[str, bytes], *, version: str = "1.0") -> Path:
        info = f"tinyweights-{version}.dist-info"
        metadata = (
            f"Metadata-Version: 2.1\nName: tinyweights\nVersion: {version}\n"
            "Requires-Dist: a-package-that-does-not-exist\n"
        )
        wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files = {**members, f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": wheel.encode()}
        files[f"{info}/RECORD"] = "".join(f"{n},,\n" for n in [*files, f"{info}/RECORD"]).encode()
        path = links / f"tinyweights-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path

    return build


@pytest.fixture
def safetensors_bytes() -> Callable[..., bytes]:
    """Makes a safetensors file with one float32 tensor."""
    return _safetensors_bytes


def _safetensors_bytes(value: float = 1.0, count: int = 4) -> bytes:
    content = struct.pack(f"<{count}f", *[value] * count)
    entry = {"dtype": "F32", "shape": [count], "data_offsets": [0, len(content)]}
    header = json.dumps({"weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + content


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    """A directory in transformers layout with weights of sixteen bytes."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (directory / "model.safetensors").write_bytes(_safetensors_bytes())
    return directory


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer with Q4_1 blocks and a byte-level tokenizer, written by `gguf`."""
    return _write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf")


@pytest.fixture
def write_gguf() -> Callable[..., Path]:
    """Writes the tiny Llama elsewhere, without one of its tensors."""
    return _write_gguf


def _write_gguf(path: Path, *, leave_out: str = "") -> Path:
    """Writes the tiny Llama, without one of its tensors if asked."""
    import gguf
    import numpy as np
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    width, hidden, heads, kv_heads = 64, 96, 2, 1
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values(), "ĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), width),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width * kv_heads // heads, width),
        "blk.0.attn_v": (width * kv_heads // heads, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (hidden, width),
        "blk.0.ffn_up": (hidden, width),
        "blk.0.ffn_down": (width, hidden),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        "output_norm": (width,),
    }
    for name, shape in shapes.items():
        if name == leave_out:
            continue
        tensor = random.standard_normal(shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1 if len(shape) == 2 else None
        if kind is not None:
            tensor = gguf.quants.quantize(tensor, kind)
        writer.add_tensor(f"{name}.weight", tensor, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Hub:
    """A model hub with one repository, `org/tiny`, and troubles to order.

    Attributes:
        files: Content of the repository.
        troubles: HTTP status codes that the next requests to a repository get instead of an
            answer. What other programs of this machine or a client's thread may ask for besides
            takes none of them.
        requests: Paths asked for so far.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.troubles: list[int] = []
        self.requests: list[str] = []
        self.retry_after: str | None = None

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        self.requests.append(path)
        if self.troubles and path.startswith(("/api/models/org/", "/org/")):
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return self.troubles.pop(0), b"{}", headers
        api = "/api/models/org/tiny/"
        if path.startswith((f"{api}revision/main", f"{api}revision/{COMMIT}")):
            listing = [{"rfilename": name, **_file_facts(c)} for name, c in self.files.items()]
            body = {"id": "org/tiny", "_id": "1", "sha": COMMIT, "siblings": listing}
            return 200, json.dumps(body).encode(), {}
        if path.startswith(f"{api}tree/{COMMIT}"):
            tree = [
                {"type": "file", "path": name, "oid": _sha1(content), **_file_facts(content)}
                for name, content in self.files.items()
            ]
            return 200, json.dumps(tree).encode(), {}
        prefix = f"/org/tiny/resolve/{COMMIT}/"
        content = self.files.get(path.removeprefix(prefix)) if path.startswith(prefix) else None
        if content is None:
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        digest = hashlib.sha256(content).hexdigest()
        return 200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _file_facts(content: bytes) -> dict[str, Any]:
    lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
    lfs["oid"] = lfs["sha256"]
    return {"size": len(content), "blobId": _sha1(content), "lfs": lfs}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub behind a loopback address, which `huggingface_hub` takes for the real one."""
    import huggingface_hub.constants

    repository = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, headers = repository.answer(unquote(urlsplit(self.path).path))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  the name that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield repository
    server.shutdown()
    server.server_close()
