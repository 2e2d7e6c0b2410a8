import { randomBytes } from "node:crypto";

/**
 * A stream of random numbers that is the same for the same seed: sfc32, by C. Doty-Humphrey
 * (PractRand, public domain). Math.random can not be seeded.
 */
export class Random {
  private readonly state: Uint32Array;

  /** @param seed of 64 bits, signed or not; without one the stream is like no other. */
  constructor(seed: bigint = randomBytes(8).readBigUInt64LE()) {
    const bits = BigInt.asUintN(64, seed);
    this.state = Uint32Array.of(Number(bits & 0xffffffffn), Number(bits >> 32n), 0x9e3779b9, 1);
    for (let i = 0; i < 15; i++) this.uniform();
  }

  /** In [0, 1). */
  uniform(): number {
    const s = this.state;
    const sum = (s[0] + s[1] + s[3]) >>> 0;
    s[3] += 1;
    s[0] = s[1] ^ (s[1] >>> 9);
    s[1] = s[2] + (s[2] << 3);
    s[2] = ((s[2] << 21) | (s[2] >>> 11)) + sum;
    return sum / 2 ** 32;
  }

  /** One of 0, 1, ..., n - 1. */
  integer(n: number): number {
    return Math.floor(this.uniform() * n);
  }

  /** A Poisson count, by Knuth's product of uniforms; fit for means up to some tens. */
  poisson(mean: number): number {
    const bound = Math.exp(-mean);
    let count = 0;
    for (let product = this.uniform(); product > bound; product *= this.uniform()) count++;
    return count;
  }
}
