// Dialling in: the server connects to a gateway instead of listening; see gateway.proto.
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import * as grpc from "@grpc/grpc-js";
import { CHANNEL, type Connection, credentialsOf, metadataOf, pause } from "./connection";
import type { IFromSimulator } from "./generated/farsim/v1/FromSimulator";
import type { ToSimulator } from "./generated/farsim/v1/ToSimulator";
import { isCompatible, v1 } from "./proto";
import type { Service } from "./service";
import type { Stream } from "./session";

type Seat = grpc.ClientDuplexStream<IFromSimulator, ToSimulator>;

/** How long the gateway may take to end a stream that this side has ended, in ms. */
const FAREWELL = 2000;

/** Keeps one waiting seat at a gateway as long as there is room for another session. */
export class Dialler {
  private readonly serverId = randomUUID();
  private readonly client;
  private readonly seats = new Set<Seat>();
  private isStopped = false;
  private wake: () => void = () => undefined;

  constructor(
    head: string,
    private readonly service: Service,
    private readonly connection: Connection,
    private readonly graceSeconds: number,
  ) {
    this.client = new v1.SimulatorGateway(head, credentialsOf(connection), CHANNEL);
  }

  async run(): Promise<void> {
    for (let attempt = 0; !this.isStopped; ) {
      if (this.seats.size >= this.service.limits.maxSessions) {
        await this.sleep();
        continue;
      }
      const seat = this.client.attach(metadataOf(this.connection));
      seat.on("error", () => undefined); // It is thrown where messages are read.
      const over = new Promise((resolve) => seat.once("status", resolve));
      this.seats.add(seat);
      const messages = seat.iterator({ destroyOnReturn: false });
      try {
        await this.greet(seat, messages);
        attempt = 0;
        const first = await messages.next();
        if (!first.done) {
          void this.serve(seat, over, first.value, messages);
          continue;
        }
      } catch (error) {
        if (!this.isStopped) console.error(`no seat: ${(error as Error).message}`);
      }
      seat.end();
      this.seats.delete(seat);
      if (!this.isStopped) await this.sleep(pause(attempt++));
    }
  }

  async stop(): Promise<void> {
    this.isStopped = true;
    await this.service.drain(this.graceSeconds);
    for (const seat of this.seats) seat.end();
    this.wake();
    while (this.seats.size) await this.sleep(FAREWELL);
    this.client.close();
  }

  private async greet(seat: Seat, messages: AsyncIterator<ToSimulator>): Promise<void> {
    seat.write({
      hello: {
        serverId: this.serverId,
        description: this.service.describe(),
        seats: this.service.limits.maxSessions,
        name: hostname(),
      },
    });
    const { done, value } = await messages.next();
    const welcome = done ? null : (value as ToSimulator).welcome;
    if (!welcome) throw new Error("the gateway sent no welcome");
    if (!isCompatible(welcome.protocolVersion)) {
      throw new Error(`the gateway speaks version ${welcome.protocolVersion}`);
    }
    console.log(`a seat at ${welcome.gateway}`);
  }

  /** Carries what a stream of `Run` would, beginning with `first`. */
  private async serve(
    seat: Seat,
    over: Promise<unknown>,
    first: ToSimulator,
    messages: AsyncIterator<ToSimulator>,
  ): Promise<void> {
    const stream: Stream = {
      async send(reply) {
        if (seat.destroyed || seat.writableEnded) throw new Error("the stream is over");
        if (!seat.write({ reply: v1.SimReply.deserialize(reply) })) {
          await new Promise<void>((resume) => {
            seat.once("drain", resume);
            seat.once("close", resume);
          });
        }
      },
      end: () => seat.end(),
    };
    await this.service.run(requests(first, messages), stream);
    seat.end();
    const late = setTimeout(() => seat.cancel(), FAREWELL);
    seat.resume(); // What is not read keeps the end from being seen.
    await over;
    clearTimeout(late);
    this.seats.delete(seat);
    this.wake();
  }

  /** Until `wake` is called, or for so long, in ms. */
  private sleep(time?: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = time === undefined ? undefined : setTimeout(resolve, time);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** The requests, each as the bytes that are the same whenever it is the same. */
async function* requests(first: ToSimulator, messages: AsyncIterator<ToSimulator>): AsyncGenerator<Buffer> {
  let message = first;
  for (;;) {
    if (message.request) yield v1.SimRequest.serialize(message.request);
    const next = await messages.next();
    if (next.done) return;
    message = next.value;
  }
}
