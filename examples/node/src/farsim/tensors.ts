// Arrays of numbers to and from their bytes; see tensor.proto.
import { FarsimError } from "./errors";
import type { DType } from "./generated/farsim/v1/DType";
import type { ITensor, Tensor } from "./generated/farsim/v1/Tensor";

/** 64-bit integers come as bigint; either is taken. */
export type Scalar = number | bigint;

interface Codec {
  size: number;
  get(view: DataView, at: number): Scalar;
  set(view: DataView, at: number, value: Scalar): void;
}

const CODECS: Partial<Record<DType, Codec>> = {
  DTYPE_BOOL: { size: 1, get: (v, i) => v.getUint8(i), set: (v, i, x) => v.setUint8(i, Number(x)) },
  DTYPE_UINT8: { size: 1, get: (v, i) => v.getUint8(i), set: (v, i, x) => v.setUint8(i, Number(x)) },
  DTYPE_INT8: { size: 1, get: (v, i) => v.getInt8(i), set: (v, i, x) => v.setInt8(i, Number(x)) },
  DTYPE_UINT16: { size: 2, get: (v, i) => v.getUint16(i, true), set: (v, i, x) => v.setUint16(i, Number(x), true) },
  DTYPE_INT16: { size: 2, get: (v, i) => v.getInt16(i, true), set: (v, i, x) => v.setInt16(i, Number(x), true) },
  DTYPE_UINT32: { size: 4, get: (v, i) => v.getUint32(i, true), set: (v, i, x) => v.setUint32(i, Number(x), true) },
  DTYPE_INT32: { size: 4, get: (v, i) => v.getInt32(i, true), set: (v, i, x) => v.setInt32(i, Number(x), true) },
  DTYPE_UINT64: { size: 8, get: (v, i) => v.getBigUint64(i, true), set: (v, i, x) => v.setBigUint64(i, BigInt(x), true) },
  DTYPE_INT64: { size: 8, get: (v, i) => v.getBigInt64(i, true), set: (v, i, x) => v.setBigInt64(i, BigInt(x), true) },
  DTYPE_FLOAT16: { size: 2, get: (v, i) => fromHalf(v.getUint16(i, true)), set: (v, i, x) => v.setUint16(i, toHalf(Number(x)), true) },
  DTYPE_FLOAT32: { size: 4, get: (v, i) => v.getFloat32(i, true), set: (v, i, x) => v.setFloat32(i, Number(x), true) },
  DTYPE_FLOAT64: { size: 8, get: (v, i) => v.getFloat64(i, true), set: (v, i, x) => v.setFloat64(i, Number(x), true) },
};

const MAX_DIMENSIONS = 32;

function codecOf(dtype: string): Codec {
  const codec = CODECS[dtype as DType];
  if (!codec) throw new FarsimError("INVALID_TENSOR", `a tensor of ${dtype}: there is no such dtype`);
  return codec;
}

/** Values in C order as a tensor; there must be as many as `shape` says. */
export function pack(dtype: DType, shape: readonly number[], values: ArrayLike<Scalar>): ITensor {
  const codec = codecOf(dtype);
  const count = shape.reduce((product, length) => product * length, 1);
  if (values.length !== count) throw new Error(`${values.length} values for shape [${shape}]`);
  const data = Buffer.alloc(count * codec.size);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  for (let i = 0; i < count; i++) codec.set(view, i * codec.size, values[i]);
  // A field that is set is sent even if it is empty, and other libraries do not send empty ones.
  return { dtype, ...(shape.length ? { shape: [...shape] } : {}), ...(count ? { data } : {}) };
}

/**
 * The shape and the values, in C order, of a tensor from the wire.
 * @throws FarsimError INVALID_TENSOR: its dtype, shape and bytes do not agree.
 */
export function unpack(tensor: Tensor): { shape: number[]; values: Scalar[] } {
  const codec = codecOf(tensor.dtype);
  const shape = tensor.shape.map(Number);
  if (shape.length > MAX_DIMENSIONS || shape.some((length) => length < 0)) {
    throw new FarsimError("INVALID_TENSOR", `a tensor of shape [${shape}]: at most 32 dimensions, none negative`);
  }
  const count = shape.reduce((product, length) => product * length, 1);
  if (tensor.data.length !== count * codec.size) {
    throw new FarsimError("INVALID_TENSOR", `${tensor.data.length} bytes, and ${tensor.dtype} of shape [${shape}] takes ${count * codec.size}`);
  }
  const view = new DataView(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
  const values = Array.from({ length: count }, (_, i) => codec.get(view, i * codec.size));
  if (tensor.dtype === "DTYPE_BOOL" && values.some((value) => value > 1)) {
    throw new FarsimError("INVALID_TENSOR", "a bool is a byte of 0 or 1");
  }
  return { shape, values };
}

/** IEEE 754 binary16, rounded to nearest, ties to even. */
function toHalf(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00;
  // The distance between neighbours: 2^-24 below the normal numbers, then 1024 of them an octave.
  const exponent = Math.max(size < 2 ** -14 ? -14 : Math.floor(Math.log2(size)), -14);
  const steps = size / 2 ** (exponent - 10);
  let rounded = Math.floor(steps);
  const rest = steps - rounded;
  if (rest > 0.5 || (rest === 0.5 && rounded % 2 === 1)) rounded++;
  return sign | (((exponent + 14) << 10) + rounded);
}

function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
}
