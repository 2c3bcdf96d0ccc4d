// What the page asks of the playground's process. Every failure is a CallError with words for people.

/** A failed call. `code`, `reason` and `field` as the server names them; "OFFLINE" where nobody answered here. */
export class CallError extends Error {
  constructor(record) {
    super(record.message || record.code || "unknown error");
    Object.assign(this, record);
    this.text = inWords(record);
  }
}

const WORDS = {
  OFFLINE: "The playground itself does not answer. Is `seqserve playground` still running?",
  UNAVAILABLE: "The server cannot be reached, is still loading, or is shutting down.",
  RESOURCE_EXHAUSTED: "The server takes no more at the moment.",
  DEADLINE_EXCEEDED: "The answer did not come in time.",
  CANCELLED: "The server cancelled the call.",
  NOT_FOUND: "The server does not know this model.",
  UNAUTHENTICATED: "The server wants a valid token: start the playground with --token-file.",
  FAILED_PRECONDITION: "This model cannot do that.",
  INVALID_ARGUMENT: "The server refused the request.",
  REFUSED: "The playground refused the request.",
};

function inWords(record) {
  const words = WORDS[record.code] || "The server failed.";
  const why = record.message && record.code !== "OFFLINE" ? ` It says: ${record.message}` : "";
  const when = record.retry_after ? ` Try again in ${Math.ceil(record.retry_after)} s.` : "";
  const name = record.request_id ? ` (request ${record.request_id})` : "";
  return words + why + name + when;
}

async function fetched(path, settings = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...settings });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new CallError({ code: "OFFLINE" });
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new CallError(body.error || { code: "OFFLINE" });
  }
  return response;
}

const posting = (body, signal) => ({
  method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal,
});

/** The answer to a GET, parsed. */
export async function get(path) {
  return (await fetched(path)).json();
}

/** The answer to a POST, parsed. */
export async function post(path, body, signal) {
  return (await fetched(path, posting(body, signal))).json();
}

/** The records of a streamed answer, one after the other; ends with "result", or throws. */
export async function* stream(body, signal) {
  const response = await fetched("/api/stream", posting(body, signal));
  let ended = false;
  for await (const record of records(response.body.getReader(), signal)) {
    if (record.type === "error") throw new CallError(record.error);
    ended ||= record.type === "result";
    yield record;
  }
  if (!ended) throw new CallError({ code: "OFFLINE" });
}

async function* records(reader, signal) {
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (signal.aborted) throw error;
      throw new CallError({ code: "OFFLINE" });
    }
    rest += decoder.decode(part.value, { stream: !part.done });
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const each of lines) yield JSON.parse(each);
    if (part.done) return;
  }
}
