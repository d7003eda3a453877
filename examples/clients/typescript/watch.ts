// Follows a training run until it ends.  node dist/watch.js RUN_ID
import { createClient } from "@connectrpc/connect";
import { retrying } from "./errors.js";
import { State, TrainingService } from "./gen/burnish/api/training/v1/training_pb.js";
import { connectTo } from "./transport.js";

const training = createClient(TrainingService, connectTo(process.env.BURNISH_TRAINING_ENDPOINT ?? "127.0.0.1:50051"));
const runId = process.argv[2] ?? "";
const ENDED = [State.SUCCEEDED, State.FAILED, State.CANCELLED];

let fromEvent = 1n;
let state = State.UNSPECIFIED;
async function watch(): Promise<void> {
  for await (const { event, run } of training.watchRun({ runId, fromEvent })) {
    fromEvent = event + 1n; // where to go on after a break: events are kept, and numbered without gaps
    state = run?.state ?? state;
    console.log(event, State[state], run?.progress?.step, run?.progress?.loss);
  }
}
while (!ENDED.includes(state)) await retrying(watch);
