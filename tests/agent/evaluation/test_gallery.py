"""The gallery, of episodes on real servers."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from agent.evaluation.gallery import Exhibit, Reel, exhibit, hang, sheet
from agent.training.interface import Simulators


@pytest.mark.slow
def test_every_simulator_with_pictures_hangs_in_it(tmp_path: Path):
    names = ("particle/simple_spread", "adder", "gymnasium/CartPole-v1", "deeprm")
    files = list(hang(tmp_path, None, 0, names))
    gifs = [tmp_path / "gallery" / f"{name}.gif" for name in ("simple_spread", "cartpole-v1")]
    gifs.append(tmp_path / "gallery" / "deeprm.gif")
    assert files == [*gifs, tmp_path / "gallery.png"]
    for gif in gifs:
        frames = iio.imread(gif)
        assert 15 < len(frames) <= 51
        assert frames.shape[2] == 320
        assert (frames[0] != frames[-1]).any()
        assert gif.stat().st_size < 300_000
    image = iio.imread(files[-1])
    assert image.shape == (280 + 26, 3 * 280, 3)
    for column in range(3):
        assert len(np.unique(image[:, 280 * column : 280 * (column + 1)])) > 5


def test_a_simulator_without_pictures_has_no_exhibit(shared_server):
    assert exhibit(Simulators([shared_server.address], "adder")) is None


def test_a_sheet_has_as_many_rows_as_it_needs():
    frames = Reel()
    frames.append(np.zeros((100, 200, 3), np.uint8))
    shown = [Exhibit("a/b", "b: random", frames)] * 5
    assert sheet(shown).size == (4 * 280, 2 * (280 + 26))
    assert sheet(shown[:2]).size == (2 * 280, 280 + 26)
