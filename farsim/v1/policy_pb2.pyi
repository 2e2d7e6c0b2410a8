from farsim.v1 import simulator_pb2 as _simulator_pb2
from farsim.v1 import space_pb2 as _space_pb2
from farsim.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Sampling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLING_UNSPECIFIED: _ClassVar[Sampling]
    SAMPLING_GREEDY: _ClassVar[Sampling]
    SAMPLING_SAMPLED: _ClassVar[Sampling]

class LiveMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIVE_MODE_UNSPECIFIED: _ClassVar[LiveMode]
    LIVE_MODE_SERVE: _ClassVar[LiveMode]
    LIVE_MODE_COLLECT: _ClassVar[LiveMode]
    LIVE_MODE_SHADOW: _ClassVar[LiveMode]
SAMPLING_UNSPECIFIED: Sampling
SAMPLING_GREEDY: Sampling
SAMPLING_SAMPLED: Sampling
LIVE_MODE_UNSPECIFIED: LiveMode
LIVE_MODE_SERVE: LiveMode
LIVE_MODE_COLLECT: LiveMode
LIVE_MODE_SHADOW: LiveMode

class DescribePoliciesRequest(_message.Message):
    __slots__ = ("protocol_version",)
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: str
    def __init__(self, protocol_version: _Optional[str] = ...) -> None: ...

class DescribePoliciesReply(_message.Message):
    __slots__ = ("protocol_version", "server", "policies", "modes", "limits", "is_multi_agent")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    MODES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    IS_MULTI_AGENT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: str
    server: str
    policies: _containers.RepeatedCompositeFieldContainer[PolicyDescription]
    modes: _containers.RepeatedScalarFieldContainer[LiveMode]
    limits: _simulator_pb2.Limits
    is_multi_agent: bool
    def __init__(self, protocol_version: _Optional[str] = ..., server: _Optional[str] = ..., policies: _Optional[_Iterable[_Union[PolicyDescription, _Mapping]]] = ..., modes: _Optional[_Iterable[_Union[LiveMode, str]]] = ..., limits: _Optional[_Union[_simulator_pb2.Limits, _Mapping]] = ..., is_multi_agent: bool = ...) -> None: ...

class PolicyDescription(_message.Message):
    __slots__ = ("name", "observation_space", "action_space", "has_action_mask", "is_recurrent", "digest", "versions", "checkpoint", "agents")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_SPACE_FIELD_NUMBER: _ClassVar[int]
    ACTION_SPACE_FIELD_NUMBER: _ClassVar[int]
    HAS_ACTION_MASK_FIELD_NUMBER: _ClassVar[int]
    IS_RECURRENT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    observation_space: _space_pb2.Space
    action_space: _space_pb2.Space
    has_action_mask: bool
    is_recurrent: bool
    digest: str
    versions: _containers.RepeatedScalarFieldContainer[int]
    checkpoint: str
    agents: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., observation_space: _Optional[_Union[_space_pb2.Space, _Mapping]] = ..., action_space: _Optional[_Union[_space_pb2.Space, _Mapping]] = ..., has_action_mask: bool = ..., is_recurrent: bool = ..., digest: _Optional[str] = ..., versions: _Optional[_Iterable[int]] = ..., checkpoint: _Optional[str] = ..., agents: _Optional[_Iterable[str]] = ...) -> None: ...

class ActRequest(_message.Message):
    __slots__ = ("policy", "rows", "observation", "action_masks", "sampling", "policy_version", "digest", "state")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    ACTION_MASKS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    policy: str
    rows: int
    observation: _tensor_pb2.Value
    action_masks: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    sampling: Sampling
    policy_version: int
    digest: str
    state: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, policy: _Optional[str] = ..., rows: _Optional[int] = ..., observation: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ..., action_masks: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., sampling: _Optional[_Union[Sampling, str]] = ..., policy_version: _Optional[int] = ..., digest: _Optional[str] = ..., state: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ActReply(_message.Message):
    __slots__ = ("action", "policy_version", "state")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    action: _tensor_pb2.Value
    policy_version: int
    state: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, action: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ..., policy_version: _Optional[int] = ..., state: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LiveEvent(_message.Message):
    __slots__ = ("sequence", "hello", "resume", "start", "observe", "end", "keep_alive", "goodbye")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    hello: Hello
    resume: ResumeLive
    start: EpisodeStart
    observe: Observe
    end: EpisodeEnd
    keep_alive: KeepAlive
    goodbye: Goodbye
    def __init__(self, sequence: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., resume: _Optional[_Union[ResumeLive, _Mapping]] = ..., start: _Optional[_Union[EpisodeStart, _Mapping]] = ..., observe: _Optional[_Union[Observe, _Mapping]] = ..., end: _Optional[_Union[EpisodeEnd, _Mapping]] = ..., keep_alive: _Optional[_Union[KeepAlive, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "mode", "groups", "client", "sampling", "policy_version", "lease_seconds")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: str
    mode: LiveMode
    groups: _containers.RepeatedCompositeFieldContainer[_simulator_pb2.Group]
    client: str
    sampling: Sampling
    policy_version: int
    lease_seconds: float
    def __init__(self, protocol_version: _Optional[str] = ..., mode: _Optional[_Union[LiveMode, str]] = ..., groups: _Optional[_Iterable[_Union[_simulator_pb2.Group, _Mapping]]] = ..., client: _Optional[str] = ..., sampling: _Optional[_Union[Sampling, str]] = ..., policy_version: _Optional[int] = ..., lease_seconds: _Optional[float] = ...) -> None: ...

class ResumeLive(_message.Message):
    __slots__ = ("session_token", "protocol_version")
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    session_token: str
    protocol_version: str
    def __init__(self, session_token: _Optional[str] = ..., protocol_version: _Optional[str] = ...) -> None: ...

class EpisodeStart(_message.Message):
    __slots__ = ("episode",)
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    episode: int
    def __init__(self, episode: _Optional[int] = ...) -> None: ...

class Observe(_message.Message):
    __slots__ = ("episode", "agents")
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    episode: int
    agents: _containers.RepeatedCompositeFieldContainer[AgentObservation]
    def __init__(self, episode: _Optional[int] = ..., agents: _Optional[_Iterable[_Union[AgentObservation, _Mapping]]] = ...) -> None: ...

class AgentObservation(_message.Message):
    __slots__ = ("agent", "observation", "action_masks", "reward", "terminated", "truncated", "logged_action", "action_taken")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    ACTION_MASKS_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    LOGGED_ACTION_FIELD_NUMBER: _ClassVar[int]
    ACTION_TAKEN_FIELD_NUMBER: _ClassVar[int]
    agent: str
    observation: _tensor_pb2.Value
    action_masks: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    reward: float
    terminated: bool
    truncated: bool
    logged_action: _tensor_pb2.Value
    action_taken: _tensor_pb2.Value
    def __init__(self, agent: _Optional[str] = ..., observation: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ..., action_masks: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., reward: _Optional[float] = ..., terminated: bool = ..., truncated: bool = ..., logged_action: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ..., action_taken: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ...) -> None: ...

class EpisodeEnd(_message.Message):
    __slots__ = ("episode", "agents", "aborted")
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    ABORTED_FIELD_NUMBER: _ClassVar[int]
    episode: int
    agents: _containers.RepeatedCompositeFieldContainer[AgentObservation]
    aborted: bool
    def __init__(self, episode: _Optional[int] = ..., agents: _Optional[_Iterable[_Union[AgentObservation, _Mapping]]] = ..., aborted: bool = ...) -> None: ...

class KeepAlive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LiveReply(_message.Message):
    __slots__ = ("sequence", "welcome", "resumed", "actions", "done", "farewell", "error", "draining")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAREWELL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    welcome: Welcome
    resumed: _simulator_pb2.Resumed
    actions: Actions
    done: Done
    farewell: Farewell
    error: _simulator_pb2.Error
    draining: _simulator_pb2.Draining
    def __init__(self, sequence: _Optional[int] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., resumed: _Optional[_Union[_simulator_pb2.Resumed, _Mapping]] = ..., actions: _Optional[_Union[Actions, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., farewell: _Optional[_Union[Farewell, _Mapping]] = ..., error: _Optional[_Union[_simulator_pb2.Error, _Mapping]] = ..., draining: _Optional[_Union[_simulator_pb2.Draining, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session_token", "mode", "lease_seconds", "idle_seconds", "max_in_flight", "max_episodes", "policy_version")
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_EPISODES_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    session_token: str
    mode: LiveMode
    lease_seconds: float
    idle_seconds: float
    max_in_flight: int
    max_episodes: int
    policy_version: int
    def __init__(self, session_token: _Optional[str] = ..., mode: _Optional[_Union[LiveMode, str]] = ..., lease_seconds: _Optional[float] = ..., idle_seconds: _Optional[float] = ..., max_in_flight: _Optional[int] = ..., max_episodes: _Optional[int] = ..., policy_version: _Optional[int] = ...) -> None: ...

class Actions(_message.Message):
    __slots__ = ("episode", "agents")
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    episode: int
    agents: _containers.RepeatedCompositeFieldContainer[AgentAction]
    def __init__(self, episode: _Optional[int] = ..., agents: _Optional[_Iterable[_Union[AgentAction, _Mapping]]] = ...) -> None: ...

class AgentAction(_message.Message):
    __slots__ = ("agent", "action", "policy", "policy_version")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    agent: str
    action: _tensor_pb2.Value
    policy: str
    policy_version: int
    def __init__(self, agent: _Optional[str] = ..., action: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ..., policy: _Optional[str] = ..., policy_version: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Farewell(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
