from farsim.v1 import simulator_pb2 as _simulator_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FromSimulator(_message.Message):
    __slots__ = ("hello", "reply")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    hello: AttachHello
    reply: _simulator_pb2.SimReply
    def __init__(self, hello: _Optional[_Union[AttachHello, _Mapping]] = ..., reply: _Optional[_Union[_simulator_pb2.SimReply, _Mapping]] = ...) -> None: ...

class ToSimulator(_message.Message):
    __slots__ = ("welcome", "request")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    welcome: AttachWelcome
    request: _simulator_pb2.SimRequest
    def __init__(self, welcome: _Optional[_Union[AttachWelcome, _Mapping]] = ..., request: _Optional[_Union[_simulator_pb2.SimRequest, _Mapping]] = ...) -> None: ...

class AttachHello(_message.Message):
    __slots__ = ("server_id", "description", "seats", "name")
    SERVER_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SEATS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    server_id: str
    description: _simulator_pb2.DescribeReply
    seats: int
    name: str
    def __init__(self, server_id: _Optional[str] = ..., description: _Optional[_Union[_simulator_pb2.DescribeReply, _Mapping]] = ..., seats: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class AttachWelcome(_message.Message):
    __slots__ = ("protocol_version", "gateway")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    protocol_version: str
    gateway: str
    def __init__(self, protocol_version: _Optional[str] = ..., gateway: _Optional[str] = ...) -> None: ...
