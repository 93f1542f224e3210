// What the server is asked, and the stream of jobs that it sends by itself.

async function answer(response) {
  const body = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (!response.ok) throw new Error(body.error ?? `The server answered ${response.status}.`);
  return body;
}

export async function get(path) {
  try {
    return await answer(await fetch(`api/${path}`));
  } catch (error) {
    throw error instanceof TypeError ? new Error("The server does not answer. Is `trainwright ui` running?") : error;
  }
}

export async function post(path, body = {}) {
  const text = JSON.stringify(body);
  return answer(await fetch(`api/${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: text }));
}

export function query(name, values) {
  return values.map((value) => `${name}=${encodeURIComponent(value)}`).join("&");
}

const listeners = new Set();
let latest = null;

export function watch(listener) {
  listeners.add(listener);
  if (latest !== null) listener(latest);
  return () => listeners.delete(listener);
}

export function connect() {
  const link = document.getElementById("link");
  const stream = new EventSource("api/watch");
  stream.onmessage = (event) => {
    const found = JSON.parse(event.data);
    link.textContent = found.error ?? "";
    if (found.error) return;
    latest = found;
    for (const listener of [...listeners]) listener(found);
  };
  stream.onerror = () => {
    link.textContent = "The server does not answer; trying again.";
    if (stream.readyState !== EventSource.CLOSED) return;
    get("jobs").then(connect, (error) => { link.textContent = error.message; }); // it refused: another start has another token
  };
}
