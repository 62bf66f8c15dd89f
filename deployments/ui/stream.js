// Server-sent events over fetch: EventSource can neither carry a token nor see why it failed.
//
// States: connecting, live, silent (open, but nothing came for SILENT_MS), cut (will retry),
// denied (wants a token).

// The server's heartbeat comes every 10 s when there is nothing else to say.
const SILENT_MS = 12000;
const ABORT_MS = 25000;
const MAX_BUFFER = 16 * 1024 * 1024;
const BACKOFF_MS = [500, 1000, 2000, 4000, 8000, 15000];

export class Stream {
  constructor(path, { onEvent, onState, headers }) {
    Object.assign(this, { path, onEvent, onState, headers });
    this.lastId = null;
    this.attempt = 0;
    this.state = "connecting";
    this.heardAt = performance.now();
    this.retryAt = 0;
    setInterval(() => this.watch(), 500);
    addEventListener("online", () => this.retryNow());
  }

  start() { this.run(); }

  retryNow() {
    if (this.state === "cut" || this.state === "denied") {
      clearTimeout(this.timer);
      this.run();
    }
  }

  enter(state, reason = "") {
    if (state === this.state && reason === this.reason) return;
    this.state = state;
    this.reason = reason;
    this.onState(state, reason);
  }

  watch() {
    const quiet = performance.now() - this.heardAt;
    if (this.state === "live" && quiet > SILENT_MS) this.enter("silent", "nothing is coming in");
    if ((this.state === "silent" || this.state === "connecting") && quiet > ABORT_MS) {
      this.abort?.abort();
    }
  }

  async run() {
    if (this.state !== "cut") this.enter("connecting");
    this.heardAt = performance.now();
    this.abort = new AbortController();
    let wait = null;
    let reason = "the connection ended";
    try {
      const headers = { Accept: "text/event-stream", ...this.headers() };
      if (this.lastId !== null) headers["Last-Event-ID"] = this.lastId;
      const options = { headers, cache: "no-store", signal: this.abort.signal };
      const response = await fetch(this.path, options);
      if (response.status === 401 || response.status === 403) {
        this.enter("denied", "the server wants its access token");
        return;
      }
      if (!response.ok || !response.body) {
        wait = 1000 * Number(response.headers.get("Retry-After")) || null;
        throw new Error(`the server answered ${response.status}`);
      }
      await this.read(response.body);
    } catch (error) {
      reason = error.name === "AbortError" ? "the server went silent"
        : error instanceof TypeError ? "the server cannot be reached" : error.message;
    }
    this.abort.abort();
    this.retryLater(reason, wait);
  }

  retryLater(reason, wait) {
    const step = BACKOFF_MS[Math.min(this.attempt, BACKOFF_MS.length - 1)];
    this.attempt += 1;
    // Jitter, so that a hundred open pages do not come back in one instant.
    const delay = Math.min(wait ?? step, 15000) * (0.8 + 0.4 * Math.random());
    this.retryAt = performance.now() + delay;
    this.enter("cut", reason);
    this.timer = setTimeout(() => this.run(), delay);
  }

  async read(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      const blocks = buffer.split(/\r?\n\r?\n/);
      buffer = blocks.pop();
      if (buffer.length > MAX_BUFFER) throw new Error("the server sent an endless event");
      for (const block of blocks) this.take(block);
    }
  }

  take(block) {
    let type = "message", id = null;
    const data = [];
    for (const line of block.split(/\r?\n/)) {
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "event") type = value;
      else if (field === "data") data.push(value);
      else if (field === "id") id = value;
    }
    this.heardAt = performance.now();
    this.attempt = 0;
    this.enter("live");
    if (id !== null) this.lastId = id;
    if (!data.length) return;
    let content;
    try { content = JSON.parse(data.join("\n")); } catch { return; }
    this.onEvent(type, content);
  }
}
