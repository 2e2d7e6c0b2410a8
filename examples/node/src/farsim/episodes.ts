// The environments of a session and the episodes that they are in.
import { FarsimError } from "./errors";
import type { AutoresetMode } from "./generated/farsim/v1/AutoresetMode";
import { Random } from "./random";
import type { Environment, Model, Options, Outcome } from "./simulator";
import { contains, maskWidths, type Value } from "./spaces";

/** What one environment has to say after a reset or a step. */
export interface Row {
  environment: number;
  observation: Value;
  reward: number;
  terminated: boolean;
  truncated: boolean;
  masks: boolean[][];
  info: Record<string, number>;
  /** The options of the episode that began here, if one did. */
  started?: Options;
  /** With SAME_STEP: the last observation and info of the episode that ended. */
  final?: { observation: Value; info: Record<string, number> };
  /** What the simulator threw. */
  fault?: unknown;
}

interface Slot {
  environment: Environment;
  random: Random;
  options: Options;
  /** Whether it has no episode yet, is in one, or its last one is over. */
  phase: "new" | "running" | "over";
  observation: Value;
}

/** How long the event loop may be kept from other sessions and from heartbeats, in ms. */
const SLICE = 10;

export class Episodes {
  private readonly slots: Slot[];
  private readonly allAllowed: boolean[][];

  constructor(
    private readonly model: Model,
    count: number,
    private readonly mode: AutoresetMode,
    perEpisode: Options,
  ) {
    this.slots = Array.from({ length: count }, () => ({
      environment: model.make(),
      random: new Random(),
      options: { ...perEpisode },
      phase: "new",
      observation: 0,
    }));
    this.allAllowed = model.hasActionMask
      ? maskWidths(model.actionSpace).map((width) => Array<boolean>(width).fill(true))
      : [];
  }

  /** Which environments of a step need an action. Throws if one can not be stepped at all. */
  acting(environments: readonly number[]): boolean[] {
    const phases = environments.map((index) => this.slots[index].phase);
    if (phases.includes("new")) {
      throw new FarsimError("PROTOCOL", "an environment without an episode: send a reset for it first", "environments");
    }
    if (this.mode === "AUTORESET_MODE_DISABLED" && phases.includes("over")) {
      throw new FarsimError("EPISODE_OVER", "an episode is over: reset that environment", "environments");
    }
    return phases.map((phase) => phase === "running");
  }

  /**
   * Starts new episodes.
   * @param seeds one for each environment, or none.
   * @param options for each parameter given one value for each environment.
   * @throws FarsimError SIMULATOR: it threw; none of these environments has an episode then.
   */
  async reset(
    environments: readonly number[],
    seeds: readonly bigint[],
    options: Record<string, Value[]>,
  ): Promise<Row[]> {
    environments.forEach((index, i) => {
      const slot = this.slots[index];
      if (seeds.length) slot.random = new Random(seeds[i]);
      for (const [name, values] of Object.entries(options)) slot.options[name] = values[i];
    });
    const rows = await inSlices(environments, (index) => this.start(index));
    const failed = rows.find((row) => row.fault !== undefined);
    if (failed) {
      this.abandon(environments);
      throw new FarsimError("SIMULATOR", `environment ${failed.environment} failed to reset: ${failed.fault}`);
    }
    return rows;
  }

  /** Advances environments that are in an episode, and starts the next one of the others. */
  step(environments: readonly number[], actions: readonly Value[]): Promise<Row[]> {
    return inSlices(environments, (index, i) =>
      this.slots[index].phase === "running" ? this.advance(index, actions[i]) : this.start(index),
    );
  }

  /** Leaves environments without an episode. */
  abandon(environments: readonly number[]): void {
    for (const index of environments) this.slots[index].phase = "new";
  }

  private start(index: number): Row {
    const slot = this.slots[index];
    try {
      slot.observation = this.checked(slot.environment.reset(slot.options, slot.random));
      slot.phase = "running";
      return { ...this.row(index), started: { ...slot.options } };
    } catch (error) {
      return this.fault(index, error);
    }
  }

  private advance(index: number, action: Value): Row {
    const slot = this.slots[index];
    let row: Row;
    try {
      const { observation, info = {}, ...rest } = slot.environment.step(action) satisfies Outcome;
      if (!Number.isFinite(rest.reward)) throw new Error(`a reward of ${rest.reward}`);
      slot.observation = this.checked(observation);
      if (rest.terminated || rest.truncated) slot.phase = "over";
      row = { ...this.row(index), ...rest, info };
    } catch (error) {
      row = this.fault(index, error);
    }
    return slot.phase === "over" && this.mode === "AUTORESET_MODE_SAME_STEP" ? this.next(row) : row;
  }

  /** SAME_STEP: the row of an episode that ended, with the next one begun. */
  private next(ended: Row): Row {
    const begun = this.start(ended.environment);
    if (begun.fault !== undefined) return begun;
    const { reward, terminated, truncated, fault, observation, info } = ended;
    return { ...begun, reward, terminated, truncated, fault, final: { observation, info } };
  }

  /** A row with the observation from before; the environment is made anew. */
  private fault(index: number, fault: unknown): Row {
    const slot = this.slots[index];
    console.error(`environment ${index} failed:`, fault);
    slot.environment = this.model.make();
    slot.phase = "over";
    return { ...this.row(index), truncated: true, fault };
  }

  private row(environment: number): Row {
    const slot = this.slots[environment];
    const masks = slot.phase === "running" ? slot.environment.masks?.() : undefined;
    return {
      environment,
      observation: slot.observation,
      reward: 0,
      terminated: false,
      truncated: false,
      masks: masks ?? this.allAllowed,
      info: {},
    };
  }

  private checked(observation: Value): Value {
    if (contains(this.model.observationSpace, observation)) return observation;
    throw new Error(`an observation outside its space: ${JSON.stringify(observation)}`);
  }
}

/** Does something for each environment, and lets others have the event loop now and then. */
async function inSlices(
  environments: readonly number[],
  act: (environment: number, i: number) => Row,
): Promise<Row[]> {
  const rows: Row[] = [];
  let since = performance.now();
  for (const [i, environment] of environments.entries()) {
    rows.push(act(environment, i));
    if (performance.now() - since > SLICE) {
      await new Promise((resume) => setImmediate(resume));
      since = performance.now();
    }
  }
  return rows;
}
