// npm run serve: the bottling line on the network.
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { Dialler } from "./farsim/attach";
import { bottling } from "./bottling";
import { SimulatorServer } from "./farsim/server";
import { Service } from "./farsim/service";

const USAGE = `Serve the bottling line until SIGTERM or Ctrl-C.

  npm run serve -- --address 127.0.0.1:50051
  npm run serve -- --attach head:50071
  npm run serve -- --address 0.0.0.0:50051 --tls-cert server.pem --tls-key server-key.pem --token-file token

  --address host:port         port 0 takes a free one (127.0.0.1:50051)
  --attach host:port          listen nowhere, and dial in to 'farsim gateway attach' there
  --tls-ca FILE               with --attach: whose certificate the gateway must show
  --port-file FILE            write the address there once it listens
  --tls-cert, --tls-key FILE  PEM
  --tls-client-ca FILE        let in only clients with a certificate from this CA
  --token-file FILE           let in only clients with this token
  --insecure                  plain text even beyond this machine
  --max-sessions, --max-environments, --max-message-bytes, --max-in-flight N
  --lease-seconds, --heartbeat-seconds, --grace-seconds N`;

const text = { type: "string" } as const;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      help: { type: "boolean", short: "h" },
      address: { ...text, default: "127.0.0.1:50051" },
      attach: text,
      "tls-ca": text,
      "port-file": text,
      "tls-cert": text,
      "tls-key": text,
      "tls-client-ca": text,
      "token-file": text,
      insecure: { type: "boolean" },
      "max-sessions": { ...text, default: "64" },
      "max-environments": { ...text, default: "4096" },
      "max-message-bytes": { ...text, default: "67108864" },
      "max-in-flight": { ...text, default: "16" },
      "lease-seconds": { ...text, default: "60" },
      "heartbeat-seconds": { ...text, default: "5" },
      "grace-seconds": { ...text, default: "10" },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return;
  }
  const number = (name: keyof typeof values): number => {
    const value = Number(values[name]);
    if (!(value > 0)) throw new Error(`--${name} takes a number above 0, not ${values[name]}`);
    return value;
  };
  if (Boolean(values["tls-cert"]) !== Boolean(values["tls-key"])) {
    throw new Error("--tls-cert and --tls-key go together");
  }
  const limits = {
    maxSessions: number("max-sessions"),
    maxEnvironments: number("max-environments"),
    maxMessageBytes: number("max-message-bytes"),
    maxInFlight: number("max-in-flight"),
    leaseSeconds: number("lease-seconds"),
    heartbeatSeconds: number("heartbeat-seconds"),
  };
  const graceSeconds = number("grace-seconds");
  const tls = { tlsCert: values["tls-cert"], tlsKey: values["tls-key"] };
  const tokenFile = values["token-file"];
  let stop: () => Promise<void>;
  if (values.attach) {
    const connection = { ...tls, tlsCa: values["tls-ca"], tokenFile };
    const dialler = new Dialler(values.attach, new Service([bottling], limits), connection, graceSeconds);
    void dialler.run();
    stop = () => dialler.stop();
  } else {
    const server = new SimulatorServer([bottling], limits, {
      ...tls,
      address: values.address,
      tlsClientCa: values["tls-client-ca"],
      token: tokenFile && readFileSync(tokenFile, "utf8").trim(),
      insecure: values.insecure,
      graceSeconds,
    });
    const address = await server.listen();
    console.log(`bottling at ${address}`);
    if (values["port-file"]) writeFileSync(values["port-file"], address);
    stop = () => server.drain();
  }
  for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => void stop().then(() => process.exit(0)));
}

main().catch((error: Error) => {
  console.error(`error: ${error.message}`);
  process.exit(2);
});
