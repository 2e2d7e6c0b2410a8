// npm run live: bottling lines that run by themselves and ask a policy's server what to fill.
import { parseArgs } from "node:util";
import { bottling, rule, type Seen } from "./bottling";
import { LiveClient } from "./farsim/live";
import { Random } from "./farsim/random";
import type { Options } from "./farsim/simulator";
import type { Value } from "./farsim/spaces";

const USAGE = `Run bottling lines on the actions of 'farsim policy', or for 'farsim train --live'.

  npm run live -- --policy 127.0.0.1:50061 --compare
  npm run live -- --policy head:50061 --mode collect --episodes 0 --envs 8

  --policy host:port      the policy's server
  --episodes N            how many; 0: until Ctrl-C (20)
  --envs N                how many run at a time (1)
  --seed N                that of the first episode (0)
  --mode serve|collect    whether the learner gets what happens (serve)
  --deadline SECONDS      how long to wait for an action (1)
  --no-fallback           stop at a late answer; otherwise the planner's rule acts
  --compare               also play the rule and chance, on the same seeds
  --tls-ca, --tls-cert, --tls-key, --token-file FILE`;

type Act = (observation: Value, masks: boolean[][], reward: number) => Value | Promise<Value>;

const text = { type: "string" } as const;
const { values } = parseArgs({
  options: {
    help: { type: "boolean", short: "h" },
    policy: text,
    episodes: { ...text, default: "20" },
    envs: { ...text, default: "1" },
    seed: { ...text, default: "0" },
    mode: { ...text, default: "serve" },
    deadline: { ...text, default: "1" },
    "no-fallback": { type: "boolean" },
    compare: { type: "boolean" },
    "tls-ca": text,
    "tls-cert": text,
    "tls-key": text,
    "token-file": text,
  },
});

const options: Options = Object.fromEntries(bottling.parameters.map((p) => [p.name, p.default]));
const model = bottling.open(options);
const ruled: Act = (observation, masks) => rule(observation as unknown as Seen, masks[0]);

/** One episode: what it earned. */
async function play(seed: number, act: Act, end?: (last: Value, reward: number, terminated: boolean) => void): Promise<number> {
  const line = model.make();
  let observation = line.reset(options, new Random(BigInt(seed)));
  let total = 0;
  let reward = 0;
  for (;;) {
    const action = await act(observation, line.masks!(), reward);
    const outcome = line.step(action);
    ({ observation, reward } = outcome);
    total += reward;
    if (outcome.terminated || outcome.truncated) {
      end?.(observation, reward, outcome.terminated);
      return total;
    }
  }
}

function summary(name: string, returns: number[]): string {
  const mean = returns.reduce((sum, one) => sum + one, 0) / returns.length;
  return `${name}: mean return ${mean.toFixed(3)} over ${returns.length} episodes`;
}

async function main(): Promise<void> {
  if (values.help || !values.policy) {
    console.log(USAGE);
    process.exitCode = values.help ? 0 : 2;
    return;
  }
  if (values.mode !== "serve" && values.mode !== "collect") throw new Error("--mode is serve or collect");
  const client = new LiveClient(values.policy, model, {
    mode: values.mode === "collect" ? "LIVE_MODE_COLLECT" : "LIVE_MODE_SERVE",
    deadline: Number(values.deadline),
    fallback: values["no-fallback"] ? undefined : (seen, masks) => rule(seen as unknown as Seen, masks[0]),
    resumeSeconds: 30,
    connection: {
      tlsCa: values["tls-ca"],
      tlsCert: values["tls-cert"],
      tlsKey: values["tls-key"],
      tokenFile: values["token-file"],
    },
  });
  const first = Number(values.seed);
  const count = Number(values.episodes) || Infinity;
  const returns: number[] = [];
  let begun = 0;
  let isStopped = false;
  process.once("SIGINT", () => (isStopped = true));
  process.once("SIGTERM", () => (isStopped = true));
  const worker = async () => {
    while (begun < count && !isStopped) {
      const seed = first + begun++;
      const episode = await client.episode();
      const act: Act = (seen, masks, reward) => episode.observe(seen, masks, reward);
      const earned = await play(seed, act, episode.end.bind(episode));
      console.log(`episode (seed ${seed}): return ${earned.toFixed(3)}`);
      returns.push(earned);
    }
  };
  try {
    await Promise.all(Array.from({ length: Number(values.envs) }, worker));
  } finally {
    await client.close();
  }
  console.log(`${summary("policy", returns)}, ${client.fallbacks} actions by the fallback`);
  if (!values.compare) return;
  const byRule: number[] = [];
  const byChance: number[] = [];
  for (let seed = first; seed < first + returns.length; seed++) {
    const chance = new Random(BigInt(seed) ^ 0xc0ffeen);
    const random: Act = (_, [mask]) => {
      const allowed = [...mask.keys()].filter((i) => mask[i]);
      return allowed[chance.integer(allowed.length)];
    };
    byRule.push(await play(seed, ruled));
    byChance.push(await play(seed, random));
  }
  console.log(summary("rule", byRule));
  console.log(summary("random", byChance));
}

main().catch((error: Error) => {
  console.error(`error: ${error.message}`);
  process.exit(1);
});
