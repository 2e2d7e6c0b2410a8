"""DeepRM as a plain model: one environment, one job at a time, written from SPEC.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simserver.simulator import IntArray


@dataclass
class Job:
    number: int
    enter: int
    length: int
    sizes: list[int]
    start: int = -1
    finish: int = -1


@dataclass
class Model:
    options: dict[str, Any]
    lengths: IntArray
    sizes: IntArray
    colors: list[float]
    time: int = 0
    since: int = 0
    dropped: int = 0
    running: list[Job] = field(default_factory=list)
    backlog: list[Job] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        o = self.options
        self.free = np.full((o["time_horizon"], o["num_res"]), o["res_slot"])
        self.canvas = np.zeros((o["num_res"], o["time_horizon"], o["res_slot"]), np.float32)
        self.slots: list[Job | None] = [None] * o["num_nw"]

    def earliest(self, job: Job) -> int | None:
        for offset in range(self.options["time_horizon"] - job.length):
            if (self.free[offset : offset + job.length] >= job.sizes).all():
                return offset
        return None

    def step(self, action: int) -> tuple[float, bool, bool]:
        job = self.slots[action] if action < len(self.slots) else None
        offset = None if job is None else self.earliest(job)
        if job is None or offset is None:
            return self.advance()
        rows = slice(offset, offset + job.length)
        self.free[rows] -= job.sizes
        job.start = self.time + offset
        job.finish = job.start + job.length
        self.running.append(job)
        unused = [c for c in self.colors if not (self.canvas == np.float32(c)).any()]
        for resource, size in enumerate(job.sizes):
            for row in self.canvas[resource, rows]:
                row[np.flatnonzero(row == 0)[:size]] = (unused or self.colors)[0]
        self.slots[action] = self.backlog.pop(0) if self.backlog else None
        return 0.0, False, False

    def advance(self) -> tuple[float, bool, bool]:
        o = self.options
        self.time += 1
        self.free = np.vstack([self.free[1:], np.full(o["num_res"], o["res_slot"])])
        self.canvas = np.roll(self.canvas, -1, axis=1)
        self.canvas[:, -1] = 0
        if o["running_removal"] == "exact":
            self.running = [job for job in self.running if job.finish > self.time]
        else:
            for job in self.running:
                if job.finish <= self.time:
                    self.running.remove(job)
        self.since = min(self.since + 1, o["max_track_since_new"])
        terminated, truncated = self.time >= o["simu_len"], False
        if o["end"] == "all_done":
            terminated &= not (self.running or self.backlog or any(self.slots))
            truncated = not terminated and self.time > o["episode_max_length"]
        if not (terminated or truncated) and self.time < o["simu_len"] and self.lengths[self.time]:
            self.arrive()
        reward = 0.0
        for penalty, jobs in (
            (o["delay_penalty"], self.running),
            (o["hold_penalty"], self.slots),
            (o["dismiss_penalty"], self.backlog),
        ):
            for job in jobs:
                reward += penalty / job.length if job else 0.0
        return reward, terminated, truncated

    def arrive(self) -> None:
        self.since = 0
        size = self.sizes[self.time].tolist()
        job = Job(len(self.jobs), self.time, int(self.lengths[self.time]), size)
        if None in self.slots:
            self.slots[self.slots.index(None)] = job
        elif len(self.backlog) < self.options["backlog_size"]:
            self.backlog.append(job)
        else:
            self.dropped += 1
            return
        self.jobs.append(job)

    def compact(self) -> np.ndarray:
        o = self.options
        left = np.full(o["time_horizon"], len(self.running))
        for job in self.running:
            left[job.finish - self.time :] -= 1
        slots = [[j.length, *j.sizes] if j else [0] * (1 + o["num_res"]) for j in self.slots]
        return np.concatenate([left, self.free.T.ravel(), np.ravel(slots), [len(self.backlog)]])

    def image(self) -> np.ndarray:
        o = self.options
        height, widest = o["time_horizon"], o["max_job_size"]
        parts: list[np.ndarray] = []
        for resource in range(o["num_res"]):
            parts.append(self.canvas[resource])
            for job in self.slots:
                block = np.zeros((height, widest))
                if job:
                    block[: job.length, : job.sizes[resource]] = 1
                parts.append(block)
        backlog = np.zeros(height * -(-o["backlog_size"] // height))
        backlog[: len(self.backlog)] = 1
        parts.append(backlog.reshape(height, -1))
        parts.append(np.full((height, 1), self.since / o["max_track_since_new"]))
        return np.hstack(parts).astype(np.float32)

    def records(self) -> list[list[int]]:
        return [[j.number, j.enter, j.start, j.finish, j.length, *j.sizes] for j in self.jobs]
