"""A picture of a cluster, its slots and its backlog, as in the figures of the paper."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simserver.sims.deeprm.cluster import Cluster
from simserver.sims.deeprm.parameters import Settings
from simserver.simulator import IntArray

_PAPER = (255, 255, 255)
_FREE = (236, 238, 241)
_GRID = (255, 255, 255)
_INK = (40, 44, 52)
_WAITING = (96, 104, 120)
_MARGIN, _GAP, _TEXT = 16, 12, 13
#: Height of a line of text with its space, in pixels.
_LINE = 20


@dataclass(frozen=True)
class _Cells:
    """Sizes of one time step and one unit of resource, in pixels."""

    height: int
    cluster_width: int
    slot_width: int

    @classmethod
    def for_settings(cls, settings: Settings) -> _Cells:
        return cls(
            height=int(np.clip(360 // settings.time_horizon, 4, 20)),
            cluster_width=int(np.clip(200 // settings.res_slot, 2, 20)),
            slot_width=int(np.clip(80 // settings.max_job_size, 1, 10)),
        )


def render(settings: Settings, cluster: Cluster, env: int) -> NDArray[np.uint8]:
    """One environment as RGB, uint8 [height, width, 3].

    A row of panels for each resource: the cluster, one line for each time step from now on; then
    the slots, with the length and the size of the job in each. At the right the backlog. A job
    has the same colour wherever it is.
    """
    from PIL import Image, ImageDraw, ImageFont

    cells = _Cells.for_settings(settings)
    horizon, slots = settings.time_horizon, settings.num_nw
    plan = _plan(settings, cluster, env)
    jobs = cluster.slot_jobs(env)
    cluster_width = cells.cluster_width * settings.res_slot
    slot_width = cells.slot_width * settings.max_job_size
    panel_height = cells.height * horizon
    axis = 34
    left_slots = _MARGIN + axis + cluster_width + 2 * _GAP
    left_backlog = left_slots + slots * (slot_width + _GAP) + _GAP
    backlog_width = max(cells.cluster_width * settings.backlog_width, 90)
    width = _padded(left_backlog + backlog_width + _MARGIN)
    top = _MARGIN + 2 * _LINE
    row_height = panel_height + _LINE + _GAP
    height = _padded(top + settings.num_res * row_height)

    pixels = np.full((height, width, 3), _PAPER, np.uint8)
    texts = [((_MARGIN, _MARGIN), _headline(cluster, env))]
    for resource in range(settings.num_res):
        y = top + resource * row_height + _LINE
        texts.append(((_MARGIN + axis, y - _LINE), f"resource {resource + 1}"))
        texts += [
            ((_MARGIN, y + row * cells.height - 2), "now" if row == 0 else f"+{row}")
            for row in range(0, horizon, max(1, 5 * 20 // (cells.height * 5)) * 5)
        ]
        _draw(pixels, plan[resource], _MARGIN + axis, y, cells.cluster_width, cells.height)
        for slot, job in enumerate(jobs.tolist()):
            x = left_slots + slot * (slot_width + _GAP)
            block = _block(settings, cluster, env, job, resource)
            _draw(pixels, block, x, y, cells.slot_width, cells.height)
            texts.append(((x, y - _LINE), f"{slot + 1}"))
    texts.append(((left_slots, top - _LINE), "slots"))
    waiting = _backlog(settings, int(cluster.backlog[env]))
    texts.append(((left_backlog, top), "backlog"))
    _draw(pixels, waiting, left_backlog, top + _LINE, cells.cluster_width, cells.height)

    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_TEXT)
    for place, text in texts:
        draw.text(place, text, fill=_INK, font=font)
    return np.array(picture)


def _padded(pixels: int) -> int:
    """The next multiple of 16, the size of the blocks of video codecs."""
    return -(-pixels // 16) * 16


def _headline(cluster: Cluster, env: int) -> str:
    running = int(cluster.running.count(np.array([env]))[0])
    arrived = cluster.arrived[env] + cluster.dropped[env]
    return (
        f"time {cluster.time[env]}     running {running}     backlog {cluster.backlog[env]}     "
        f"arrived {arrived}     dropped {cluster.dropped[env]}"
    )


def _plan(settings: Settings, cluster: Cluster, env: int) -> IntArray:
    """Which job is where: int64 [R, H, capacity], -1 where nothing is.

    Painting the unfinished jobs in the order they were placed gives the canvas of the original.
    """
    table, now = cluster.jobs, int(cluster.time[env])
    plan = np.full((settings.num_res, settings.time_horizon, settings.res_slot), -1)
    unfinished = (table.finish[env] > now).nonzero()[0]
    for job in unfinished[np.argsort(table.order[env, unfinished])].tolist():
        first, last = max(int(table.start[env, job]) - now, 0), int(table.finish[env, job]) - now
        for resource, size in enumerate(table.features[env, job, 1:].astype(int).tolist()):
            for row in plan[resource, first:last]:
                row[(row < 0).nonzero()[0][:size]] = job
    return plan


def _block(settings: Settings, cluster: Cluster, env: int, job: int, resource: int) -> IntArray:
    """A slot's picture: int64 [H, max_job_size], the job where it asks for something, else -1."""
    block = np.full((settings.time_horizon, settings.max_job_size), -1)
    length = int(cluster.jobs.length[env, job])
    block[:length, : int(cluster.jobs.features[env, job, 1 + resource])] = job
    return block


def _backlog(settings: Settings, count: int) -> IntArray:
    """The backlog's picture: int64 [H, backlog_width], -2 where a job waits, else -1."""
    block = np.full((settings.time_horizon, settings.backlog_width), -1)
    block.reshape(-1)[:count] = -2
    return block


def _draw(
    pixels: NDArray[np.uint8], jobs: IntArray, x: int, y: int, cell_width: int, cell_height: int
) -> None:
    """Draws a grid of jobs with its upper left corner at (x, y)."""
    block = np.empty((*jobs.shape, 3), np.uint8)
    for job in np.unique(jobs).tolist():
        block[jobs == job] = _color(job)
    block = block.repeat(cell_height, axis=0).repeat(cell_width, axis=1)
    if cell_height > 4:
        block[cell_height - 1 :: cell_height] = _GRID
    if cell_width > 4:
        block[:, cell_width - 1 :: cell_width] = _GRID
    pixels[y : y + block.shape[0], x : x + block.shape[1]] = block


def _color(job: int) -> tuple[int, int, int]:
    if job == -1:
        return _FREE
    if job == -2:
        return _WAITING
    # Steps of the golden ratio round the circle of hues keep neighbours in number far apart.
    hue = (job * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.75, 0.5)[job % 2], (0.9, 0.8, 0.7)[job % 3])
    return round(255 * red), round(255 * green), round(255 * blue)
