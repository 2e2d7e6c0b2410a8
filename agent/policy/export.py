"""Policies as ONNX models, for inference inside a simulator."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agent.policy import loading, portable
from agent.policy.network import Network, Outputs, build_module
from agent.policy.onnx_graph import Graph, NotExportable, check_tensors, leaves_of
from farsim import spaces
from farsim.options import nearest

#: How far a number may be from the original's, absolutely and relatively.
TOLERANCE = 1e-4

#: Batches to check on: one that the graph was not traced with, and a single row.
_CHECKED_ROWS = (64, 1)


def export(network: Network, path: Path, seed: int = 0) -> list[str]:
    """Writes a policy's likeliest actions as an ONNX model, checked against the original.

    The model takes a batch of the simulator's observations, one input for each leaf of the space,
    ``action_mask`` float32 [n, actions] if the policy takes masks, and ``state_in`` float32
    [n, S] if it is recurrent; zeros begin an episode. It gives ``action``, one output for each leaf
    of the action space, ``action_dist_inputs`` where there is a distribution, and ``state_out``.

    Args:
        network: the policy, on the CPU.
        path: of the file; it is there in full or not at all.
        seed: of the observations that it is checked on.

    Returns:
        The model's inputs and outputs, one line each.

    Raises:
        NotExportable: it has parts that are no tensors, or the model says something else than the
            original.
    """
    rng = np.random.default_rng(seed)
    check_tensors(network)
    example = _Example(network, 2, rng)
    graph = Graph(network, has_distribution=example.answer().inputs is not None)
    partial = path.with_name(f".{path.name}.unfinished")
    try:
        _write(graph, example.arrays(), partial)
        lines = _check(graph, partial, rng)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return lines


class _Example:
    """Random inputs for n rows."""

    def __init__(self, network: Network, rows: int, rng: np.random.Generator) -> None:
        self._network = network
        space = network.observation_space
        space.seed(int(rng.integers(2**31)))
        self.observations = spaces.batch(space, [space.sample() for _ in range(rows)])
        self.masks: NDArray[np.float32] | None = None
        if network.has_action_mask:
            width = sum(spaces.mask_widths(network.action_space))
            self.masks = (rng.random((rows, width)) < 0.7).astype(np.float32)
            self.masks[:, 0] = 1.0
        self.states: NDArray[np.float32] | None = None
        if network.is_recurrent:
            self.states = rng.normal(0, 0.5, (rows, network.state_size)).astype(np.float32)

    def arrays(self) -> list[NDArray[Any]]:
        """In the order of the model's inputs."""
        extras = [part for part in (self.masks, self.states) if part is not None]
        return [*leaves_of(self._network.observation_space, self.observations), *extras]

    def answer(self) -> Outputs:
        """The original's."""
        return self._network.act(self.observations, self.masks, self.states, greedy=True)


def _write(graph: Graph, arrays: list[NDArray[Any]], path: Path) -> None:
    names = [*graph.input_names, *graph.output_names]
    try:
        with _quiet(), torch.inference_mode():
            # The tracing exporter: torch.export refuses the checks of shapes that RLlib makes in
            # recurrent encoders. That a trace holds for every batch is what `_check` looks at.
            torch.onnx.export(
                graph.eval(),
                tuple(torch.from_numpy(np.array(part)) for part in arrays),
                str(path),
                input_names=graph.input_names,
                output_names=graph.output_names,
                dynamic_axes={name: {0: "n"} for name in names},
                dynamo=False,
            )
    except NotExportable:
        raise
    except Exception as error:  # Torch raises anything at what it can not trace.
        raise NotExportable(
            f"torch can not write {type(graph.network.module).__name__} as ONNX: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error


def _check(graph: Graph, path: Path, rng: np.random.Generator) -> list[str]:
    """Holds the model to the original; describes it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = {port.name: port for port in session.get_inputs()}
    for rows in _CHECKED_ROWS:
        example = _Example(graph.network, rows, rng)
        # What the actions do not depend on, the model does not take.
        named = zip(graph.input_names, example.arrays(), strict=True)
        given = {name: part for name, part in named if name in taken}
        try:
            found = session.run(graph.output_names, given)
        except Exception as error:  # ONNX Runtime has no class for its errors.
            raise NotExportable(
                f"the model of {type(graph.network.module).__name__} fails on {rows} "
                f"observations, as its code depends on their number: {error}"
            ) from error
        answer = example.answer()
        expected = leaves_of(graph.network.action_space, answer.actions)
        expected += [part for part in (answer.inputs, answer.states) if part is not None]
        for name, mine, original in zip(graph.output_names, found, expected, strict=True):
            if mine.shape != original.shape or not np.allclose(
                mine, original, rtol=TOLERANCE, atol=TOLERANCE
            ):
                raise NotExportable(
                    f"the model says something else than the policy: output '{name}' for "
                    f"{rows} random observations",
                    name,
                )
    return [
        f"{direction} {port.name} {port.type} {list(port.shape)}"
        for direction, ports in (("takes", session.get_inputs()), ("gives", session.get_outputs()))
        for port in ports
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints and warns of in every trace."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def export_to(checkpoint: Path, trust: bool, target: Path, policy: str = "") -> list[str]:
    """Writes a checkpoint's policies in another form.

    Args:
        checkpoint: as at ``loading.find``.
        trust: whether it may be unpickled.
        target: an ONNX model of one policy if it ends in .onnx, else a new folder with all of
            them as in Farsim's checkpoints, free of pickle.
        policy: which one, for ONNX; may be empty if there is just one.

    Returns:
        What was written, a few lines for people.

    Raises:
        NotExportable: it cannot be had in that form, or there is something at ``target``.
        FarsimError: the checkpoint cannot be loaded.
    """
    recipe = loading.load(loading.find(checkpoint), trust)
    if target.suffix != ".onnx":
        if target.exists():
            raise NotExportable(f"{target} is there already: name a new folder", str(target))
        portable.write(recipe, target)
        return [f"wrote {target}: policies {', '.join(one.name for one in recipe.policies)}"]
    named = {one.name: one for one in recipe.policies}
    if policy not in named and (policy or len(named) > 1):
        raise NotExportable(
            f"name the policy with --policy: {', '.join(named)}"
            if not policy
            else f"no policy '{policy}'{nearest(policy, named)}",
            policy,
        )
    chosen = named[policy] if policy else recipe.policies[0]
    if chosen.pipeline is not None:
        own = ", ".join(chosen.pipeline.own)
        raise NotExportable(f"the connectors {own} are your own, and have no form in tensors", own)
    module = build_module(recipe.modules[chosen.module])
    try:
        lines = export(Network(chosen, module, recipe.steps), target)
    except ModuleNotFoundError as error:
        raise NotExportable(
            f"ONNX models need {error.name}, which is not installed: pip install 'farsim[onnx]'"
        ) from error
    rows = sum(_CHECKED_ROWS)
    return [f"wrote {target}, equal to policy '{chosen.name}' on {rows} observations", *lines]
