"""An episode as pictures: one PNG, an animated GIF, an MP4 video."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.evaluation.rollout import Transition
from agent.remote_vector_env import RemoteVectorEnv
from farsim.errors import FarsimError

Frame = NDArray[np.uint8]

#: GIF players slow down what is faster than 50 a second; people can follow about ten.
FRAMES_PER_SECOND = 10


class VideoUnavailable(FarsimError, RuntimeError):
    """MP4 needs a program that is not installed."""


class Reel(Sequence[Frame]):
    """Pictures, kept compressed: an episode of large ones would take a gigabyte."""

    def __init__(self) -> None:
        self._kept: list[tuple[bytes, tuple[int, ...]]] = []

    def append(self, frame: Frame) -> None:
        self._kept.append((zlib.compress(frame.tobytes(), 1), frame.shape))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Any) -> Any:
        data, shape = self._kept[index]
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape)

    def padded(self) -> Iterator[Frame]:
        """One after the other, with black to the largest height and width."""
        height = max(shape[0] for _, shape in self._kept)
        width = max(shape[1] for _, shape in self._kept)
        for frame in self:
            rows, columns = height - frame.shape[0], width - frame.shape[1]
            yield np.pad(frame, ((0, rows), (0, columns), (0, 0))) if rows or columns else frame


class Film:
    """Watches an episode of the first environment, and keeps a picture of each step."""

    def __init__(self) -> None:
        self.frames = Reel()
        self._env: RemoteVectorEnv | None = None

    def begun(self, env: RemoteVectorEnv, observation: Any, infos: Mapping[str, Any]) -> None:
        self._env = env
        self._shoot()

    def stepped(self, transition: Transition) -> None:
        if 0 in transition.rows:
            self._shoot()

    def _shoot(self) -> None:
        assert self._env is not None
        frames = self._env.render()
        if frames:
            self.frames.append(np.asarray(frames[0]))


def write_png(frames: Reel, path: Path) -> None:
    """The picture in the middle of the episode."""
    import imageio.v3 as iio

    iio.imwrite(path, frames[len(frames) // 2])


def write_gif(frames: Reel, path: Path) -> None:
    """All pictures, over and over."""
    from PIL import Image

    # Without dithering, what does not change between pictures is not stored again.
    images = (
        Image.fromarray(frame).quantize(
            128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
        for frame in frames.padded()
    )
    first = next(images)
    pause = 1000 // FRAMES_PER_SECOND
    first.save(path, save_all=True, append_images=images, duration=pause, loop=0)


def write_mp4(frames: Reel, path: Path) -> None:
    """All pictures as H.264.

    Raises:
        VideoUnavailable: imageio-ffmpeg is not installed.
    """
    check_mp4()
    import imageio.v2 as iio

    with iio.get_writer(path, fps=FRAMES_PER_SECOND, macro_block_size=2) as writer:
        for frame in frames.padded():
            writer.append_data(frame)  # type: ignore[attr-defined]


def check_mp4() -> None:
    """Raises ``VideoUnavailable`` unless ``write_mp4`` can work."""
    try:
        import imageio_ffmpeg  # noqa: F401
    except ModuleNotFoundError as error:
        raise VideoUnavailable(
            "MP4 needs imageio-ffmpeg: pip install 'farsim[video]', or write a GIF"
        ) from error
