// The golden fixtures: the same bytes as from every other language.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import type { DType } from "../src/farsim/generated/farsim/v1/DType";
import type { ISpace, Space } from "../src/farsim/generated/farsim/v1/Space";
import { v1 } from "../src/farsim/proto";
import { contains, decode, encode, type Value } from "../src/farsim/spaces";
import { pack, type Scalar, unpack } from "../src/farsim/tensors";

const FOLDER = process.env.FARSIM_GOLDEN ?? path.resolve(__dirname, "../../../../tests/data/golden");

function cases(file: string): any[] {
  const found = JSON.parse(readFileSync(path.join(FOLDER, file), "utf8"));
  assert.ok(found.length, `${file} has no cases`);
  return found;
}

const hex = (bytes: string): Buffer => Buffer.from(bytes, "hex");
const dtypeOf = (name: string): DType => `DTYPE_${name.toUpperCase()}` as DType;

/** JSON's strings for numbers that it has not, as numbers. */
function number(value: unknown): Scalar {
  if (typeof value !== "string") return Number(value);
  const named: Record<string, number> = { inf: Infinity, "-inf": -Infinity, nan: NaN };
  return named[value] ?? BigInt(value);
}

function numbers(value: unknown): Value {
  return Array.isArray(value) ? value.map(numbers) : number(value);
}

/** Protobuf's JSON with the names that JavaScript gives to fields. */
function camelCase(json: any): any {
  if (Array.isArray(json)) return json.map(camelCase);
  if (typeof json !== "object") return json;
  const renamed = Object.entries(json).map(([name, value]) => [
    name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase()),
    camelCase(value),
  ]);
  return Object.fromEntries(renamed);
}

/** A value as the fixtures write it, as one that `encode` takes. */
function revive(space: ISpace, value: any): Value {
  if (space.text) return value;
  if (space.dict) {
    const members = space.dict.members!.map((member) => [member.name!, revive(member.space!, value[member.name!])]);
    return Object.fromEntries(members);
  }
  if (space.tuple) return space.tuple.members!.map((member, i) => revive(member, value[i]));
  if (space.sequence) return value.map((one: unknown) => revive(space.sequence!.element!, one));
  if (space.oneOf) return [Number(value[0]), revive(space.oneOf.members![Number(value[0])], value[1])];
  if (space.graph) return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, numbers(part)]));
  return numbers(value);
}

for (const { name, dtype, shape, values, data, message } of cases("tensors.json")) {
  test(`tensor: ${name}`, () => {
    const flat = ([numbers(values)] as unknown[]).flat(Infinity) as Scalar[];
    const tensor = pack(dtypeOf(dtype), shape, flat);
    assert.equal(Buffer.from((tensor.data as Buffer) ?? "").toString("hex"), data);
    assert.equal(v1.Tensor.serialize(tensor).toString("hex"), message);
    const back = unpack(v1.Tensor.deserialize(hex(message)));
    assert.deepEqual(back.shape, shape);
    assert.equal(v1.Tensor.serialize(pack(dtypeOf(dtype), shape, back.values)).toString("hex"), message);
    // Of float16 and float32 the fixture has the value in full.
    assert.deepEqual(back.values.map(Number), flat.map(Number));
  });
}

for (const { name, why, message } of cases("rejected.json")) {
  test(`rejected: ${name} (${why})`, () => {
    assert.throws(() => unpack(v1.Tensor.deserialize(hex(message))), { code: "INVALID_TENSOR" });
  });
}

for (const { name, space, message } of cases("spaces.json")) {
  test(`space: ${name}`, () => assert.equal(v1.Space.serialize(camelCase(space)).toString("hex"), message));
}

for (const { name, space: bytes, rows, values, tensors, message } of cases("values.json")) {
  test(`values: ${name}`, () => {
    const space: Space = v1.Space.deserialize(hex(bytes));
    const revived = values.map((value: unknown) => revive(space, value));
    const encoded = encode(space, revived);
    assert.deepEqual(
      encoded.map(({ dtype, shape, data }) => ({
        dtype,
        shape: shape ?? [],
        data: Buffer.from((data as Buffer) ?? "").toString("hex"),
      })),
      tensors.map((tensor: any) => ({ ...tensor, dtype: dtypeOf(tensor.dtype) })),
    );
    assert.equal(v1.Value.serialize({ tensors: encoded }).toString("hex"), message);
    const back = decode(space, v1.Value.deserialize(hex(message)).tensors, rows);
    assert.equal(v1.Value.serialize({ tensors: encode(space, back) }).toString("hex"), message);
    for (const value of back) assert.ok(contains(space, value), `${name}: not in its space`);
  });
}
