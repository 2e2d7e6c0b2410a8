"""Simulators, their parameters and their batches in the words of the contract, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from farsim import options as option_values
from farsim import spaces, tensors
from farsim.errors import InvalidArgument, InvalidOption
from farsim.layout import Layout, delimited, header, tensor
from farsim.steps import Stepped, StepPlan
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2
from simserver.catalogue import Entry
from simserver.simulator import Batch, BatchedValue, Group, GroupBatch, Info, IntArray, Parameter

AUTORESET_MODES = {
    AutoresetMode.NEXT_STEP: pb.AUTORESET_MODE_NEXT_STEP,
    AutoresetMode.SAME_STEP: pb.AUTORESET_MODE_SAME_STEP,
    AutoresetMode.DISABLED: pb.AUTORESET_MODE_DISABLED,
}


def simulator_to_proto(entry: Entry) -> pb.SimulatorDescription:
    """What ``Describe`` says of a simulator."""
    sample = entry.sample
    own = sample.own_autoreset
    return pb.SimulatorDescription(
        name=entry.name,
        description=entry.description,
        groups=[group_to_proto(group) for group in sample.groups],
        parameters=[parameter_to_proto(parameter) for parameter in entry.parameters],
        max_episode_steps=sample.max_episode_steps,
        autoreset_modes=list(AUTORESET_MODES.values()) if own is None else [AUTORESET_MODES[own]],
        render_modes=sample.render_modes,
        can_save_state=sample.can_save_state,
        max_environments=sample.max_environments,
    )


def group_to_proto(group: Group) -> pb.Group:
    """What ``Describe`` and ``Opened`` say of a group."""
    return pb.Group(
        name=group.name,
        agents=group.agents,
        observation_space=spaces.to_proto(group.observation_space),
        action_space=spaces.to_proto(group.action_space),
        has_action_mask=group.has_action_mask,
    )


def parameter_to_proto(parameter: Parameter) -> pb.Parameter:
    """What ``Describe`` says of a parameter."""
    default = spaces.batch(parameter.space, [parameter.default])
    return pb.Parameter(
        name=parameter.name,
        description=parameter.description,
        space=spaces.to_proto(parameter.space),
        unit=parameter.unit,
        default=_value(parameter.space, default, 1),
        choices=parameter.choices,
        per_episode=parameter.per_episode,
    )


def open_options(entry: Entry, options: pb.Options) -> dict[str, Any]:
    """Every parameter's value for a new session.

    Raises:
        UnknownOption, InvalidOption, InvalidTensor
    """
    chosen = {parameter.name: parameter.default for parameter in entry.parameters}
    for name, value in options.values.items():
        option_values.known(name, chosen, entry.name)
        parameter = entry.parameter(name)
        (single,) = spaces.unbatch(parameter.space, _decode_option(parameter, value, 1), 1)
        chosen[name] = option_values.check(name, parameter.space, single, parameter.choices)
    return chosen


def reset_options(entry: Entry, options: pb.Options, count: int) -> dict[str, BatchedValue]:
    """Values of per-episode parameters, one row for each of ``count`` environments.

    Raises:
        UnknownOption, InvalidOption, InvalidTensor
    """
    chosen = {}
    for name, value in options.values.items():
        option_values.known(name, (parameter.name for parameter in entry.parameters), entry.name)
        parameter = entry.parameter(name)
        if not parameter.per_episode:
            per_episode = [p.name for p in entry.parameters if p.per_episode]
            raise InvalidOption(
                f"option '{name}' is fixed for the life of a session: give it when opening one"
                f" (a reset takes {', '.join(per_episode) or 'no options'})",
                name,
            )
        rows_sent = _option_rows(parameter, value, count)
        batched = _decode_option(parameter, value, rows_sent)
        if parameter.choices:
            for single in spaces.unbatch(parameter.space, batched, rows_sent):
                option_values.check(name, parameter.space, single, parameter.choices)
        if rows_sent != count:
            batched = spaces.take(parameter.space, batched, np.zeros(count, np.int64))
        chosen[name] = batched
    return chosen


def options_to_proto(
    parameters: Sequence[Parameter], values: Mapping[str, BatchedValue], count: int
) -> pb.Options:
    """Batched values of parameters, ``count`` rows each."""
    declared = {parameter.name: parameter.space for parameter in parameters}
    return pb.Options(
        values={name: _value(declared[name], value, count) for name, value in values.items()}
    )


def batch_to_bytes(
    groups: Sequence[Group],
    parameters: Sequence[Parameter],
    num_envs: int,
    envs: IntArray,
    batch: Batch,
    faults: Sequence[pb.Fault],
    plan: StepPlan | None = None,
) -> list[Any]:
    """The field ``batch`` of a serialised ``SimReply``, as buffers to join.

    Args:
        groups: of the session.
        parameters: of the simulator.
        num_envs: of the session.
        envs: what the batch is about.
        batch: what the simulator returned.
        faults: the batch's, as the contract has them.
        plan: of steps of ``envs``, if there is one.
    """
    named = b""
    if len(envs) != num_envs:
        rows_named = pb.Batch(environments=tensor_pb2.Rows(index=envs.tolist()))
        named = plan.named if plan is not None else rows_named.SerializeToString()
    parts: list[Any] = [b"", named]  # The first is for the header.
    size = len(named)
    for number, (group, part) in enumerate(zip(groups, batch.groups, strict=True)):
        fields, length = _group_to_bytes(number, group, envs, part, plan)
        start = header(pb.Batch.GROUPS_FIELD_NUMBER, length)
        parts.append(start)
        parts += fields
        size += len(start) + length
    started = batch.started
    if faults or (started is not None and len(started)):
        rest = pb.Batch(faults=faults)
        if started is not None and len(started):
            rest.started.index.extend(started.tolist())
            if batch.episode_options:
                options = options_to_proto(parameters, batch.episode_options, len(started))
                rest.episode_options.CopyFrom(options)
        parts.append(rest.SerializeToString())
        size += len(parts[-1])
    parts[0] = header(pb.SimReply.BATCH_FIELD_NUMBER, size)
    return parts


def indices(message: pb.SimRequest, field: str, count: int, subject: str) -> IntArray:
    """The rows that an optional ``Rows`` field of a request names; absent means all ``count``.

    Raises:
        InvalidArgument: they are not strictly increasing or not all below ``count``.
    """
    if not message.HasField(field):
        return np.arange(count)
    index = np.array(getattr(message, field).index, np.int64)
    if len(index) and (index[-1] >= count or np.any(index[1:] <= index[:-1])):
        raise InvalidArgument(
            f"{subject} must be strictly increasing and below {count}, not {index.tolist()}",
            subject,
        )
    return index


def _group_to_bytes(
    number: int, group: Group, envs: IntArray, part: GroupBatch, plan: StepPlan | None
) -> tuple[list[Any], int]:
    """A serialised ``GroupBatch``, as buffers to join, and how many bytes they are."""
    count = len(envs) * len(group.agents) if part.rows is None else len(part.rows)
    named = part.rows is not None and count != len(envs) * len(group.agents)
    written = None
    if plan is not None and not named and part.reward is not None:
        written = plan.write_group(
            number,
            Stepped(
                part.observation,
                np.asarray(part.reward, np.float64),
                np.asarray(part.terminated, np.bool_),
                np.asarray(part.truncated, np.bool_),
                part.action_masks,
            ),
        )
    if written is None:
        arrays = _arrays_to_proto(group, part, count, named).SerializeToString()
        written = [arrays], len(arrays)
    parts, size = written
    if part.infos or part.acting is not None or part.final_rows is not None:
        rest = _rest_to_bytes(group, part)
        parts += rest
        size += sum(map(len, rest))
    return parts, size


def _arrays_to_proto(group: Group, part: GroupBatch, count: int, named: bool) -> pb.GroupBatch:
    message = pb.GroupBatch()
    if named:
        message.rows.index.extend(part.rows.tolist())  # type: ignore[union-attr]
        message.rows.SetInParent()
    message.observation.tensors.extend(
        spaces.encode(group.observation_space, part.observation, count)
    )
    if part.reward is not None:
        message.reward.CopyFrom(tensors.pack(np.asarray(part.reward, np.float64)))
        message.terminated.CopyFrom(tensors.pack(np.asarray(part.terminated, np.bool_)))
        message.truncated.CopyFrom(tensors.pack(np.asarray(part.truncated, np.bool_)))
    message.action_masks.extend(tensors.pack(mask) for mask in part.action_masks)
    return message


def _rest_to_bytes(group: Group, part: GroupBatch) -> list[bytes]:
    """The fields that come after the arrays, one by one."""
    of = pb.GroupBatch
    fields = [_info(of.INFOS_FIELD_NUMBER, name, info) for name, info in part.infos.items()]
    if part.final_rows is not None and len(part.final_rows):
        message = pb.GroupBatch()
        message.final_rows.index.extend(part.final_rows.tolist())
        message.final_observation.tensors.extend(
            spaces.encode(group.observation_space, part.final_observation, len(part.final_rows))
        )
        fields.append(message.SerializeToString())
        for name, info in part.final_infos.items():
            fields.append(_info(of.FINAL_INFOS_FIELD_NUMBER, name, info))
    if part.acting is not None:
        message = pb.GroupBatch()
        message.acting.index.extend(part.acting.tolist())
        message.acting.SetInParent()
        fields.append(message.SerializeToString())
    return fields


def _info(number: int, name: str, info: Info) -> bytes:
    """A serialised field of a ``GroupBatch``."""
    if info.rows is None and isinstance(info.values, np.ndarray):
        layout = _column(number, name, info.values.dtype, info.values.shape)
        written = layout.fill([info.values])
        if written is not None:
            return b"".join(written)
    message = _info_to_proto(name, info).SerializeToString()
    return header(number, len(message)) + message


@lru_cache(maxsize=1024)
def _column(number: int, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Layout:
    """An ``Info`` about all rows, which comes with every step, as a field."""
    named = pb.Info(name=name).SerializeToString()
    values = delimited(pb.Info.TENSOR_FIELD_NUMBER, tensor(dtype, shape))
    return Layout(delimited(number, [named, *values]))


def _info_to_proto(name: str, info: Info) -> pb.Info:
    message = pb.Info(name=name)
    if info.rows is not None:
        message.rows.index.extend(info.rows.tolist())
        message.rows.SetInParent()
    if isinstance(info.values, np.ndarray):
        message.tensor.CopyFrom(tensors.pack(info.values))
    else:
        message.texts.texts.extend(info.values)
    return message


def _value(space: Any, batched: BatchedValue, count: int) -> tensor_pb2.Value:
    return tensor_pb2.Value(tensors=spaces.encode(space, batched, count))


def _option_rows(parameter: Parameter, value: tensor_pb2.Value, count: int) -> int:
    """1 or ``count``, read off the first tensor, whose first dimension is the rows."""
    sent = value.tensors[0].shape[0] if value.tensors and value.tensors[0].shape else -1
    if sent not in (1, count):
        raise InvalidOption(
            f"option '{parameter.name}' has {sent} rows; send one for all environments, or one "
            f"for each of the {count} named",
            parameter.name,
        )
    return int(sent)


def _decode_option(parameter: Parameter, value: tensor_pb2.Value, count: int) -> BatchedValue:
    batched = spaces.decode(parameter.space, value.tensors, count)
    spaces.check(parameter.space, batched, count, InvalidOption, parameter.name)
    return batched
