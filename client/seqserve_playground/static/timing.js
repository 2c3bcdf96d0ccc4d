// Where the time of an answer went: by the server's clock, and by this page's.

import { duration, figures } from "./elements.js";

/** `seen`: milliseconds from the click to the first text and to the end, as this page saw them. */
export function showTiming(result, seen) {
  const { timing, output_token_count: count } = result;
  const pairs = [
    ["first token", duration(timing.first_token)], ["in the queue", duration(timing.queue)],
    ["encoder", duration(timing.encode)], ["decoder", duration(timing.decode)], ["total", duration(timing.total)],
    ["tokens in, out", `${result.input_token_count}, ${count}`],
    ["tokens per second", timing.decode > 0 ? (count / timing.decode).toFixed(0) : "–"],
    ["seen here: first text", seen.first === null ? "–" : duration(seen.first / 1000)],
    ["seen here: all", duration(seen.total / 1000)],
  ];
  if (result.seed !== null) pairs.push(["seed", result.seed]);
  figures("timing", pairs);
}
