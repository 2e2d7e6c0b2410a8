// The Simulator service: what is on offer, the sessions, and the streams that carry them.
import { status } from "@grpc/grpc-js";
import { FarsimError, toWire } from "./errors";
import type { IDescribeReply } from "./generated/farsim/v1/DescribeReply";
import type { Open } from "./generated/farsim/v1/Open";
import type { Resume } from "./generated/farsim/v1/Resume";
import type { SimRequest } from "./generated/farsim/v1/SimRequest";
import { parameterToWire } from "./options";
import { isCompatible, PROTOCOL_VERSION, v1 } from "./proto";
import { groupOf, type Limits, MODES, serialise, Session, type Stream } from "./session";
import type { Simulator } from "./simulator";

const OPEN_WITHIN_SECONDS = 60;

export class Service {
  readonly sessions = new Map<string, Session>();
  private readonly streams = new Set<Stream>();
  private isDraining = false;

  constructor(
    private readonly simulators: Simulator[],
    readonly limits: Limits,
  ) {
    setInterval(() => this.freeExpired(), 500).unref();
  }

  describe(): IDescribeReply {
    return {
      protocolVersion: PROTOCOL_VERSION,
      server: `farsim-bottling (Node ${process.version})`,
      limits: this.limits,
      simulators: this.simulators.map(({ name, description, parameters, open }) => {
        const model = open(Object.fromEntries(parameters.map((p) => [p.name, p.default])));
        return {
          name,
          description,
          groups: [groupOf(model)],
          parameters: parameters.map(parameterToWire),
          maxEpisodeSteps: model.maxEpisodeSteps,
          autoresetModes: MODES,
        };
      }),
    };
  }

  /** Carries out the requests of one stream until it ends, whoever ends it. */
  async run(requests: AsyncIterable<Buffer>, stream: Stream): Promise<void> {
    this.streams.add(stream);
    let session: Session | null = null;
    const tooLate = setTimeout(() => {
      stream.end({ code: status.DEADLINE_EXCEEDED, details: "no session was opened on this stream" });
    }, 1000 * OPEN_WITHIN_SECONDS);
    let heartbeats: NodeJS.Timeout | undefined;
    try {
      for await (const raw of requests) {
        const request = parse(raw);
        if (!request) {
          stream.end({ code: status.INVALID_ARGUMENT, details: "these bytes are no farsim.v1.SimRequest" });
          return;
        }
        if (!session) {
          try {
            session = this.begin(request, stream);
          } catch (error) {
            await stream.send(serialise({ sequence: request.sequence, error: toWire(error) }));
            continue;
          }
          clearTimeout(tooLate);
          heartbeats = setInterval(beat, 1000 * session.heartbeatSeconds, session, stream);
          if (request.resume) {
            await stream.send(serialise({ resumed: { lastSequence: session.lastSequence } }));
            continue;
          }
        }
        const reply = await session.answer(stream, raw, request);
        if (!reply) return;
        await stream.send(reply);
        if (session.isClosed) break;
      }
      stream.end();
    } catch {
      // The client has gone; its session waits for it to come back.
    } finally {
      clearTimeout(tooLate);
      clearInterval(heartbeats);
      this.streams.delete(stream);
      if (session?.isClosed) this.sessions.delete(session.token);
      if (session?.stream === stream) {
        session.stream = null;
        session.detachedAt = Date.now();
      }
    }
  }

  /** Tells every client, finishes the requests being carried out, and ends all streams. */
  async drain(graceSeconds: number): Promise<void> {
    this.isDraining = true;
    const notice = serialise({ draining: { graceSeconds } });
    for (const stream of this.streams) void stream.send(notice).catch(() => undefined);
    const deadline = Date.now() + 1000 * graceSeconds;
    while ([...this.sessions.values()].some((session) => session.busy) && Date.now() < deadline) {
      await new Promise((resume) => setTimeout(resume, 20));
    }
    for (const stream of this.streams) stream.end();
  }

  /** The session that the first request of a stream opens or goes on with. */
  private begin(request: SimRequest, stream: Stream): Session {
    const session = request.resume ? this.resume(request.resume) : this.open(request);
    const superseded = session.stream;
    session.stream = stream;
    superseded?.end({ code: status.ABORTED, details: "another stream has resumed this session" });
    return session;
  }

  private open(request: SimRequest): Session {
    const { open } = request;
    if (!open) throw new FarsimError("PROTOCOL", `the first request is open or resume, not ${request.request}`);
    if (request.sequence !== "1") throw new FarsimError("SEQUENCE", "'open' has number 1", "sequence");
    checkVersion(open.protocolVersion);
    if (this.isDraining) throw new FarsimError("DRAINING", "this server is about to stop");
    const simulator = this.simulators.find(({ name }) => name === open.simulator);
    const chosen = simulator ?? (!open.simulator && this.simulators.length === 1 ? this.simulators[0] : undefined);
    if (!chosen) {
      const names = this.simulators.map(({ name }) => name).join(", ");
      throw new FarsimError("UNKNOWN_SIMULATOR", `no simulator '${open.simulator}' here; there are ${names}`, "simulator");
    }
    this.checkRoom(open);
    const session = new Session(chosen, open, this.limits, () => this.isDraining);
    this.sessions.set(session.token, session);
    return session;
  }

  private resume({ protocolVersion, sessionToken }: Resume): Session {
    checkVersion(protocolVersion);
    const session = this.sessions.get(sessionToken);
    if (!session) {
      throw new FarsimError("SESSION_LOST", "no session has this token: it was closed or its lease ran out", "session_token");
    }
    return session;
  }

  private checkRoom({ numEnvironments }: Open): void {
    const { maxSessions, maxEnvironments } = this.limits;
    if (numEnvironments < 1) {
      throw new FarsimError("INVALID_ARGUMENT", "a session has at least one environment", "num_environments");
    }
    if (this.sessions.size >= maxSessions) throw new FarsimError("LIMIT", `all ${maxSessions} sessions are taken`);
    const taken = [...this.sessions.values()].reduce((sum, session) => sum + session.count, 0);
    if (taken + numEnvironments > maxEnvironments) {
      const text = `${maxEnvironments - taken} of ${maxEnvironments} environments are free, not ${numEnvironments}`;
      throw new FarsimError("LIMIT", text, "num_environments");
    }
  }

  private freeExpired(): void {
    for (const [token, session] of this.sessions) {
      if (session.hasExpired(Date.now())) this.sessions.delete(token);
    }
  }
}

function parse(raw: Buffer): SimRequest | null {
  try {
    return v1.SimRequest.deserialize(raw);
  } catch {
    return null;
  }
}

function beat({ busy }: Session, stream: Stream): void {
  if (!busy) return;
  const elapsedSeconds = (Date.now() - busy.since) / 1000;
  const heartbeat = serialise({ sequence: busy.sequence, heartbeat: { elapsedSeconds } });
  void stream.send(heartbeat).catch(() => undefined);
}

function checkVersion(version: string): void {
  if (isCompatible(version)) return;
  const text = `this server speaks version ${PROTOCOL_VERSION} of farsim.v1, the client ${version}`;
  throw new FarsimError("PROTOCOL_VERSION", text, "protocol_version");
}
