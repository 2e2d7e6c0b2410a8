import type { IError } from "./generated/farsim/v1/Error";
import type { ErrorCode } from "./generated/farsim/v1/ErrorCode";

type Bare<Code> = Code extends `ERROR_CODE_${infer Name}` ? Name : never;

/** An error reply of the contract: what was wrong, what to do, and what it is about. */
export class FarsimError extends Error {
  constructor(
    readonly code: Bare<ErrorCode>,
    message: string,
    readonly subject = "",
  ) {
    super(message);
  }
}

export function toWire(error: unknown): IError {
  if (error instanceof FarsimError) {
    return { code: `ERROR_CODE_${error.code}`, message: error.message, subject: error.subject };
  }
  return { code: "ERROR_CODE_INTERNAL", message: String(error) };
}
