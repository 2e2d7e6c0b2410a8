// What clients choose when they open a session or reset environments.
import { FarsimError } from "./errors";
import type { IOptions, Options as WireOptions } from "./generated/farsim/v1/Options";
import type { IParameter } from "./generated/farsim/v1/Parameter";
import type { Options, Parameter } from "./simulator";
import { contains, decode, encode, type Value } from "./spaces";

/**
 * The value of every parameter, for a session.
 * @throws FarsimError UNKNOWN_OPTION, INVALID_OPTION
 */
export function sessionOptions(parameters: Parameter[], sent: WireOptions | null): Options {
  const chosen = read(parameters, sent, 1);
  return Object.fromEntries(parameters.map((p) => [p.name, chosen[p.name]?.[0] ?? p.default]));
}

/**
 * What a reset changes: for each parameter named a value for each of `count` environments.
 * @throws FarsimError UNKNOWN_OPTION, INVALID_OPTION
 */
export function resetOptions(
  parameters: Parameter[],
  sent: WireOptions | null,
  count: number,
): Record<string, Value[]> {
  for (const { name, perEpisode } of parameters) {
    if (!perEpisode && sent && name in sent.values!) {
      throw new FarsimError("INVALID_OPTION", `option '${name}' holds for a session: give it in 'open'`, name);
    }
  }
  return read(parameters, sent, count);
}

function read(parameters: Parameter[], sent: WireOptions | null, count: number): Record<string, Value[]> {
  const chosen: Record<string, Value[]> = {};
  for (const [name, value] of Object.entries(sent?.values ?? {})) {
    const parameter = parameters.find((one) => one.name === name);
    if (!parameter) {
      const known = parameters.map((one) => one.name).join(", ");
      throw new FarsimError("UNKNOWN_OPTION", `there is no option '${name}'; there are ${known}`, name);
    }
    const rows = Number(value.tensors[0]?.shape[0] ?? -1);
    if (rows !== 1 && rows !== count) {
      throw new FarsimError("INVALID_OPTION", `option '${name}' takes 1 row or ${count}, not ${rows}`, name);
    }
    let values: Value[];
    try {
      values = decode(parameter.space, value.tensors, rows);
    } catch (error) {
      throw new FarsimError("INVALID_OPTION", `option '${name}': ${(error as Error).message}`, name);
    }
    for (const one of values) {
      const isChoice = !parameter.choices || parameter.choices.includes(one as string);
      if (!isChoice || !contains(parameter.space, one)) {
        const choices = parameter.choices ? `; choose ${parameter.choices.join(" or ")}` : "";
        throw new FarsimError("INVALID_OPTION", `option '${name}' can not be ${one}${choices}`, name);
      }
    }
    chosen[name] = rows === count ? values : Array<Value>(count).fill(values[0]);
  }
  return chosen;
}

/** Options of one or several rows; `rows` has one object for each. */
export function optionsToWire(parameters: Parameter[], rows: Options[]): IOptions {
  const values = parameters.map((p) => [
    p.name,
    { tensors: encode(p.space, rows.map((row) => row[p.name])) },
  ]);
  return { values: Object.fromEntries(values) };
}

export function parameterToWire(parameter: Parameter): IParameter {
  const { perEpisode, ...rest } = parameter;
  return {
    ...rest,
    perEpisode: perEpisode ?? false,
    default: { tensors: encode(parameter.space, [parameter.default]) },
  };
}
