// The road to the server: JSON both ways, refusals as errors with a field and a sentence, and its stream of changes.

export class Refusal extends Error {
  constructor(status, { code = "", field = null, message = "" }, retryAfter = 0) {
    super(message || `The server answered ${status} without a word; look at its log.`);
    Object.assign(this, { status, code, field, retryAfter });
  }
}

export const refused = new EventTarget(); // tells "key" when the server wants one

// Nobody knows what became of the question: the line broke, or a gateway waited in vain.
export const unanswered = (error) => error.status === 0 || error.status >= 502;

const PATIENCE = 60_000; // ms for an answer
const LARGE = 1e6; // bytes to send that a slow line may need longer for
const ROOT = new URL("api/v1/", document.baseURI);

export async function call(method, path, body, headers = {}) {
  const options = { method, headers: { Accept: "application/json", ...headers }, credentials: "same-origin", keepalive: method === "DELETE" };
  if (body instanceof Blob) {
    options.body = body;
    options.headers["Content-Type"] = body.type || "application/octet-stream";
  } else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  if ((body?.size ?? options.body?.length ?? 0) < LARGE) options.signal = AbortSignal.timeout(PATIENCE);
  const answer = await fetch(new URL(path, ROOT), options).catch(() => {
    throw new Refusal(0, { code: "unreachable", message: "The server cannot be reached. Is it still running?" });
  });
  if (answer.status === 401 && path !== "session") refused.dispatchEvent(new Event("key"));
  return answer.ok ? content(answer) : Promise.reject(await refusal(answer));
}

async function content(answer) {
  if (answer.status === 204) return null;
  return answer.json().catch(() => {
    throw new Refusal(0, { code: "foreign", message: "What answered is not this server, or was cut off. Does the network ask you to sign in?" });
  });
}

async function refusal(answer) {
  const text = await answer.text().catch(() => "");
  let told = {};
  try {
    told = JSON.parse(text).error || {};
  } catch {
    told = {};
  }
  return new Refusal(answer.status, told, Number(answer.headers.get("Retry-After")) || 0);
}

export const get = (path) => call("GET", path);
export const post = (path, body = {}, headers = {}) => call("POST", path, body, headers);
export const put = (path, body) => call("PUT", path, body);
export const remove = (path) => call("DELETE", path);

// Follows the caller's jobs. `on` has open(), job(data), gone(data) and lost(); the browser reconnects by itself, and
// where it gave up (a refused stream) it is tried anew. Returns what ends it.
export function follow(on) {
  let source, timer;
  const open = () => {
    source = new EventSource(new URL("events", ROOT));
    source.onopen = on.open;
    source.addEventListener("job", (event) => on.job(JSON.parse(event.data)));
    source.addEventListener("gone", (event) => on.gone(JSON.parse(event.data)));
    source.onerror = () => {
      on.lost();
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, 3000);
    };
  };
  open();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}
