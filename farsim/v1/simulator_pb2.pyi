from farsim.v1 import space_pb2 as _space_pb2
from farsim.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AutoresetMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUTORESET_MODE_UNSPECIFIED: _ClassVar[AutoresetMode]
    AUTORESET_MODE_NEXT_STEP: _ClassVar[AutoresetMode]
    AUTORESET_MODE_SAME_STEP: _ClassVar[AutoresetMode]
    AUTORESET_MODE_DISABLED: _ClassVar[AutoresetMode]

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_CODE_UNSPECIFIED: _ClassVar[ErrorCode]
    ERROR_CODE_PROTOCOL_VERSION: _ClassVar[ErrorCode]
    ERROR_CODE_PROTOCOL: _ClassVar[ErrorCode]
    ERROR_CODE_SEQUENCE: _ClassVar[ErrorCode]
    ERROR_CODE_SESSION_LOST: _ClassVar[ErrorCode]
    ERROR_CODE_UNKNOWN_SIMULATOR: _ClassVar[ErrorCode]
    ERROR_CODE_UNKNOWN_OPTION: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_OPTION: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_TENSOR: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_ACTION: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_ARGUMENT: _ClassVar[ErrorCode]
    ERROR_CODE_EPISODE_OVER: _ClassVar[ErrorCode]
    ERROR_CODE_UNSUPPORTED: _ClassVar[ErrorCode]
    ERROR_CODE_LIMIT: _ClassVar[ErrorCode]
    ERROR_CODE_DRAINING: _ClassVar[ErrorCode]
    ERROR_CODE_SIMULATOR: _ClassVar[ErrorCode]
    ERROR_CODE_INTERNAL: _ClassVar[ErrorCode]
    ERROR_CODE_UNKNOWN_POLICY: _ClassVar[ErrorCode]
    ERROR_CODE_SPACE_MISMATCH: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_OBSERVATION: _ClassVar[ErrorCode]
AUTORESET_MODE_UNSPECIFIED: AutoresetMode
AUTORESET_MODE_NEXT_STEP: AutoresetMode
AUTORESET_MODE_SAME_STEP: AutoresetMode
AUTORESET_MODE_DISABLED: AutoresetMode
ERROR_CODE_UNSPECIFIED: ErrorCode
ERROR_CODE_PROTOCOL_VERSION: ErrorCode
ERROR_CODE_PROTOCOL: ErrorCode
ERROR_CODE_SEQUENCE: ErrorCode
ERROR_CODE_SESSION_LOST: ErrorCode
ERROR_CODE_UNKNOWN_SIMULATOR: ErrorCode
ERROR_CODE_UNKNOWN_OPTION: ErrorCode
ERROR_CODE_INVALID_OPTION: ErrorCode
ERROR_CODE_INVALID_TENSOR: ErrorCode
ERROR_CODE_INVALID_ACTION: ErrorCode
ERROR_CODE_INVALID_ARGUMENT: ErrorCode
ERROR_CODE_EPISODE_OVER: ErrorCode
ERROR_CODE_UNSUPPORTED: ErrorCode
ERROR_CODE_LIMIT: ErrorCode
ERROR_CODE_DRAINING: ErrorCode
ERROR_CODE_SIMULATOR: ErrorCode
ERROR_CODE_INTERNAL: ErrorCode
ERROR_CODE_UNKNOWN_POLICY: ErrorCode
ERROR_CODE_SPACE_MISMATCH: ErrorCode
ERROR_CODE_INVALID_OBSERVATION: ErrorCode

class DescribeRequest(_message.Message):
    __slots__ = ("protocol_version",)
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: str
    def __init__(self, protocol_version: _Optional[str] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("protocol_version", "server", "simulators", "limits")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    SIMULATORS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: str
    server: str
    simulators: _containers.RepeatedCompositeFieldContainer[SimulatorDescription]
    limits: Limits
    def __init__(self, protocol_version: _Optional[str] = ..., server: _Optional[str] = ..., simulators: _Optional[_Iterable[_Union[SimulatorDescription, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_sessions", "max_environments", "max_message_bytes", "max_in_flight")
    MAX_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    max_sessions: int
    max_environments: int
    max_message_bytes: int
    max_in_flight: int
    def __init__(self, max_sessions: _Optional[int] = ..., max_environments: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_in_flight: _Optional[int] = ...) -> None: ...

class SimulatorDescription(_message.Message):
    __slots__ = ("name", "description", "groups", "parameters", "max_episode_steps", "autoreset_modes", "render_modes", "can_save_state", "max_environments")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MAX_EPISODE_STEPS_FIELD_NUMBER: _ClassVar[int]
    AUTORESET_MODES_FIELD_NUMBER: _ClassVar[int]
    RENDER_MODES_FIELD_NUMBER: _ClassVar[int]
    CAN_SAVE_STATE_FIELD_NUMBER: _ClassVar[int]
    MAX_ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    max_episode_steps: int
    autoreset_modes: _containers.RepeatedScalarFieldContainer[AutoresetMode]
    render_modes: _containers.RepeatedScalarFieldContainer[str]
    can_save_state: bool
    max_environments: int
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ..., max_episode_steps: _Optional[int] = ..., autoreset_modes: _Optional[_Iterable[_Union[AutoresetMode, str]]] = ..., render_modes: _Optional[_Iterable[str]] = ..., can_save_state: bool = ..., max_environments: _Optional[int] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("name", "agents", "observation_space", "action_space", "has_action_mask")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_SPACE_FIELD_NUMBER: _ClassVar[int]
    ACTION_SPACE_FIELD_NUMBER: _ClassVar[int]
    HAS_ACTION_MASK_FIELD_NUMBER: _ClassVar[int]
    name: str
    agents: _containers.RepeatedScalarFieldContainer[str]
    observation_space: _space_pb2.Space
    action_space: _space_pb2.Space
    has_action_mask: bool
    def __init__(self, name: _Optional[str] = ..., agents: _Optional[_Iterable[str]] = ..., observation_space: _Optional[_Union[_space_pb2.Space, _Mapping]] = ..., action_space: _Optional[_Union[_space_pb2.Space, _Mapping]] = ..., has_action_mask: bool = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "description", "space", "unit", "default", "choices", "per_episode")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    PER_EPISODE_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    space: _space_pb2.Space
    unit: str
    default: _tensor_pb2.Value
    choices: _containers.RepeatedScalarFieldContainer[str]
    per_episode: bool
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., space: _Optional[_Union[_space_pb2.Space, _Mapping]] = ..., unit: _Optional[str] = ..., default: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ..., choices: _Optional[_Iterable[str]] = ..., per_episode: bool = ...) -> None: ...

class SimRequest(_message.Message):
    __slots__ = ("sequence", "open", "resume", "reset", "step", "render", "save_state", "load_state", "close")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RENDER_FIELD_NUMBER: _ClassVar[int]
    SAVE_STATE_FIELD_NUMBER: _ClassVar[int]
    LOAD_STATE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    open: Open
    resume: Resume
    reset: Reset
    step: Step
    render: Render
    save_state: SaveState
    load_state: LoadState
    close: Close
    def __init__(self, sequence: _Optional[int] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ..., step: _Optional[_Union[Step, _Mapping]] = ..., render: _Optional[_Union[Render, _Mapping]] = ..., save_state: _Optional[_Union[SaveState, _Mapping]] = ..., load_state: _Optional[_Union[LoadState, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("protocol_version", "simulator", "num_environments", "options", "autoreset_mode", "lease_seconds", "heartbeat_seconds", "render_mode")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SIMULATOR_FIELD_NUMBER: _ClassVar[int]
    NUM_ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    AUTORESET_MODE_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RENDER_MODE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: str
    simulator: str
    num_environments: int
    options: Options
    autoreset_mode: AutoresetMode
    lease_seconds: float
    heartbeat_seconds: float
    render_mode: str
    def __init__(self, protocol_version: _Optional[str] = ..., simulator: _Optional[str] = ..., num_environments: _Optional[int] = ..., options: _Optional[_Union[Options, _Mapping]] = ..., autoreset_mode: _Optional[_Union[AutoresetMode, str]] = ..., lease_seconds: _Optional[float] = ..., heartbeat_seconds: _Optional[float] = ..., render_mode: _Optional[str] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("session_token", "protocol_version")
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    session_token: str
    protocol_version: str
    def __init__(self, session_token: _Optional[str] = ..., protocol_version: _Optional[str] = ...) -> None: ...

class Reset(_message.Message):
    __slots__ = ("environments", "seeds", "options")
    ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    environments: _tensor_pb2.Rows
    seeds: _containers.RepeatedScalarFieldContainer[int]
    options: Options
    def __init__(self, environments: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ..., seeds: _Optional[_Iterable[int]] = ..., options: _Optional[_Union[Options, _Mapping]] = ...) -> None: ...

class Options(_message.Message):
    __slots__ = ("values",)
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.MessageMap[str, _tensor_pb2.Value]
    def __init__(self, values: _Optional[_Mapping[str, _tensor_pb2.Value]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("environments", "groups")
    ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    environments: _tensor_pb2.Rows
    groups: _containers.RepeatedCompositeFieldContainer[GroupActions]
    def __init__(self, environments: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ..., groups: _Optional[_Iterable[_Union[GroupActions, _Mapping]]] = ...) -> None: ...

class GroupActions(_message.Message):
    __slots__ = ("rows", "actions")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    rows: _tensor_pb2.Rows
    actions: _tensor_pb2.Value
    def __init__(self, rows: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ..., actions: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ...) -> None: ...

class Render(_message.Message):
    __slots__ = ("environments",)
    ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    environments: _tensor_pb2.Rows
    def __init__(self, environments: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ...) -> None: ...

class SaveState(_message.Message):
    __slots__ = ("environments",)
    ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    environments: _tensor_pb2.Rows
    def __init__(self, environments: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ...) -> None: ...

class LoadState(_message.Message):
    __slots__ = ("environments", "states")
    ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    environments: _tensor_pb2.Rows
    states: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, environments: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ..., states: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SimReply(_message.Message):
    __slots__ = ("sequence", "opened", "resumed", "batch", "frames", "states", "closed", "error", "heartbeat", "draining", "timing")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    opened: Opened
    resumed: Resumed
    batch: Batch
    frames: Frames
    states: States
    closed: Closed
    error: Error
    heartbeat: Heartbeat
    draining: Draining
    timing: Timing
    def __init__(self, sequence: _Optional[int] = ..., opened: _Optional[_Union[Opened, _Mapping]] = ..., resumed: _Optional[_Union[Resumed, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ..., frames: _Optional[_Union[Frames, _Mapping]] = ..., states: _Optional[_Union[States, _Mapping]] = ..., closed: _Optional[_Union[Closed, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("simulator_seconds", "codec_seconds")
    SIMULATOR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CODEC_SECONDS_FIELD_NUMBER: _ClassVar[int]
    simulator_seconds: float
    codec_seconds: float
    def __init__(self, simulator_seconds: _Optional[float] = ..., codec_seconds: _Optional[float] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("session_token", "groups", "options", "autoreset_mode", "lease_seconds", "heartbeat_seconds", "max_in_flight", "max_episode_steps")
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    AUTORESET_MODE_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_EPISODE_STEPS_FIELD_NUMBER: _ClassVar[int]
    session_token: str
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    options: Options
    autoreset_mode: AutoresetMode
    lease_seconds: float
    heartbeat_seconds: float
    max_in_flight: int
    max_episode_steps: int
    def __init__(self, session_token: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., options: _Optional[_Union[Options, _Mapping]] = ..., autoreset_mode: _Optional[_Union[AutoresetMode, str]] = ..., lease_seconds: _Optional[float] = ..., heartbeat_seconds: _Optional[float] = ..., max_in_flight: _Optional[int] = ..., max_episode_steps: _Optional[int] = ...) -> None: ...

class Resumed(_message.Message):
    __slots__ = ("last_sequence",)
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    last_sequence: int
    def __init__(self, last_sequence: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("environments", "groups", "faults", "started", "episode_options")
    ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    EPISODE_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    environments: _tensor_pb2.Rows
    groups: _containers.RepeatedCompositeFieldContainer[GroupBatch]
    faults: _containers.RepeatedCompositeFieldContainer[Fault]
    started: _tensor_pb2.Rows
    episode_options: Options
    def __init__(self, environments: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ..., groups: _Optional[_Iterable[_Union[GroupBatch, _Mapping]]] = ..., faults: _Optional[_Iterable[_Union[Fault, _Mapping]]] = ..., started: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ..., episode_options: _Optional[_Union[Options, _Mapping]] = ...) -> None: ...

class GroupBatch(_message.Message):
    __slots__ = ("rows", "observation", "reward", "terminated", "truncated", "action_masks", "infos", "final_rows", "final_observation", "final_infos", "acting")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    ACTION_MASKS_FIELD_NUMBER: _ClassVar[int]
    INFOS_FIELD_NUMBER: _ClassVar[int]
    FINAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    FINAL_OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    FINAL_INFOS_FIELD_NUMBER: _ClassVar[int]
    ACTING_FIELD_NUMBER: _ClassVar[int]
    rows: _tensor_pb2.Rows
    observation: _tensor_pb2.Value
    reward: _tensor_pb2.Tensor
    terminated: _tensor_pb2.Tensor
    truncated: _tensor_pb2.Tensor
    action_masks: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    infos: _containers.RepeatedCompositeFieldContainer[Info]
    final_rows: _tensor_pb2.Rows
    final_observation: _tensor_pb2.Value
    final_infos: _containers.RepeatedCompositeFieldContainer[Info]
    acting: _tensor_pb2.Rows
    def __init__(self, rows: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ..., observation: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ..., reward: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., terminated: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., truncated: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., action_masks: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., infos: _Optional[_Iterable[_Union[Info, _Mapping]]] = ..., final_rows: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ..., final_observation: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ..., final_infos: _Optional[_Iterable[_Union[Info, _Mapping]]] = ..., acting: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ...) -> None: ...

class Info(_message.Message):
    __slots__ = ("name", "rows", "tensor", "texts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    rows: _tensor_pb2.Rows
    tensor: _tensor_pb2.Tensor
    texts: Texts
    def __init__(self, name: _Optional[str] = ..., rows: _Optional[_Union[_tensor_pb2.Rows, _Mapping]] = ..., tensor: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., texts: _Optional[_Union[Texts, _Mapping]] = ...) -> None: ...

class Texts(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ...) -> None: ...

class Frames(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    def __init__(self, frames: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ...) -> None: ...

class States(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, states: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Closed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("elapsed_seconds",)
    ELAPSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    elapsed_seconds: float
    def __init__(self, elapsed_seconds: _Optional[float] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ("grace_seconds",)
    GRACE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    grace_seconds: float
    def __init__(self, grace_seconds: _Optional[float] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "subject", "traceback")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    code: ErrorCode
    message: str
    subject: str
    traceback: str
    def __init__(self, code: _Optional[_Union[ErrorCode, str]] = ..., message: _Optional[str] = ..., subject: _Optional[str] = ..., traceback: _Optional[str] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("environment", "error")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    environment: int
    error: Error
    def __init__(self, environment: _Optional[int] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...
