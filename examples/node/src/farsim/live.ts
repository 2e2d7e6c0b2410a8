// A client of Policy.Live: a simulator that runs by itself asks a server what to do.
import * as grpc from "@grpc/grpc-js";
import { CHANNEL, type Connection, credentialsOf, metadataOf } from "./connection";
import { FarsimError } from "./errors";
import type { IAgentObservation } from "./generated/farsim/v1/AgentObservation";
import type { DescribePoliciesReply } from "./generated/farsim/v1/DescribePoliciesReply";
import type { Error as WireError } from "./generated/farsim/v1/Error";
import type { ErrorCode } from "./generated/farsim/v1/ErrorCode";
import type { IHello } from "./generated/farsim/v1/Hello";
import type { ILiveEvent } from "./generated/farsim/v1/LiveEvent";
import type { LiveMode } from "./generated/farsim/v1/LiveMode";
import type { LiveReply } from "./generated/farsim/v1/LiveReply";
import type { PolicyClient } from "./generated/farsim/v1/Policy";
import type { Welcome } from "./generated/farsim/v1/Welcome";
import { isCompatible, PROTOCOL_VERSION, v1 } from "./proto";
import { groupOf } from "./session";
import type { Model } from "./simulator";
import { decode, encode, type Value } from "./spaces";
import { pack } from "./tensors";

export interface LiveOptions {
  mode: LiveMode;
  /** How long to wait for an action, in s. */
  deadline: number;
  /** What acts when no answer comes in time; without it that is an error. */
  fallback?: (observation: Value, masks: boolean[][]) => Value;
  /** How long to try to get a broken connection back, in s. */
  resumeSeconds: number;
  connection: Connection;
}

export class DeadlineExceeded extends Error {}

/** An event without a reply yet. */
interface Pending {
  event: ILiveEvent;
  resolve: (reply: LiveReply) => void;
  reject: (error: Error) => void;
}

/** One session at a time; when it is lost, the next episode begins another. */
export class LiveClient {
  /** How many actions were the fallback's. */
  fallbacks = 0;
  private readonly client: PolicyClient;
  private session: Session | null = null;
  private takesMasks = false;
  private opening: Promise<void> | null = null;

  constructor(
    address: string,
    private readonly model: Model,
    readonly options: LiveOptions,
  ) {
    this.client = new v1.Policy(address, credentialsOf(options.connection), CHANNEL);
  }

  /** Begins an episode; several may run at a time. */
  async episode(): Promise<Episode> {
    if (!this.session || this.session.lost) {
      const { deadline, fallback } = this.options;
      this.opening ??= this.open().finally(() => (this.opening = null));
      if (this.session && fallback) {
        // Until the server is back the fallback plays whole episodes.
        await within(deadline, this.opening).catch(() => undefined);
      } else {
        await this.opening;
      }
    }
    return new Episode(this, this.session!, this.model, this.takesMasks);
  }

  async close(): Promise<void> {
    await this.session?.close();
    this.client.close();
  }

  private async open(): Promise<void> {
    const metadata = metadataOf(this.options.connection);
    const described = await this.describe(metadata.clone());
    if (!isCompatible(described.protocolVersion)) {
      throw new Error(`the server speaks version ${described.protocolVersion} of farsim.v1, and this is ${PROTOCOL_VERSION}`);
    }
    this.takesMasks = this.model.hasActionMask && described.policies.some((policy) => policy.hasActionMask);
    const group = { ...groupOf(this.model), hasActionMask: this.takesMasks };
    const session = new Session(this.client, metadata, this.options);
    await session.open({ protocolVersion: PROTOCOL_VERSION, mode: this.options.mode, groups: [group], client: "farsim-bottling" });
    this.session = session;
  }

  private describe(metadata: grpc.Metadata): Promise<DescribePoliciesReply> {
    metadata.setOptions({ waitForReady: true }); // The server may be starting.
    const deadline = Date.now() + 1000 * this.options.resumeSeconds;
    return new Promise((resolve, reject) => {
      this.client.describe({}, metadata, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply!)));
    });
  }
}

export class Episode {
  private static numbers = 0;
  private readonly episode = ++Episode.numbers;
  /** What was done instead of the answer to the last observation. */
  private taken: Value | undefined;

  constructor(
    private readonly client: LiveClient,
    private readonly session: Session,
    private readonly model: Model,
    private readonly takesMasks: boolean,
  ) {
    this.post({ start: { episode: this.episode } });
  }

  /**
   * Asks for an action.
   * @param reward what was earned since the last observation.
   * @throws DeadlineExceeded, FarsimError: without a fallback.
   */
  async observe(observation: Value, masks: boolean[][], reward: number): Promise<Value> {
    const agent = this.seen(observation, reward);
    if (this.takesMasks) {
      agent.actionMasks = masks.map((mask) => pack("DTYPE_BOOL", [1, mask.length], mask.map(Number)));
    }
    const { deadline, fallback } = this.client.options;
    try {
      const answered = this.session.post({ observe: { episode: this.episode, agents: [agent] } });
      const { actions } = await within(deadline, answered);
      return decode(this.model.actionSpace, actions!.agents[0].action!.tensors, 1)[0];
    } catch (error) {
      const isOwnMistake = error instanceof FarsimError && !this.session.lost;
      if (!fallback || isOwnMistake) throw error;
      this.client.fallbacks++;
      this.taken = fallback(observation, masks);
      return this.taken;
    }
  }

  end(observation: Value, reward: number, terminated: boolean): void {
    const agent = { ...this.seen(observation, reward), terminated, truncated: !terminated };
    this.post({ end: { episode: this.episode, agents: [agent] } });
  }

  private seen(observation: Value, reward: number): IAgentObservation {
    const { observationSpace, actionSpace } = this.model;
    const taken = this.taken;
    this.taken = undefined;
    return {
      observation: { tensors: encode(observationSpace, [observation]) },
      reward,
      ...(taken !== undefined && { actionTaken: { tensors: encode(actionSpace, [taken]) } }),
    };
  }

  /** Says something whose reply need not be waited for. */
  private post(event: ILiveEvent): void {
    this.session.post(event).catch((error: Error) => {
      if (!this.session.lost) console.error(`episode ${this.episode}: ${error.message}`);
    });
  }
}

type LiveCall = grpc.ClientDuplexStream<ILiveEvent, LiveReply>;

/** A session, over one stream after another. */
class Session {
  /** Why it is over, once it is. */
  lost: Error | null = null;
  private welcome: Welcome | null = null;
  private call: LiveCall | null = null;
  /** A stream that waits for the reply to `resume`. */
  private resuming: LiveCall | null = null;
  private sequence = 0;
  private readonly pending: Pending[] = [];
  /** How many of `pending` were sent on this stream. */
  private sent = 0;
  private brokenSince = 0;
  private keepAlive: NodeJS.Timeout | undefined;

  constructor(
    private readonly client: PolicyClient,
    private readonly metadata: grpc.Metadata,
    private readonly options: LiveOptions,
  ) {}

  async open(hello: IHello): Promise<void> {
    const answered = this.post({ hello });
    this.connect();
    this.pump();
    this.welcome = (await within(this.options.resumeSeconds, answered)).welcome!;
    const beat = () => void this.post({ keepAlive: {} }).catch(() => undefined);
    this.keepAlive = setInterval(beat, (1000 * (this.welcome.idleSeconds || 60)) / 3).unref();
  }

  /** Sends an event, now or when there is room and a stream; the reply to it. */
  post(event: ILiveEvent): Promise<LiveReply> {
    if (this.lost) return Promise.reject(this.lost);
    return new Promise((resolve, reject) => {
      this.pending.push({ event: { ...event, sequence: ++this.sequence }, resolve, reject });
      this.pump();
    });
  }

  async close(): Promise<void> {
    if (!this.lost) await within(this.options.deadline, this.post({ goodbye: {} })).catch(() => undefined);
    this.lose(new Error("this session is closed"));
  }

  /** Sends what may be sent; before the welcome that is one event, as the bound is not known. */
  private pump(): void {
    const room = this.welcome?.maxInFlight ?? 1;
    while (this.call && this.sent < Math.min(this.pending.length, room)) {
      this.call.write(this.pending[this.sent++].event);
    }
  }

  private connect(): void {
    const call = this.client.live(this.metadata);
    call.on("data", (reply: LiveReply) => this.receive(call, reply));
    call.on("error", (error: grpc.ServiceError) => this.broken(call, error));
    call.on("end", () => this.broken(call, new Error("the server ended the stream")));
    this.sent = 0;
    if (this.welcome) {
      const resume = { sessionToken: this.welcome.sessionToken, protocolVersion: PROTOCOL_VERSION };
      call.write({ sequence: 0, resume });
      this.resuming = call;
    } else {
      this.call = call;
    }
  }
  private receive(call: LiveCall, reply: LiveReply): void {
    if (reply.draining) return; // The stream ends, and then there is nothing to go on with.
    if (call === this.resuming) {
      this.resuming = null;
      if (reply.error) {
        this.lose(failure(reply.error));
        return;
      }
      this.call = call;
      this.brokenSince = 0;
    } else if (call === this.call) {
      this.sent--;
      const { resolve, reject } = this.pending.shift()!;
      if (reply.error?.code === "ERROR_CODE_DRAINING") this.lose(failure(reply.error), reject);
      else if (reply.error) reject(failure(reply.error));
      else resolve(reply);
    }
    this.pump();
  }

  private broken(call: object, error: Error): void {
    if (this.lost || (call !== this.call && call !== this.resuming)) return;
    this.call = this.resuming = null;
    this.brokenSince ||= Date.now();
    const patience = 1000 * Math.min(this.options.resumeSeconds, this.welcome?.leaseSeconds ?? 0);
    if (Date.now() - this.brokenSince > patience) this.lose(error);
    else setTimeout(() => this.lost ?? this.connect(), 100 + 200 * Math.random());
  }

  private lose(error: Error, reject?: (error: Error) => void): void {
    this.lost = error;
    reject?.(error);
    clearInterval(this.keepAlive);
    this.call?.end();
    this.call = this.resuming = null;
    for (const { reject } of this.pending.splice(0)) reject(error);
  }
}

function failure({ code, message, subject }: WireError): FarsimError {
  const name = (code as ErrorCode).replace("ERROR_CODE_", "") as FarsimError["code"];
  return new FarsimError(name, message, subject);
}

/** @throws DeadlineExceeded: nothing came for so many seconds. */
async function within<T>(seconds: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  promise.catch(() => undefined); // It may fail later, when nobody waits for it any more.
  const late = new Promise<never>((_, reject) => {
    const text = `no answer within ${seconds} s`;
    timer = setTimeout(() => reject(new DeadlineExceeded(text)), 1000 * seconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
