"""Features kept by content: what is found again, what is not, budget, damage, and no cache."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from llmbind_cli.errors import UsageError
from llmbind_cli.evaluation.feature_cache import FeatureCache, cache_key
from llmbind_cli.metrics.extractors import efficientnet_lite
from llmbind_cli.metrics.feature_statistics import FeatureStatistics

KEY = cache_key(weights_sha256="0" * 64, preprocessing="none", device="cpu")
DISTANCE = ("--metric", "FD-effnet-lite0")


def digests(n: int, start: int = 0) -> list[str]:
    return [f"{number:064x}" for number in range(start, start + n)]


def make(folder, budget_bytes: int = 10**9) -> FeatureCache:
    return FeatureCache(folder=folder, budget_bytes=budget_bytes)


def nothing(found) -> bool:
    places, rows = found
    return len(places) == 0 and rows == {}


def test_rows_come_back_as_they_were(tmp_path):
    narrow = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32).astype(np.float64)
    wide = np.random.default_rng(1).normal(size=(4, 3))  # float32 would lose digits
    make(tmp_path).write(KEY, digests(5), {"features": narrow, "logits": narrow[:, :2]})
    make(tmp_path).write(KEY, digests(4, 5), {"features": wide})
    cache = make(tmp_path)
    found, rows = cache.read(KEY, [*digests(9)[::-1], *digests(2, 90)])
    assert found.tolist() == list(range(9))
    np.testing.assert_array_equal(rows["features"], np.concatenate([narrow, wide])[::-1])
    assert "logits" not in rows  # not all rows have them
    _, rows = cache.read(KEY, digests(5))
    np.testing.assert_array_equal(rows["logits"], narrow[:, :2])
    other = cache_key(weights_sha256="1" * 64, preprocessing="none", device="cpu")
    assert nothing(cache.read(other, digests(9)))
    packs = sorted((tmp_path / KEY).glob("*.npy"), key=lambda path: path.stat().st_size)
    assert (
        np.load(packs[0], allow_pickle=False)["features"].dtype == np.float32
        or np.load(packs[1], allow_pickle=False)["features"].dtype == np.float32
    )


def test_a_file_of_many_samples_keeps_all_its_rows(tmp_path):
    a, b, c = digests(3)
    rows = np.arange(12.0).reshape(6, 2)
    make(tmp_path).write(KEY, [a, a, a, b, c, c], {"features": rows})
    cache = make(tmp_path)
    places, found = cache.read(KEY, [c, "f" * 64, a])
    assert places.tolist() == [0, 0, 2, 2, 2]
    np.testing.assert_array_equal(found["features"], rows[[4, 5, 0, 1, 2]])
    places, found = cache.read(KEY, [b, b])
    assert places.tolist() == [0, 1]
    np.testing.assert_array_equal(found["features"], rows[[3, 3]])


def test_statistics_come_back_whatever_the_names(tmp_path):
    statistics = FeatureStatistics(width=3).update(np.random.default_rng(0).normal(size=(9, 3)))
    files = dict(zip("abcdefghi", digests(9), strict=True))
    make(tmp_path).write_statistics(KEY, files, statistics)
    renamed = dict(zip("ihgfedcba", digests(9), strict=True))
    kept = make(tmp_path).read_statistics(KEY, renamed)
    assert kept.n == 9
    np.testing.assert_array_equal(kept.covariance, statistics.covariance)
    assert make(tmp_path).read_statistics(KEY, files | {"a": "f" * 64}) is None


def test_a_damaged_pack_is_thrown_away(tmp_path):
    make(tmp_path).write(KEY, digests(5), {"features": np.ones((5, 3))})
    (pack,) = (tmp_path / KEY).iterdir()
    content = bytearray(pack.read_bytes())
    content[-1] ^= 1
    pack.write_bytes(content)
    assert nothing(make(tmp_path).read(KEY, digests(5)))
    assert not pack.exists()


def test_the_budget_is_kept_and_the_oldest_goes_first(tmp_path):
    import os

    make(tmp_path).write(KEY, digests(10), {"features": np.ones((10, 100))})
    (first,) = (tmp_path / KEY).iterdir()
    size = first.stat().st_size
    os.utime(first, (1, 1))
    make(tmp_path, 2 * size + 100).write(KEY, digests(10, 10), {"features": np.ones((10, 100))})
    make(tmp_path, 2 * size + 100).write(KEY, digests(10, 20), {"features": np.ones((10, 100))})
    assert not first.exists()
    found, _ = make(tmp_path).read(KEY, digests(30))
    assert found.tolist() == list(range(10, 30))
    make(tmp_path, size - 1).write(KEY, digests(10, 40), {"features": np.ones((10, 100))})
    assert nothing(make(tmp_path).read(KEY, digests(10, 40)))
    with pytest.raises(UsageError, match="--cache-size must be > 0"):
        make(tmp_path, 0)


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    (tmp_path / "c").write_text("a file")
    with pytest.raises(UsageError, match="is a file"):
        make(tmp_path / "c")
    cache = make(tmp_path / "c" / "below")
    cache.write(KEY, digests(2), {"features": np.ones((2, 2))})
    assert "features are not kept" in capsys.readouterr().err


def test_runs_side_by_side_lose_nothing(tmp_path):
    def write(number: int) -> None:
        make(tmp_path).write(KEY, digests(20, 20 * number), {"features": np.full((20, 4), number)})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found, rows = make(tmp_path).read(KEY, digests(160))
    assert len(found) == 160
    np.testing.assert_array_equal(rows["features"][:, 0], np.repeat(np.arange(8), 20))


@pytest.fixture
def counted(by_colour, monkeypatch):
    """How many pictures went through the network."""
    seen: list[int] = []
    extract = efficientnet_lite.extract

    def count(network, pictures):
        seen.append(len(pictures))
        return extract(network, pictures)

    monkeypatch.setattr(efficientnet_lite, "extract", count)
    return seen


def test_a_second_run_extracts_nothing_and_gives_the_same_bytes(counted, pictures, run, tmp_path):
    made, true = pictures("made", n=9, seed=1), pictures("true", n=12, seed=2)
    sides = ("--pred", made, "--ref", true, "--json")
    first = run(*DISTANCE, *sides)
    assert sum(counted) == 21
    assert run(*DISTANCE, *sides) == first
    assert sum(counted) == 21
    (true / "0.png").rename(true / "renamed.png")
    (true / "1.png").write_bytes((made / "0.png").read_bytes())
    run(*DISTANCE, *sides)
    assert sum(counted) == 21  # a renamed file, and one of known content
    pictures("true", n=1, seed=77)  # a new 0.png
    run(*DISTANCE, *sides)
    assert sum(counted) == 22
    run(*DISTANCE, *sides, "--no-cache")
    assert sum(counted) == 22 + 9 + 13
    elsewhere = ("--cache-dir", tmp_path / "elsewhere")
    run(*DISTANCE, *sides, *elsewhere)
    run(*DISTANCE, *sides, *elsewhere)
    assert sum(counted) == 22 + 2 * 22 - 1  # one content stands twice, so it is extracted once


def test_copies_are_extracted_once(counted, pictures, run):
    made = pictures("made", n=2, seed=1)
    for number in range(6):
        (made / f"copy{number}.png").write_bytes((made / "0.png").read_bytes())
    true = pictures("true", n=3, seed=2)
    first = json.loads(run(*DISTANCE, "--pred", made, "--ref", true, "--json")[1])
    assert sum(counted) == 5
    second = json.loads(run(*DISTANCE, "--pred", made, "--ref", true, "--no-cache", "--json")[1])
    assert first["metrics"] == second["metrics"]
