// How likely does the model find a response?  node dist/score.js ID QUESTION RESPONSE
import { Code, createClient } from "@connectrpc/connect";
import { readError, retrying } from "./errors.js";
import { Role } from "./gen/burnish/api/common/v1/common_pb.js";
import { ScoringService } from "./gen/burnish/api/scoring/v1/scoring_pb.js";
import { connectTo } from "./transport.js";

const scoring = createClient(ScoringService, connectTo(process.env.BURNISH_SCORING_ENDPOINT ?? "127.0.0.1:50051"));
const [id = "", question = "", response = ""] = process.argv.slice(2);

/** Little-endian float32 as numbers, on a machine of any byte order. */
function float32s(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: view.byteLength / 4 }, (_, index) => view.getFloat32(4 * index, true));
}

const request = {
  model: {}, // whatever the server holds; name the weights by uri and digest where it matters which
  samples: [{ id, messages: [{ role: Role.USER, content: question }, { role: Role.ASSISTANT, content: response }] }],
  returnTokens: true,
};
try {
  const { scores } = await retrying(() => scoring.scoreSamples(request, { timeoutMs: 60_000 }));
  for (const { sampleId, status, meanNll, perplexity, turns } of scores) {
    if (status?.code) console.log(sampleId, status.reason, status.message);
    else console.log(sampleId, meanNll, perplexity, ...turns.flatMap((turn) => float32s(turn.logprobs)));
  }
} catch (error) {
  const { code, reason, fields, message } = readError(error);
  console.error(Code[code], reason, fields.join(","), message);
  process.exitCode = 1;
}
