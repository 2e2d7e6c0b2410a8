"""The golden bytes, which implementations in other languages are tested against."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from farsim import spaces, tensors
from farsim.errors import InvalidTensor
from farsim.v1 import space_pb2, tensor_pb2
from tests.farsim import golden
from tests.servers import ROOT


def cases(file: str) -> list[Any]:
    found = json.loads((golden.FOLDER / file).read_text(encoding="utf-8"))
    return [pytest.param(case, id=case["name"]) for case in found]


@pytest.mark.parametrize("file", golden.files())
def test_the_files_are_what_is_encoded_today(file: str):
    now = golden.text(golden.files()[file])
    kept = (golden.FOLDER / file).read_text(encoding="utf-8")
    assert kept == now, f"the encoding has changed: {file} tells others what it was"


@pytest.mark.parametrize("case", cases("tensors.json"))
def test_tensors(case: dict[str, Any]):
    message = tensor_pb2.Tensor.FromString(bytes.fromhex(case["message"]))
    assert message.data.hex() == case["data"] and list(message.shape) == case["shape"]
    array = tensors.unpack(message)
    assert array.dtype.name == case["dtype"]
    assert golden.plain(array) == case["values"]
    assert tensors.pack(array).SerializeToString().hex() == case["message"]


@pytest.mark.parametrize("case", cases("rejected.json"))
def test_rejected_tensors(case: dict[str, Any]):
    contract = (ROOT / "proto/farsim/v1/tensor.proto").read_text()
    assert case["why"] in " ".join(contract.replace("//", " ").split())
    with pytest.raises(InvalidTensor):
        tensors.unpack(tensor_pb2.Tensor.FromString(bytes.fromhex(case["message"])))


@pytest.mark.parametrize("case", cases("spaces.json"))
def test_spaces(case: dict[str, Any]):
    message = space_pb2.Space.FromString(bytes.fromhex(case["message"]))
    space = spaces.from_proto(message)
    assert space == golden.VALUES[case["name"]][0]
    assert spaces.to_proto(space).SerializeToString().hex() == case["message"]


@pytest.mark.parametrize("case", cases("values.json"))
def test_values(case: dict[str, Any]):
    space = spaces.from_proto(space_pb2.Space.FromString(bytes.fromhex(case["space"])))
    value = tensor_pb2.Value.FromString(bytes.fromhex(case["message"]))
    assert [golden.tensor_case(tensor) for tensor in value.tensors] == case["tensors"]
    batched = spaces.decode(space, value.tensors, case["rows"])
    rows = spaces.unbatch(space, batched, case["rows"])
    assert golden.plain(rows) == case["values"]
    assert len(spaces.outside(space, batched, case["rows"])) == 0
    again = tensor_pb2.Value(tensors=spaces.encode(space, batched, case["rows"]))
    assert again.SerializeToString().hex() == case["message"]


def test_every_dtype_and_kind_of_space_is_there():
    dtypes = {array.dtype for array in golden.ARRAYS.values()}
    assert len(dtypes) == len(tensor_pb2.DType.keys()) - 1
    kinds = {spaces.to_proto(space).WhichOneof("kind") for space, _ in golden.VALUES.values()}
    assert kinds == {field.name for field in space_pb2.Space.DESCRIPTOR.fields}
    assert np.dtype(np.bool_) in dtypes
