"""Shares of items, and two processes of ``torchrun`` beside one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from llmbind_cli.evaluation import processes

SCRIPT = """
import sys
import torch
from colour_features import colours
from llmbind_cli.metrics.extractors import efficientnet_lite
efficientnet_lite.load_extractor = lambda **_: torch.nn.Identity()
efficientnet_lite.extract = colours
from llmbind_cli import app
sys.exit(app.main(["eval", *sys.argv[1:]]))
"""


def test_one_process_has_all_items():
    assert processes.share([3, 1, 2]) == [3, 1, 2]
    assert processes.gather(["a", "b"]) == ["a", "b"]
    assert processes.exchange(7) == [7]
    assert processes.is_first()


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 10])
def test_every_item_is_in_exactly_one_share(monkeypatch, count, n):
    items = [f"item{number}" for number in range(n)]
    shares = []
    for rank in range(count):
        monkeypatch.setattr(processes, "_group", processes._Group(rank, count))
        shares.append(processes.share(items))
    assert sorted(item for share in shares for item in share) == sorted(items)
    monkeypatch.setattr(processes, "exchange", lambda own: shares)
    assert processes.gather(shares[0]) == items


@pytest.fixture
def torchrun(root, environment, tmp_path):
    """Runs ``llmbind eval`` in two processes over gloo on the loopback device."""
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(*arguments: object, count: int = 2) -> subprocess.CompletedProcess[str]:
        settings = environment(
            OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", LLMBIND_CACHE=str(tmp_path / f"c{count}")
        )
        settings["PYTHONPATH"] += os.pathsep + str(root / "tests" / "support")
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count),
                   "--master-addr", "127.0.0.1", "--master-port", "0", "--rdzv-backend", "c10d",
                   "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]  # fmt: skip
        return subprocess.run(
            [*command, str(tmp_path / "script.py"), *map(str, arguments)],
            capture_output=True, text=True, timeout=300, env=settings, check=False,
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_two_processes_give_what_one_gives(torchrun, run, pictures, tmp_path):
    # 9 and 11 items: two processes never have equal shares, and none is scored twice.
    made, true = pictures("made", n=9, seed=1), pictures("true", n=11, seed=2)
    recipe = tmp_path / "all.toml"
    recipe.write_text(f"""
[[score]]
name = "sets"
metrics = ["FD-effnet-lite0", "KID-effnet-lite0", "precision", "recall"]
predictions = "{made}"
references = "{true}"
[[score]]
name = "distance"
metrics = ["FD-effnet-lite0"]
predictions = "{true}"
references = "{made}"
[[score]]
name = "pairs"
metrics = ["PSNR", "SSIM"]
predictions = "{made}"
references = "{pictures("noisy", n=9, seed=1, noise=20)}"
""")
    outs = {}
    for count in (1, 2):
        report = tmp_path / f"r{count}"
        done = torchrun(recipe, "--report", report, "--json", count=count)
        assert done.returncode == 0, done.stderr
        outs[count] = json.loads((report / "report.json").read_text())
        assert done.stdout.count('"schema_version"') == 1  # the first process alone prints
    one, two = outs[1]["metrics"], outs[2]["metrics"]
    assert {k: v["n"] for k, v in one.items()} == {k: v["n"] for k, v in two.items()}
    for name, entry in one.items():
        # The same features in the same order; only sums over shares round differently.
        assert two[name]["value"] == pytest.approx(entry["value"], rel=1e-12), name
        assert two[name]["interval"] == entry["interval"], name
    assert (tmp_path / "r1" / "items.jsonl").read_bytes() == (
        tmp_path / "r2" / "items.jsonl"
    ).read_bytes()


@pytest.mark.slow
def test_faults_of_all_processes_are_told_once(torchrun, pictures):
    made, true = pictures("made", n=5, seed=1), pictures("true", n=5, seed=2)
    for number in (1, 2):  # one for each process
        (made / f"{number}.png").write_bytes(b"no picture")
    done = torchrun("--metric", "PSNR", "--pred", made, "--ref", true)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("pictures: 2 inputs cannot be scored") == 1
    assert "made/1.png" in done.stderr
    assert "made/2.png" in done.stderr
