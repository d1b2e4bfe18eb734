// One call of the endpoint that every client uses, and words for what goes wrong. Knows no page.

export const endpoint = new URL("v1/rerank", document.baseURI).href;

// What the server lists at most in x-truncated-pairs.
export const MOST_LISTED = 200;

export class CallError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// Raises CallError, and what fetch raises once `signal` stops it.
export async function rank(body, key, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const started = performance.now();
  let response, answer;
  try {
    response = await fetch(endpoint, { method: "POST", headers, body: JSON.stringify(body), signal });
    answer = parse(await response.text());
  } catch (error) {
    if (signal.aborted) throw error;
    throw new CallError("The server does not answer. See whether it still runs, then rank again.");
  }
  if (!response.ok) throw new CallError(explain(response, answer, key), response.status);
  if (!Array.isArray(answer?.results)) {
    throw new CallError(`What answers at ${endpoint} is not polyrank. Is there a proxy before it?`);
  }
  return {
    results: answer.results.map((row) => ({ index: row.index, score: row.relevance_score })),
    model: answer.model,
    tokens: answer.usage.total_tokens,
    cut: numbers(response.headers.get("x-truncated-pairs")),
    times: durations(response.headers.get("server-timing")),
    roundTrip: performance.now() - started,
  };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function numbers(list) {
  return list ? list.split(",").map(Number) : [];
}

// `tokenize;dur=1.5, forward;dur=20` to milliseconds by name.
function durations(header) {
  const parts = (header ?? "").matchAll(/(\w+);dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(parts, ([, name, milliseconds]) => [name, Number(milliseconds)]));
}

function explain(response, answer, key) {
  const detail = typeof answer?.detail === "string" ? answer.detail : "";
  const said = detail ? ` (it says: ${detail})` : "";
  const later = wait(response.headers.get("retry-after"));
  switch (response.status) {
    case 400:
    case 422:
      return `The server refuses this${said}. Change it, and rank again.`;
    case 401:
      return key
        ? "The server does not know this API key. Correct it, and rank again."
        : "This server asks for an API key. Enter it here, and rank again.";
    case 404:
      return `Nothing answers at ${endpoint}. If a proxy is before the server, let it pass that on.`;
    case 408:
      return "The texts did not reach the server in time. Rank again, or send fewer.";
    case 413:
      return (
        `The texts are too large for one request${said}. Send fewer or shorter ones, or start the ` +
        "server with a greater --max-body-bytes."
      );
    case 429:
      return `The server has more to do than it can${said}. Rank again ${later}.`;
    case 502:
      return "The server behind the proxy does not answer. See whether it runs, then rank again.";
    case 503:
      return `The server takes no requests now${said}. Rank again ${later}.`;
    case 504:
      return (
        `It took too long${said}. Send fewer or shorter documents, or start the server with a ` +
        "greater --request-timeout-seconds."
      );
  }
  const id = response.headers.get("x-request-id");
  const where = id ? ` The server's log says why, at request ${id}.` : "";
  return `The server failed with status ${response.status}${said}.${where}`;
}

function wait(retryAfter) {
  const seconds = Number.parseInt(retryAfter, 10);
  if (!(seconds > 0)) return "in a moment";
  return seconds === 1 ? "in a second" : `in ${seconds} seconds`;
}
