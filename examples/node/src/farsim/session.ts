// One client's environments: requests in, replies out, each carried out once.
import { randomBytes } from "node:crypto";
import { Episodes, type Row } from "./episodes";
import { FarsimError, toWire } from "./errors";
import type { AutoresetMode } from "./generated/farsim/v1/AutoresetMode";
import type { IBatch } from "./generated/farsim/v1/Batch";
import type { IGroup } from "./generated/farsim/v1/Group";
import type { IGroupBatch } from "./generated/farsim/v1/GroupBatch";
import type { Open } from "./generated/farsim/v1/Open";
import type { IOpened } from "./generated/farsim/v1/Opened";
import type { Reset } from "./generated/farsim/v1/Reset";
import type { Rows } from "./generated/farsim/v1/Rows";
import type { ISimReply } from "./generated/farsim/v1/SimReply";
import type { SimRequest } from "./generated/farsim/v1/SimRequest";
import type { Step } from "./generated/farsim/v1/Step";
import { optionsToWire, resetOptions, sessionOptions } from "./options";
import { v1 } from "./proto";
import type { Model, Options, Simulator } from "./simulator";
import { contains, decode, encode, maskWidths, type Value } from "./spaces";
import { pack } from "./tensors";

export interface Limits {
  maxSessions: number;
  maxEnvironments: number;
  maxMessageBytes: number;
  maxInFlight: number;
  leaseSeconds: number;
  heartbeatSeconds: number;
}

/** What carries a session: one call of `Run`, or one seat at a gateway. */
export interface Stream {
  /** Resolves when there is room for more. */
  send(reply: Buffer): Promise<void>;
  /** Ends it after what has been sent, with status OK unless another is given. */
  end(status?: { code: number; details: string }): void;
}

const AGENT = "agent";
const MAX_HEARTBEAT_SECONDS = 60; // Timers of a month and more would fire at once.

export function groupOf(model: Model): IGroup {
  const { observationSpace, actionSpace, hasActionMask } = model;
  return { name: AGENT, agents: [AGENT], observationSpace, actionSpace, hasActionMask };
}

export class Session {
  readonly token = randomBytes(24).toString("base64url");
  readonly count: number;
  readonly leaseSeconds: number;
  readonly heartbeatSeconds: number;
  /** Which stream carries it; null between two. */
  stream: Stream | null = null;
  /** When the last stream broke, in ms. */
  detachedAt = 0;
  /** The request being carried out and since when, in ms. */
  busy: { sequence: number; since: number } | null = null;
  isClosed = false;

  private readonly model: Model;
  private readonly options: Options;
  private readonly episodes: Episodes;
  private readonly mode: AutoresetMode;
  private next = 1;
  private readonly replies = new Map<number, { request: Buffer; reply: Buffer }>();
  private turn: Promise<unknown> = Promise.resolve();

  /** @throws FarsimError: what is asked for can not be granted. */
  constructor(
    private readonly simulator: Simulator,
    open: Open,
    private readonly limits: Limits,
    private readonly isDraining: () => boolean,
  ) {
    if (open.renderMode) throw new FarsimError("UNSUPPORTED", "this simulator has no pictures", "render_mode");
    const unspecified = open.autoresetMode === "AUTORESET_MODE_UNSPECIFIED";
    this.mode = unspecified ? "AUTORESET_MODE_NEXT_STEP" : open.autoresetMode;
    if (!MODES.includes(this.mode)) {
      throw new FarsimError("UNSUPPORTED", `there is no autoreset mode ${this.mode}`, "autoreset_mode");
    }
    this.count = open.numEnvironments;
    this.leaseSeconds = Math.min(open.leaseSeconds || Infinity, limits.leaseSeconds);
    this.heartbeatSeconds = Math.min(open.heartbeatSeconds || limits.heartbeatSeconds, MAX_HEARTBEAT_SECONDS);
    this.options = sessionOptions(simulator.parameters, open.options);
    this.model = simulator.open(this.options);
    const perEpisode = simulator.parameters.filter((parameter) => parameter.perEpisode);
    const defaults = perEpisode.map((parameter) => [parameter.name, this.options[parameter.name]]);
    this.episodes = new Episodes(this.model, this.count, this.mode, Object.fromEntries(defaults));
  }

  /** The highest number carried out or being carried out. */
  get lastSequence(): number {
    return Math.max(this.next - 1, this.busy?.sequence ?? 0);
  }

  hasExpired(now: number): boolean {
    return !this.stream && !this.busy && now - this.detachedAt > 1000 * this.leaseSeconds;
  }

  /** The reply to a request, after those before it; null if another stream has taken over. */
  answer(stream: Stream, raw: Buffer, request: SimRequest): Promise<Buffer | null> {
    const answered = this.turn.then(() => (this.stream === stream ? this.answerNow(raw, request) : null));
    this.turn = answered.catch(() => undefined);
    return answered;
  }

  private async answerNow(raw: Buffer, request: SimRequest): Promise<Buffer> {
    const sequence = Number(request.sequence);
    const known = this.replies.get(sequence);
    if (known?.request.equals(raw)) return known.reply;
    if (sequence !== this.next) {
      const text = `the next new request has number ${this.next}, and only repeats of the last ${this.limits.maxInFlight} are answered`;
      return serialise({ sequence, error: toWire(new FarsimError("SEQUENCE", text, "sequence")) });
    }
    this.busy = { sequence, since: Date.now() };
    let reply: Buffer;
    try {
      reply = serialise({ sequence, ...(await this.carryOut(request)) });
      if (reply.length > this.limits.maxMessageBytes) {
        const named = request.reset ?? request.step;
        if (named) this.episodes.abandon(this.named(named.environments));
        throw new FarsimError("LIMIT", `the reply has ${reply.length} bytes: name fewer environments, and reset these`);
      }
    } catch (error) {
      if (!(error instanceof FarsimError)) console.error(`request ${sequence} failed:`, error);
      reply = serialise({ sequence, error: toWire(error) });
    } finally {
      this.busy = null;
    }
    this.next++;
    this.replies.set(sequence, { request: raw, reply });
    this.replies.delete(sequence - this.limits.maxInFlight);
    return reply;
  }

  private async carryOut(request: SimRequest): Promise<ISimReply> {
    if (this.isDraining()) throw new FarsimError("DRAINING", "this server is about to stop");
    switch (request.request) {
      case "open":
        if (this.next > 1) throw new FarsimError("PROTOCOL", "this session is open already");
        return { opened: this.opened() };
      case "reset":
        return { batch: await this.reset(request.reset!) };
      case "step":
        return this.step(request.step!);
      case "close":
        this.isClosed = true;
        return { closed: {} };
      case "render":
      case "saveState":
      case "loadState":
        throw new FarsimError("UNSUPPORTED", "this simulator has no pictures and saves no states");
      default:
        throw new FarsimError("PROTOCOL", `'${request.request}' is not for this point of a session`);
    }
  }

  private opened(): IOpened {
    return {
      sessionToken: this.token,
      groups: [groupOf(this.model)],
      options: optionsToWire(this.simulator.parameters, [this.options]),
      autoresetMode: this.mode,
      leaseSeconds: this.leaseSeconds,
      heartbeatSeconds: this.heartbeatSeconds,
      maxInFlight: this.limits.maxInFlight,
      maxEpisodeSteps: this.model.maxEpisodeSteps,
    };
  }

  private async reset(request: Reset): Promise<IBatch> {
    const environments = this.named(request.environments);
    if (request.seeds.length && request.seeds.length !== environments.length) {
      throw new FarsimError("INVALID_ARGUMENT", `${request.seeds.length} seeds for ${environments.length} environments`, "seeds");
    }
    const options = resetOptions(this.simulator.parameters, request.options, environments.length);
    const rows = await this.episodes.reset(environments, request.seeds.map(BigInt), options);
    return this.batch(request.environments, rows, false);
  }

  private async step(request: Step): Promise<ISimReply> {
    const begun = performance.now();
    const environments = this.named(request.environments);
    const actions = this.actions(request, environments, this.episodes.acting(environments));
    const read = performance.now();
    const rows = await this.episodes.step(environments, actions);
    const stepped = performance.now();
    const batch = this.batch(request.environments, rows, true);
    const codecSeconds = (performance.now() - stepped + read - begun) / 1000;
    return { batch, timing: { simulatorSeconds: (stepped - read) / 1000, codecSeconds } };
  }

  /** The action of each environment; anything for those that need none. */
  private actions(request: Step, environments: number[], acting: boolean[]): Value[] {
    const subject = "groups[0].actions";
    const space = this.model.actionSpace;
    if (request.groups.length !== 1) {
      throw new FarsimError("INVALID_ACTION", `actions for ${request.groups.length} groups, and there is one`, "groups");
    }
    const [sent] = request.groups;
    // With one agent a row of the group is an environment.
    const rows = sent.rows ? this.within(sent.rows, "groups[0].rows") : environments;
    const strange = rows.filter((row) => !environments.includes(row));
    if (strange.length) {
      throw new FarsimError("INVALID_ARGUMENT", `rows ${strange} are not of environments in this step`, "groups[0].rows");
    }
    const values = decode(space, sent.actions?.tensors ?? [], rows.length, "INVALID_ACTION");
    return environments.map((environment, i) => {
      const at = rows === environments ? i : rows.indexOf(environment);
      if (acting[i] && (at < 0 || !contains(space, values[at]))) {
        const text = at < 0 ? "there is none" : `${values[at]} is outside the action space`;
        throw new FarsimError("INVALID_ACTION", `the action of environment ${environment}: ${text}`, subject);
      }
      return values[at];
    });
  }

  /** The environments that a request is about. */
  private named(rows: Rows | null): number[] {
    const named = rows ? this.within(rows, "environments") : [...Array(this.count).keys()];
    if (!named.length) throw new FarsimError("INVALID_ARGUMENT", "no environment is named", "environments");
    return named;
  }

  private within({ index }: Rows, subject: string): number[] {
    if (index.some((row, i) => row >= this.count || (i > 0 && row <= index[i - 1]))) {
      throw new FarsimError("INVALID_ARGUMENT", `rows go up and are below ${this.count}: ${index}`, subject);
    }
    return index;
  }

  private batch(environments: Rows | null, rows: Row[], isStep: boolean): IBatch {
    const started = rows.filter((row) => row.started);
    const faults = rows.filter((row) => row.fault !== undefined);
    const parameters = this.simulator.parameters.filter((parameter) => parameter.perEpisode);
    return {
      environments,
      groups: [this.groupBatch(environments, rows, isStep)],
      faults: faults.map(({ environment, fault }) => ({
        environment,
        error: { code: "ERROR_CODE_SIMULATOR", message: String(fault) },
      })),
      started: started.length ? { index: started.map((row) => row.environment) } : null,
      episodeOptions: started.length ? optionsToWire(parameters, started.map((row) => row.started!)) : null,
    };
  }

  private groupBatch(environments: Rows | null, rows: Row[], isStep: boolean): IGroupBatch {
    const space = this.model.observationSpace;
    const shape = [rows.length];
    const final = rows.filter((row) => row.final);
    const flags = (values: boolean[]) => pack("DTYPE_BOOL", shape, values.map(Number));
    return {
      rows: environments,
      observation: { tensors: encode(space, rows.map((row) => row.observation)) },
      ...(isStep && {
        reward: pack("DTYPE_FLOAT64", shape, rows.map((row) => row.reward)),
        terminated: flags(rows.map((row) => row.terminated)),
        truncated: flags(rows.map((row) => row.truncated)),
      }),
      actionMasks: this.model.hasActionMask
        ? maskWidths(this.model.actionSpace).map((width, leaf) =>
            pack("DTYPE_BOOL", [rows.length, width], rows.flatMap((row) => row.masks[leaf].map(Number))),
          )
        : [],
      infos: infos(rows.map((row) => row.info)),
      ...(final.length && {
        finalRows: { index: final.map((row) => row.environment) },
        finalObservation: { tensors: encode(space, final.map((row) => row.final!.observation)) },
        finalInfos: infos(final.map((row) => row.final!.info)),
      }),
    };
  }
}

export const MODES: AutoresetMode[] = [
  "AUTORESET_MODE_NEXT_STEP",
  "AUTORESET_MODE_SAME_STEP",
  "AUTORESET_MODE_DISABLED",
];

function infos(rows: Record<string, number>[]): IGroupBatch["infos"] {
  const names = [...new Set(rows.flatMap(Object.keys))];
  return names.map((name) => {
    const at = [...rows.keys()].filter((i) => name in rows[i]);
    return {
      name,
      ...(at.length < rows.length && { rows: { index: at } }),
      tensor: pack("DTYPE_FLOAT64", [at.length], at.map((i) => rows[i][name])),
    };
  });
}

export function serialise(reply: ISimReply): Buffer {
  return v1.SimReply.serialize(reply);
}
