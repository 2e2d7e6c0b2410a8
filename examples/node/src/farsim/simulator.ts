// What the author of a simulator writes.
import type { ISpace } from "./generated/farsim/v1/Space";
import type { Random } from "./random";
import type { Value } from "./spaces";

export type Options = Record<string, Value>;

export interface Parameter {
  name: string;
  description: string;
  space: ISpace;
  default: Value;
  unit?: string;
  /** For a Text: the only values allowed. */
  choices?: string[];
  /** Whether a reset may change it for the episodes that follow. */
  perEpisode?: boolean;
}

/** One environment. It may throw anything: that ends the episode as a fault, and it is made anew. */
export interface Environment {
  /**
   * Begins an episode.
   * @param options the value of every per-episode parameter.
   * @param random where all its chance comes from, so that a seed gives the same episode.
   * @returns the first observation.
   */
  reset(options: Options, random: Random): Value;
  step(action: Value): Outcome;
  /** For each Discrete and MultiDiscrete leaf of the action space, what is allowed now. */
  masks?(): boolean[][];
}

export interface Outcome {
  observation: Value;
  reward: number;
  /** The world reached an end. */
  terminated: boolean;
  /** Stopped from outside, by a time limit for instance. */
  truncated: boolean;
  /** Numbers for people and metrics. */
  info?: Record<string, number>;
}

/** A simulator with its options chosen. */
export interface Model {
  observationSpace: ISpace;
  actionSpace: ISpace;
  /** Whether environments have `masks`. */
  hasActionMask: boolean;
  /** After how many steps an episode is truncated at the latest; 0: no bound is known. */
  maxEpisodeSteps: number;
  make(): Environment;
}

/** A simulator on offer, with one agent. */
export interface Simulator {
  name: string;
  description: string;
  parameters: Parameter[];
  /** @param options the value of every parameter. */
  open(options: Options): Model;
}
