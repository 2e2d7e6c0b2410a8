// A gRPC server with the Simulator service, health, reflection, TLS and a token.
import { timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import * as grpc from "@grpc/grpc-js";
import { ReflectionService } from "@grpc/reflection";
import { HealthImplementation } from "grpc-health-check";
import type { DescribeReply } from "./generated/farsim/v1/DescribeReply";
import type { DescribeRequest } from "./generated/farsim/v1/DescribeRequest";
import { definition, isCompatible, v1 } from "./proto";
import { Service } from "./service";
import type { Limits, Stream } from "./session";
import type { Simulator } from "./simulator";

export interface ListenOptions {
  /** host:port; port 0 takes a free one. */
  address: string;
  tlsCert?: string;
  tlsKey?: string;
  tlsClientCa?: string;
  token?: string;
  /** Whether plain text is fine beyond this machine. */
  insecure?: boolean;
  graceSeconds: number;
}

const NAME = "farsim.v1.Simulator";

export class SimulatorServer {
  readonly service: Service;
  private readonly server: grpc.Server;
  private readonly health = new HealthImplementation({ "": "SERVING", [NAME]: "SERVING" });

  constructor(
    simulators: Simulator[],
    limits: Limits,
    private readonly options: ListenOptions,
  ) {
    this.service = new Service(simulators, limits);
    this.server = new grpc.Server({
      "grpc.max_receive_message_length": limits.maxMessageBytes,
      "grpc.max_send_message_length": -1, // Replies that are too large become error replies.
      interceptors: options.token ? [tokenCheck(options.token)] : [],
    });
    const raw = { requestDeserialize: (bytes: Buffer) => bytes, responseSerialize: (bytes: Buffer) => bytes };
    const methods = v1.Simulator.service;
    // `Run` as bytes: only so can a repeated request be told from a different one.
    this.server.addService(
      { Describe: methods.Describe, Run: { ...methods.Run, ...raw } },
      { Describe: this.describe, Run: this.run },
    );
    this.health.addToServer(this.server);
    new ReflectionService(definition).addToServer(this.server);
  }

  /** Returns the address with the port that was bound. */
  async listen(): Promise<string> {
    const { address, tlsCert, insecure } = this.options;
    const host = address.slice(0, address.lastIndexOf(":"));
    if (!tlsCert && !insecure && !isLoopback(host)) {
      throw new Error(
        `${address} can be reached from other machines: give --tls-cert and --tls-key, or ` +
          "--insecure if the network itself is protected",
      );
    }
    const port = await new Promise<number>((resolve, reject) => {
      this.server.bindAsync(address, this.credentials(), (error, bound) => (error ? reject(error) : resolve(bound)));
    });
    return `${host}:${port}`;
  }

  /** Finishes what is being carried out, tells every client, and stops. */
  async drain(): Promise<void> {
    this.health.setStatus("", "NOT_SERVING");
    this.health.setStatus(NAME, "NOT_SERVING");
    await this.service.drain(this.options.graceSeconds);
    const late = setTimeout(() => this.server.forceShutdown(), 1000);
    await new Promise((resolve) => this.server.tryShutdown(resolve));
    clearTimeout(late);
  }

  private readonly describe: grpc.handleUnaryCall<DescribeRequest, DescribeReply> = (call, callback) => {
    const version = call.request.protocolVersion;
    if (version && !isCompatible(version)) {
      callback({ code: grpc.status.FAILED_PRECONDITION, details: `version ${version} is not spoken here` });
      return;
    }
    callback(null, this.service.describe() as DescribeReply);
  };

  private readonly run: grpc.handleBidiStreamingCall<Buffer, Buffer> = (call) => {
    // An error that is not listened to would end the process; grpc-js makes it the call's status.
    call.on("error", () => undefined);
    const stream: Stream = {
      async send(reply) {
        if (call.destroyed || call.writableEnded) throw new Error("the stream is over");
        if (!call.write(reply)) await Promise.race([once(call, "drain"), once(call, "close")]);
      },
      end(ended) {
        if (call.destroyed || call.writableEnded) return;
        call.once("finish", () => call.destroy());
        if (ended) call.emit("error", ended);
        else call.end();
      },
    };
    void this.service.run(call.iterator({ destroyOnReturn: false }), stream);
  };

  private credentials(): grpc.ServerCredentials {
    const { tlsCert, tlsKey, tlsClientCa } = this.options;
    if (!tlsCert || !tlsKey) return grpc.ServerCredentials.createInsecure();
    return grpc.ServerCredentials.createSsl(
      tlsClientCa ? readFileSync(tlsClientCa) : null,
      [{ cert_chain: readFileSync(tlsCert), private_key: readFileSync(tlsKey) }],
      Boolean(tlsClientCa),
    );
  }
}

function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, "");
  return bare === "localhost" || bare === "::1" || (isIP(bare) === 4 && bare.startsWith("127."));
}

/** Turns away every call without the token, but for health checks. */
function tokenCheck(token: string): grpc.ServerInterceptor {
  const expected = Buffer.from(`Bearer ${token}`);
  return (method, call) =>
    new grpc.ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: (metadata, go) => {
            const sent = Buffer.from(String(metadata.get("authorization")[0] ?? ""));
            const isHealth = method.path.startsWith("/grpc.health.v1.");
            if (isHealth || (sent.length === expected.length && timingSafeEqual(sent, expected))) go(metadata);
            else call.sendStatus({ code: grpc.status.UNAUTHENTICATED, details: "the token is missing or wrong" });
          },
        }),
    });
}
