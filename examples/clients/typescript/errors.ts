import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** What a failed call says: a word for machines, and the fields that are wrong. After `retryAfterMs` it may succeed. */
export function readError(error: unknown) {
  const failure = ConnectError.from(error);
  const reason = failure.findDetails(ErrorInfoSchema)[0]?.reason ?? "";
  const fields = failure.findDetails(BadRequestSchema).flatMap((bad) => bad.fieldViolations.map((one) => one.field));
  const delay = failure.findDetails(RetryInfoSchema)[0]?.retryDelay;
  // Servers give a reason, connections that break do not: Connect calls that ABORTED or INTERNAL, too.
  const broken = !reason && [Code.Canceled, Code.Aborted, Code.Internal].includes(failure.code);
  const away = broken || failure.code === Code.Unavailable;
  const retryAfterMs = delay ? Number(delay.seconds) * 1000 + delay.nanos / 1e6 : away ? 1000 : undefined;
  return { code: failure.code, message: failure.rawMessage, reason, fields, retryAfterMs };
}

/** Calls until it succeeds, where trying again can help. Every RPC is safe to repeat. */
export async function retrying<T>(call: () => Promise<T>, attempts = 60): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      const { code, reason, retryAfterMs } = readError(error);
      if (retryAfterMs === undefined || attempt === attempts) throw error;
      console.error(`${reason || Code[code]}: trying again in ${retryAfterMs} ms`);
      await sleep(retryAfterMs * (1 + Math.random())); // so that clients do not all come back at once
    }
  }
}
