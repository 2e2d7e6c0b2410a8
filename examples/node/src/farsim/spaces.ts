// Values of spaces to and from tensors; see Value in tensor.proto and space.proto.
import { FarsimError } from "./errors";
import type { DType } from "./generated/farsim/v1/DType";
import type { ISpace } from "./generated/farsim/v1/Space";
import type { ITensor, Tensor } from "./generated/farsim/v1/Tensor";
import { pack, type Scalar, unpack } from "./tensors";

/**
 * One value of a space. A scalar Box and a Discrete: a number (bigint if of 64 bits). Box,
 * MultiDiscrete, MultiBinary: their elements in C order, flat or nested. Text: a string. Dict: an
 * object. Tuple, Sequence: an array. OneOf: [member, value]. Graph: {nodes, edges, links}.
 */
export type Value = Scalar | string | readonly Value[] | { readonly [name: string]: Value };
type Graph = { nodes: Value[]; edges?: Value[]; links?: Value[] };

// -- making spaces ------------------------------------------------------------------------

export function box(dtype: DType, shape: number[], low: number, high: number): ISpace {
  return { box: { dtype, shape, low: pack(dtype, [], [low]), high: pack(dtype, [], [high]) } };
}

export function discrete(n: number, start = 0): ISpace {
  return { discrete: { n, start, dtype: "DTYPE_INT64" } };
}

/** Its values are chosen from `choices` of a parameter: any characters that occur there. */
export function text(choices: string[]): ISpace {
  const lengths = choices.map((choice) => [...choice].length);
  const characters = [...new Set(choices.join(""))].join("");
  return { text: { minLength: Math.min(...lengths), maxLength: Math.max(...lengths), characters } };
}

export function dict(members: Record<string, ISpace | { space: ISpace; unit: string }>): ISpace {
  const named = Object.entries(members).map(([name, member]) =>
    "unit" in member ? { name, ...member } : { name, space: member as ISpace },
  );
  return { dict: { members: named } };
}

// -- what a space is ------------------------------------------------------------------------

interface Leaf {
  dtype: DType;
  shape: number[];
}

/** The dtype and shape of a space whose values are arrays; undefined for the others. */
function leafOf(space: ISpace): Leaf | undefined {
  if (space.box) return { dtype: space.box.dtype as DType, shape: (space.box.shape ?? []).map(Number) };
  if (space.discrete) return { dtype: integer(space.discrete.dtype), shape: [] };
  if (space.multiDiscrete) {
    return { dtype: integer(space.multiDiscrete.dtype), shape: (space.multiDiscrete.n?.shape ?? []).map(Number) };
  }
  if (space.multiBinary) return { dtype: "DTYPE_INT8", shape: (space.multiBinary.shape ?? []).map(Number) };
  return undefined;
}

function integer(dtype: unknown): DType {
  return !dtype || dtype === "DTYPE_UNSPECIFIED" ? "DTYPE_INT64" : (dtype as DType);
}

function membersOf(space: ISpace): ISpace[] | undefined {
  return space.dict?.members?.map((member) => member.space!) ?? space.tuple?.members;
}

/** How many choices each Discrete and MultiDiscrete leaf of an action space has. */
export function maskWidths(space: ISpace): number[] {
  if (space.discrete) return [Number(space.discrete.n)];
  if (space.multiDiscrete) return [elements(space.multiDiscrete.n).reduce((sum: number, n) => sum + Number(n), 0)];
  return (membersOf(space) ?? []).flatMap(maskWidths);
}

function elements(tensor: ITensor | null | undefined): Scalar[] {
  return tensor ? unpack({ shape: [], data: Buffer.alloc(0), ...tensor } as Tensor).values : [];
}

function flat(value: Value): Scalar[] {
  return Array.isArray(value) ? (value.flat(Infinity) as Scalar[]) : [value as Scalar];
}

// -- encoding -------------------------------------------------------------------------------

/** A batch of values, in columns. */
export function encode(space: ISpace, rows: readonly Value[]): ITensor[] {
  const leaf = leafOf(space);
  if (leaf) return [pack(leaf.dtype, [rows.length, ...leaf.shape], rows.flatMap(flat))];
  if (space.text) {
    const texts = rows.map((row) => Buffer.from(row as string, "utf8"));
    const bytes = Buffer.concat(texts);
    return [counts(texts), pack("DTYPE_UINT8", [bytes.length], bytes)];
  }
  if (space.dict) {
    return (space.dict.members ?? []).flatMap((member) =>
      encode(member.space!, rows.map((row) => (row as Record<string, Value>)[member.name!])),
    );
  }
  if (space.tuple) {
    return (space.tuple.members ?? []).flatMap((member, i) => encode(member, rows.map((row) => (row as Value[])[i])));
  }
  if (space.sequence) {
    const lists = rows as Value[][];
    return [counts(lists), ...encode(space.sequence.element!, lists.flat(1))];
  }
  if (space.graph) {
    const graphs = rows as Graph[];
    const edges = graphs.map((graph) => graph.edges ?? []);
    const links = flat(graphs.flatMap((graph) => graph.links ?? []));
    const tensors = [
      counts(graphs.map((graph) => graph.nodes)),
      counts(edges),
      ...encode(space.graph.node!, graphs.flatMap((graph) => graph.nodes)),
    ];
    if (!space.graph.edge) return tensors;
    return [...tensors, ...encode(space.graph.edge, edges.flat(1)), pack("DTYPE_INT32", [links.length / 2, 2], links)];
  }
  if (space.oneOf) {
    const chosen = rows.map((row) => Number((row as Value[])[0]));
    const members = (space.oneOf.members ?? []).flatMap((member, i) =>
      encode(member, rows.filter((_, row) => chosen[row] === i).map((row) => (row as Value[])[1])),
    );
    return [pack("DTYPE_INT64", [rows.length], chosen), ...members];
  }
  throw new Error("a space without a kind");
}

function counts(lists: readonly { length: number }[]): ITensor {
  return pack("DTYPE_INT64", [lists.length], lists.map((list) => list.length));
}

// -- decoding -------------------------------------------------------------------------------

/**
 * The values of a batch of `count` rows; arrays come flat.
 * @param mismatch the code of the error when the tensors are not those of such a batch.
 * @throws FarsimError that one, or INVALID_TENSOR: a tensor is none.
 */
export function decode(
  space: ISpace,
  tensors: readonly Tensor[],
  count: number,
  mismatch: FarsimError["code"] = "INVALID_TENSOR",
): Value[] {
  const reader = new Reader(tensors, mismatch);
  const rows = reader.batch(space, count);
  reader.finish();
  return rows;
}

class Reader {
  private next = 0;

  constructor(
    private readonly tensors: readonly Tensor[],
    private readonly mismatch: FarsimError["code"],
  ) {}

  finish(): void {
    if (this.next !== this.tensors.length) {
      throw new FarsimError(this.mismatch, `${this.tensors.length} tensors, and the space takes ${this.next}`);
    }
  }

  batch(space: ISpace, count: number): Value[] {
    const leaf = leafOf(space);
    if (leaf) {
      const values = this.take(leaf.dtype, [count, ...leaf.shape]);
      return leaf.shape.length ? parts(values, Array(count).fill(values.length / (count || 1))) : values;
    }
    if (space.text) {
      const lengths = this.lengths(count);
      const bytes = Buffer.from(this.take("DTYPE_UINT8", [sum(lengths)]) as number[]);
      try {
        const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
        return parts([...bytes], lengths).map((part) => utf8.decode(Buffer.from(part)));
      } catch {
        throw new FarsimError("INVALID_TENSOR", "a text that is not UTF-8");
      }
    }
    if (space.dict) {
      const members = space.dict.members ?? [];
      const columns = members.map((member) => this.batch(member.space!, count));
      return Array.from({ length: count }, (_, row) =>
        Object.fromEntries(members.map((member, i) => [member.name!, columns[i][row]])),
      );
    }
    if (space.tuple) {
      const columns = (space.tuple.members ?? []).map((member) => this.batch(member, count));
      return Array.from({ length: count }, (_, row) => columns.map((column) => column[row]));
    }
    if (space.sequence) {
      const lengths = this.lengths(count);
      return parts(this.batch(space.sequence.element!, sum(lengths)), lengths);
    }
    if (space.graph) {
      const nodeCounts = this.lengths(count);
      const edgeCounts = this.lengths(count);
      const nodes = parts(this.batch(space.graph.node!, sum(nodeCounts)), nodeCounts);
      if (!space.graph.edge) return nodes.map((some) => ({ nodes: some }));
      const edges = parts(this.batch(space.graph.edge, sum(edgeCounts)), edgeCounts);
      const links = parts(this.take("DTYPE_INT32", [sum(edgeCounts), 2]), edgeCounts.map((n) => 2 * n));
      return nodes.map((some, i) => ({ nodes: some, edges: edges[i], links: links[i] }));
    }
    const members = space.oneOf?.members ?? [];
    const chosen = this.lengths(count);
    if (chosen.some((member) => member >= members.length)) {
      throw new FarsimError("INVALID_TENSOR", `one of ${members.length} members was to be chosen, not ${chosen}`);
    }
    const columns = members.map((member, i) => this.batch(member, chosen.filter((one) => one === i).length));
    return chosen.map((member) => [member, columns[member].shift()!]);
  }

  private lengths(count: number): number[] {
    const lengths = this.take("DTYPE_INT64", [count]).map(Number);
    if (lengths.some((length) => length < 0)) throw new FarsimError("INVALID_TENSOR", "a negative length");
    return lengths;
  }

  private take(dtype: DType, shape: number[]): Scalar[] {
    const tensor = this.tensors[this.next++];
    if (!tensor) throw new FarsimError(this.mismatch, `${this.tensors.length} tensors, and the space takes more`);
    const unpacked = unpack(tensor);
    if (tensor.dtype !== dtype || unpacked.shape.join() !== shape.join()) {
      throw new FarsimError(this.mismatch, `${tensor.dtype} of shape [${unpacked.shape}] where the space has ${dtype} of [${shape}]`);
    }
    return unpacked.values;
  }
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}

function parts<T>(values: readonly T[], lengths: readonly number[]): T[][] {
  let at = 0;
  return lengths.map((length) => values.slice(at, (at += length)));
}

// -- membership -----------------------------------------------------------------------------

/** Whether a value, in the form that `decode` gives, is a member of the space. */
export function contains(space: ISpace, value: Value): boolean {
  const leaf = leafOf(space);
  if (leaf) {
    const values = flat(value);
    if (values.length !== leaf.shape.reduce((product, length) => product * length, 1)) return false;
    const [low, high] = BOUNDS.get(space) ?? boundsOf(space);
    return values.every((one, i) => one >= low(i) && one <= high(i));
  }
  if (space.text) {
    const { minLength = 0, maxLength = 0, characters = "" } = space.text;
    if (typeof value !== "string") return false;
    const written = [...value];
    return written.length >= minLength && written.length <= maxLength && written.every((c) => characters.includes(c));
  }
  if (space.dict) {
    return (space.dict.members ?? []).every((m) => contains(m.space!, (value as Record<string, Value>)[m.name!]));
  }
  if (space.tuple) return (space.tuple.members ?? []).every((m, i) => contains(m, (value as Value[])[i]));
  if (space.sequence) return (value as Value[]).every((one) => contains(space.sequence!.element!, one));
  if (space.oneOf) {
    const [member, chosen] = value as [number, Value];
    return contains(space.oneOf.members![member], chosen);
  }
  const { nodes, edges = [], links = [] } = value as Graph;
  return (
    nodes.every((node) => contains(space.graph!.node!, node)) &&
    edges.every((edge) => contains(space.graph!.edge!, edge)) &&
    flat(links).every((end) => end >= 0 && end < nodes.length)
  );
}

type Bounds = [low: (i: number) => Scalar, high: (i: number) => Scalar];

/** Read once for each space: every step asks for them. */
const BOUNDS = new WeakMap<ISpace, Bounds>();

/** The least and the greatest value of each element of a leaf. */
function boundsOf(space: ISpace): Bounds {
  const bounds = readBounds(space);
  BOUNDS.set(space, bounds);
  return bounds;
}

function readBounds(space: ISpace): Bounds {
  if (space.discrete) {
    const start = Number(space.discrete.start ?? 0);
    const end = start + Number(space.discrete.n) - 1;
    return [() => start, () => end];
  }
  if (space.multiBinary) return [() => 0, () => 1];
  if (space.multiDiscrete) {
    const n = elements(space.multiDiscrete.n).map(Number);
    const start = elements(space.multiDiscrete.start).map(Number);
    return [(i) => start[i] ?? 0, (i) => (start[i] ?? 0) + n[i] - 1];
  }
  const low = elements(space.box!.low);
  const high = elements(space.box!.high);
  return [(i) => low[low.length > 1 ? i : 0], (i) => high[high.length > 1 ? i : 0]];
}
