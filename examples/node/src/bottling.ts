// A bottling line: several products, one line, and every change from one to another costs time.
import type { Random } from "./farsim/random";
import type { Environment, Model, Options, Outcome, Simulator } from "./farsim/simulator";
import { box, dict, discrete, text, type Value } from "./farsim/spaces";

const SHIFTS = 14; // Of a week: a day and a night shift.
const WEEKS = 4;
const OUTPUT = 10; // Pallets that the line fills in a shift,
const OUTPUT_AFTER_CHANGEOVER = 7; // and in one that begins with a changeover.
const ROOM = 40; // Pallets of each product that the store holds.
const HOLDING = 0.02; // Costs: of a pallet kept for a shift,
const LOST = 1; // of a pallet that was asked for and not there.
const UNIT = 10; // Rewards are minus the costs in units of this, so that they are around 1.
const WEEKEND = 10; // The first shift of Saturday.

export const bottling: Simulator = {
  name: "bottling",
  description: "Choose what a bottling line fills in each shift.",
  parameters: [
    { name: "products", description: "how many share the line", space: discrete(5, 2), default: 4 },
    { name: "changeover", description: "cost of one", space: box("DTYPE_FLOAT32", [], 0, 20), default: 2 },
    {
      name: "week",
      description: "weekend: customers fetch nothing on Saturday and Sunday, and more on other days",
      space: text(["even", "weekend"]),
      choices: ["even", "weekend"],
      default: "weekend",
    },
    {
      name: "load",
      description: "demand as a share of what the line could fill without changeovers",
      space: box("DTYPE_FLOAT32", [], 0, 2),
      default: 0.75,
      perEpisode: true,
    },
  ],
  open,
};

function open(options: Options): Model {
  const products = Number(options.products);
  const amounts = { space: box("DTYPE_FLOAT32", [products], 0, ROOM), unit: "pallets" };
  return {
    observationSpace: dict({
      stock: amounts,
      demand: amounts,
      line: discrete(products),
      shift: discrete(SHIFTS),
    }),
    actionSpace: discrete(products + 1), // The last one: the line stands still.
    hasActionMask: true,
    maxEpisodeSteps: WEEKS * SHIFTS,
    make: () => new BottlingLine(products, Number(options.changeover), options.week === "weekend"),
  };
}

export interface Seen {
  /** Pallets in store of each product. */
  stock: number[];
  /** Pallets that customers fetch in a shift, on average over a week. */
  demand: number[];
  /** The product that the line is set up for. */
  line: number;
  /** Since Monday morning. */
  shift: number;
}

export class BottlingLine implements Environment {
  private stock: number[] = [];
  private line = 0;
  private time = 0;
  private demand: number[] = [];
  private random!: Random;
  /** Of the demand: the first product sells best. */
  private readonly shares: number[];

  constructor(
    private readonly products: number,
    private readonly changeoverCost: number,
    private readonly quietWeekend: boolean,
  ) {
    const weights = Array.from({ length: products }, (_, i) => products - i);
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    this.shares = weights.map((weight) => weight / total);
  }

  reset(options: Options, random: Random): Value {
    this.random = random;
    this.demand = this.shares.map((share) => share * Number(options.load) * OUTPUT);
    this.time = 0;
    this.line = random.integer(this.products);
    this.stock = this.shares.map(() => 5 + random.integer(16));
    return this.observe();
  }

  step(action: Value): Outcome {
    const product = Number(action);
    const runs = product < this.products && this.hasRoom(product);
    const changes = runs && product !== this.line;
    if (runs) {
      this.line = product;
      this.stock[product] += changes ? OUTPUT_AFTER_CHANGEOVER : OUTPUT;
    }
    let lost = 0;
    const rush = this.rush();
    this.demand.forEach((mean, i) => {
      const asked = this.random.poisson(mean * rush);
      lost += Math.max(asked - this.stock[i], 0);
      this.stock[i] = Math.max(this.stock[i] - asked, 0);
    });
    const kept = this.stock.reduce((sum, pallets) => sum + pallets, 0);
    const changeover = changes ? this.changeoverCost : 0;
    this.time++;
    return {
      observation: this.observe(),
      reward: -(HOLDING * kept + LOST * lost + changeover) / UNIT,
      terminated: false,
      truncated: this.time >= WEEKS * SHIFTS,
      info: { lost_sales: lost, changeover: Number(changes) },
    };
  }

  /** A product may be filled while a shift's output of it fits into the store. */
  masks(): boolean[][] {
    return [[...this.shares.map((_, product) => this.hasRoom(product)), true]];
  }

  private hasRoom(product: number): boolean {
    return this.stock[product] + OUTPUT <= ROOM;
  }

  /** Demand in this shift as a multiple of the average. */
  private rush(): number {
    if (!this.quietWeekend) return 1;
    return this.time % SHIFTS >= WEEKEND ? 0 : SHIFTS / WEEKEND;
  }

  private observe(): Seen & { [name: string]: Value } {
    return {
      stock: [...this.stock],
      demand: [...this.demand],
      line: this.line,
      shift: this.time % SHIFTS,
    };
  }
}

/** A planner's rule: fill on until something runs short, and nothing while there is plenty. */
export function rule(seen: Seen, mask: readonly boolean[]): number {
  const shifts = seen.stock.map((pallets, i) => pallets / Math.max(seen.demand[i], 0.1));
  const allowed = [...shifts.keys()].filter((i) => mask[i]);
  const shortest = allowed.reduce((best, i) => (shifts[i] < shifts[best] ? i : best), allowed[0]);
  if (shortest === undefined || shifts[shortest] > PLENTY) return seen.stock.length;
  const goesOn = mask[seen.line] && shifts[seen.line] < PLENTY && shifts[shortest] > SHORT;
  return goesOn ? seen.line : shortest;
}

// Shifts that stock lasts; the best for the default options, of some that were tried.
const SHORT = 2;
const PLENTY = 7;
