// What the client sends and how it reads an answer: repeated where that is safe, patient as told.

import { AircallError, ClientError, ConnectionLost, ServiceError, serviceError, type ProblemBody } from "./errors.js";
import { parse, stringify } from "./json.js";

const PROBLEM = "application/problem+json";
// Of these the service says that the request was not passed on, or may be sent once more.
const NOT_SENT_ON = new Set(["budget_spent", "too_many_at_once", "intake_full", "not_ready", "leaving"]);
const AGAIN = new Set([429, 502, 503, 504]);
const LONGEST_PAUSE_SECONDS = 30;

export type Query = Record<string, unknown>;

export interface Asked {
  method: string;
  path: string;
  query?: Query;
  body?: unknown;
  /** Sending it twice does what sending it once does. */
  repeatable?: boolean;
  ofAircall?: boolean;
  headers?: Record<string, string>;
}

export interface Options {
  /** Seconds to wait in all for what the service puts off, before its error is thrown. */
  patience?: number;
  /** Seconds until an answer must have come. */
  timeout?: number;
  /** In place of the global `fetch`, for tests. */
  fetch?: typeof globalThis.fetch;
  /** In place of a timer, for tests. */
  sleep?: (seconds: number) => Promise<void>;
}

export class Http {
  readonly #base: string;
  readonly #key: string;
  readonly #patience: number;
  readonly #timeout: number;
  readonly #fetch: typeof globalThis.fetch;
  readonly sleep: (seconds: number) => Promise<void>;

  constructor(baseUrl: string, apiKey: string, options: Options = {}) {
    if (!/^https?:\/\/[^/]/.test(baseUrl)) {
      throw new TypeError("The first argument is the service's address, such as https://aircall.example.com");
    }
    if (!apiKey) throw new TypeError("The second argument is an API key (aok_…); `aircall-oauth keys create` makes one");
    this.#base = baseUrl.replace(/\/+$/, "");
    this.#key = apiKey;
    this.#patience = options.patience ?? 60;
    this.#timeout = options.timeout ?? 70;
    this.#fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.sleep = options.sleep ?? ((seconds) => new Promise((done) => setTimeout(done, seconds * 1000)));
  }

  /** Send a request and return the JSON of its answer; throws a `ClientError`. */
  async ask(asked: Asked): Promise<unknown> {
    for (let attempt = 0, waited = 0; ; attempt++) {
      let pause: number | undefined;
      try {
        return await this.#answer(asked);
      } catch (error) {
        pause = pauseBeforeAgain(asked, error, attempt);
        if (pause === undefined || waited + pause > this.#patience) throw error;
        if (attempt === 0 && error instanceof ConnectionLost) {
          console.warn(`aircall-oauth-client: ${error.message} Trying again for ${this.#patience} seconds …`);
        }
      }
      await this.sleep(pause);
      waited += pause;
    }
  }

  /** Open a request whose answer is read as it comes; `abort` ends it. */
  async open(asked: Asked): Promise<{ body: ReadableStream<Uint8Array>; abort: () => void }> {
    const ending = new AbortController();
    const response = await this.#send(asked, ending.signal);
    if (response.status >= 400) throw errorOf(asked, response, await response.text());
    if (response.body === null) throw new ConnectionLost(`${asked.method} ${asked.path}: no body`);
    return { body: response.body, abort: () => ending.abort() };
  }

  /** Whether a path answers 200. */
  async answers(path: string): Promise<boolean> {
    try {
      const response = await this.#send({ method: "GET", path }, AbortSignal.timeout(this.#timeout * 1000));
      await response.arrayBuffer();
      return response.status === 200;
    } catch (error) {
      if (error instanceof ConnectionLost) return false;
      throw error;
    }
  }

  async #answer(asked: Asked): Promise<unknown> {
    const response = await this.#send(asked, AbortSignal.timeout(this.#timeout * 1000));
    let text: string;
    try {
      text = await response.text();
    } catch (error) {
      throw new ConnectionLost(this.#noAnswer(asked, error), { cause: error });
    }
    if (response.status >= 400) throw errorOf(asked, response, text);
    if (text === "" || response.status === 204) return null;
    return (response.headers.get("content-type") ?? "").includes("json") ? parse(text) : text;
  }

  #noAnswer(asked: Asked, error: unknown): string {
    const { origin } = new URL(this.#base);
    const advice = `Is ${origin} the service's address, and is it running?`;
    return `${asked.method} ${asked.path} had no answer (${nameOf(error)}). ${advice}`;
  }

  async #send(asked: Asked, signal: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = { authorization: `Bearer ${this.#key}`, accept: "application/json, */*", ...asked.headers };
    const init: RequestInit = { method: asked.method, headers, redirect: "manual", signal };
    if (asked.body !== undefined) {
      headers["content-type"] = "application/json";
      init.body = stringify(asked.body);
    }
    try {
      return await this.#fetch(`${this.#base}${asked.path}${queryOf(asked.query ?? {})}`, init);
    } catch (error) {
      throw new ConnectionLost(this.#noAnswer(asked, error), { cause: error });
    }
  }
}

function nameOf(error: unknown): string {
  const { cause, name } = error instanceof Error ? error : { cause: undefined, name: "no answer" };
  // What `fetch` throws is a TypeError whatever happened; its cause has the system's word for it.
  const code = (cause as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? code : name;
}

function queryOf(query: Query): string {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? (value as unknown[]) : [value]) {
      if (each !== undefined && each !== null) given.append(name, each instanceof Date ? each.toISOString() : String(each));
    }
  }
  return given.size > 0 ? `?${given.toString()}` : "";
}

/** The error of an answer: the service's own have a `code`, the rest are Aircall's. */
export function errorOf(asked: Asked, response: Response, text: string): ClientError {
  const said = response.headers.get("retry-after") ?? "";
  const retryAfter = /^[0-9]{1,6}$/.test(said) ? Number(said) : undefined;
  let data: unknown = text;
  try {
    data = parse(text);
  } catch {
    // Not JSON: shown as it is.
  }
  const type = response.headers.get("content-type") ?? "";
  if (type.startsWith(PROBLEM) && typeof data === "object" && data !== null && "code" in data) {
    return serviceError(data as ProblemBody, retryAfter);
  }
  if (asked.ofAircall) return new AircallError(response.status, data, retryAfter);
  const unknown = { code: "unknown", status: response.status, detail: `answered ${response.status}` };
  return serviceError(unknown, retryAfter);
}

/** The seconds to wait before the request is sent again; undefined where it must not be. */
export function pauseBeforeAgain(asked: Asked, error: unknown, attempt: number): number | undefined {
  const backingOff = Math.min(LONGEST_PAUSE_SECONDS, 0.25 * 2 ** attempt) * (0.5 + Math.random() / 2);
  if (error instanceof ConnectionLost) return asked.repeatable ? backingOff : undefined;
  if (!(error instanceof ServiceError || error instanceof AircallError)) return undefined;
  const notSentOn = error.status === 429 || (error instanceof ServiceError && NOT_SENT_ON.has(error.code));
  const may = notSentOn || (asked.repeatable === true && AGAIN.has(error.status));
  return may ? (error.retryAfter ?? backingOff) : undefined;
}

/** A path of the service's, its segments encoded. */
export function path(...segments: string[]): string {
  return `/v1/${segments.map(encodeURIComponent).join("/")}`;
}
