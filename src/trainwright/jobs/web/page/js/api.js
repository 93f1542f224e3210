// What the server is asked, and the streams of changes that it sends by itself.

// By how many seconds the server's clock is ahead of this browser's.
export const server = { ahead: 0 };

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

// Tells a listener of what it watches (a page of the list, or jobs by name) whenever that changes, and another one of what is
// wrong with that; returns how to stop.
export function watch(words, listener, wrong = (error) => { document.getElementById("link").textContent = error; }) {
  const link = document.getElementById("link");
  const seen = { order: [] };
  const rows = new Map();
  let stream = null;
  let open = true;

  function take(event) {
    const { jobs = [], first, error, now, ...rest } = JSON.parse(event.data);
    server.ahead = now - Date.now() / 1000;
    if (error !== undefined) wrong(error);
    if (error) return;
    if (first) rows.clear();
    for (const job of jobs) rows.set(job.id, job);
    Object.assign(seen, rest);
    for (const id of rows.keys()) if (!seen.order.includes(id)) rows.delete(id);
    listener({ ...seen, jobs: seen.order.map((id) => rows.get(id)) });
  }

  function connect() {
    if (!open) return;
    stream = new EventSource(`api/watch?${words}`);
    stream.onopen = () => { link.textContent = ""; };
    stream.onmessage = take;
    stream.onerror = () => {
      link.textContent = "The server does not answer; trying again.";
      if (stream.readyState !== EventSource.CLOSED) return;
      get("jobs?limit=1").then(connect, (failed) => { link.textContent = failed.message; }); // it refused: another start has another token
    };
  }

  connect();
  return () => {
    open = false;
    stream.close();
  };
}
