// The contract: read from the .proto files when the program starts, with types generated from them.
import * as path from "node:path";
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import type { ProtoGrpcType as GatewayTypes } from "./generated/gateway";
import type { ProtoGrpcType as PolicyTypes } from "./generated/policy";
import type { ProtoGrpcType as SimulatorTypes } from "./generated/simulator";

export const PROTOCOL_VERSION = "1.0";

/** The folder with farsim/v1: that of the repository, seen from dist/src/farsim. */
const PROTO_FOLDER = process.env.FARSIM_PROTO ?? path.resolve(__dirname, "../../../../../proto");

export const definition = loader.loadSync(
  ["farsim/v1/simulator.proto", "farsim/v1/policy.proto", "farsim/v1/gateway.proto"],
  {
    includeDirs: [PROTO_FOLDER],
    longs: String, // 64-bit seeds do not fit into a number.
    enums: String,
    defaults: true,
    oneofs: true,
  },
);
export const v1 = (
  grpc.loadPackageDefinition(definition) as unknown as SimulatorTypes & PolicyTypes & GatewayTypes
).farsim.v1;

export function isCompatible(version: string): boolean {
  return version.split(".")[0] === PROTOCOL_VERSION.split(".")[0];
}
