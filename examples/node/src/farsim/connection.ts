// How a client reaches a server, and what it may ask for there.
import { readFileSync } from "node:fs";
import * as grpc from "@grpc/grpc-js";

export interface Connection {
  /** PEM; without it plain text. */
  tlsCa?: string;
  tlsCert?: string;
  tlsKey?: string;
  tokenFile?: string;
}

export function credentialsOf({ tlsCa, tlsCert, tlsKey }: Connection): grpc.ChannelCredentials {
  if (!tlsCa) return grpc.credentials.createInsecure();
  const [ca, key, cert] = [tlsCa, tlsKey, tlsCert].map((file) => (file ? readFileSync(file) : null));
  return grpc.credentials.createSsl(ca, key, cert);
}

export function metadataOf({ tokenFile }: Connection): grpc.Metadata {
  const metadata = new grpc.Metadata();
  if (tokenFile) metadata.set("authorization", `Bearer ${readFileSync(tokenFile, "utf8").trim()}`);
  return metadata;
}

/** HTTP/2 pings find out that a peer has vanished without a word; a server that is back is found soon. */
export const CHANNEL: grpc.ChannelOptions = {
  "grpc.initial_reconnect_backoff_ms": 250,
  "grpc.max_reconnect_backoff_ms": 2_000,
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 20_000,
  "grpc.max_receive_message_length": 64 * 2 ** 20,
};

/** A pause before attempt number `attempt`, from 0: from 1 s up to 30 s, with some jitter; in ms. */
export function pause(attempt: number): number {
  return Math.min(1000 * 2 ** attempt, 30_000) * (0.75 + Math.random() / 2);
}
