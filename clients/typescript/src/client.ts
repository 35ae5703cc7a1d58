// The client: one API key for everything that the service offers.

import { randomUUID } from "node:crypto";

import {
  ClaimNotFound,
  ClientError,
  ConnectionLost,
  ServiceError,
  SubscriptionDiffers,
  TooManyRequests,
  Unavailable,
} from "./errors.js";
import { readSecret, writeSecret } from "./files.js";
import { Http, path, pauseBeforeAgain, type Asked, type Options, type Query } from "./http.js";
import { parse, stringify } from "./json.js";
import type {
  Attempt,
  AuditLine,
  CheckResult,
  DeadEvent,
  ErasedPositions,
  Erasure,
  Event,
  EventPage,
  EventWithDeliveries,
  InstallAttempt,
  InstallLink,
  Installation,
  InstallationStatus,
  Int64,
  OwnerRetention,
  Replay,
  ReplayAnswer,
  RetryAnswer,
  SecretAnswer,
  Subscription,
  SubscriptionOrder,
  SubscriptionCreated,
  TestResult,
  TokenAnswer,
} from "./types.js";

const WAIT_SECONDS = 25;
const CHANGEABLE = ["url", "types", "owners", "installations", "order"];

/** Asks the service. A request that may be repeated is sent again, and `Retry-After` is obeyed, within `patience`. */
export class Client {
  readonly http: Http;
  readonly installLinks: InstallLinks;
  readonly installAttempts: InstallAttempts;
  readonly claims: Claims;
  readonly installations: Installations;
  readonly events: Events;
  readonly subscriptions: Subscriptions;
  readonly erasures: Erasures;
  readonly retention: Retention;

  constructor(baseUrl: string, apiKey: string, options: Options = {}) {
    this.http = new Http(baseUrl, apiKey, options);
    this.installLinks = new InstallLinks(this.http);
    this.installAttempts = new InstallAttempts(this.http);
    this.claims = new Claims(this.http);
    this.installations = new Installations(this.http);
    this.events = new Events(this.http);
    this.subscriptions = new Subscriptions(this.http);
    this.erasures = new Erasures(this.http);
    this.retention = new Retention(this.http);
  }

  /** Aircall's Public API as an installation sees it. */
  aircall(installation: Pick<Installation, "id"> | string): Aircall {
    return new Aircall(this.http, typeof installation === "string" ? installation : installation.id);
  }

  /** The lines of the audit, newest first. Filters: `action`, `actor`, `owner`, `since` and so on. */
  audit(filters: Query = {}): AsyncGenerator<AuditLine> {
    return pages<AuditLine>(this.http, "/v1/audit", filters);
  }

  /** Whether the service's process is up. */
  live(): Promise<boolean> {
    return this.http.answers("/livez");
  }

  /** Whether the service can serve requests right now. */
  ready(): Promise<boolean> {
    return this.http.answers("/readyz");
  }
}

export class InstallLinks {
  constructor(readonly http: Http) {}

  /** Make a link that the owner's admin opens in a browser, once, within 30 minutes. */
  create(owner: string, options: { returnTo?: string | undefined } = {}): Promise<InstallLink> {
    const body = { owner, ...(options.returnTo === undefined ? {} : { return_to: options.returnTo }) };
    return this.http.ask({ method: "POST", path: "/v1/install-links", body, repeatable: true }) as Promise<InstallLink>;
  }
}

export class InstallAttempts {
  constructor(readonly http: Http) {}

  /** Newest first. Filters: `owner`, `reference`, `link_id`, `ending`, `since`, `until`. */
  list(filters: Query = {}): AsyncGenerator<InstallAttempt> {
    return pages<InstallAttempt>(this.http, "/v1/install-attempts", filters);
  }

  get(attemptId: string): Promise<InstallAttempt> {
    return this.http.ask(reading(path("install-attempts", attemptId))) as Promise<InstallAttempt>;
  }
}

export interface Person {
  phone?: string;
  email?: string;
  contact_id?: Int64 | string;
  user_id?: Int64 | string;
  call_id?: Int64 | string;
  owner?: string;
  installation_id?: string;
}

export class Erasures {
  constructor(readonly http: Http) {}

  /** Begin to erase a person, by one of its names; a worker carries it out, and `get` says how far it is. */
  create(person: Person): Promise<Erasure> {
    return this.http.ask({ method: "POST", path: "/v1/erasures", body: person }) as Promise<Erasure>;
  }

  /** Newest first. */
  list(): AsyncGenerator<Erasure> {
    return pages<Erasure>(this.http, "/v1/erasures", {});
  }

  get(erasureId: string): Promise<Erasure> {
    return this.http.ask(reading(path("erasures", erasureId))) as Promise<Erasure>;
  }

  /** The positions of the events that were erased, in order. */
  async *positions(erasureId: string): AsyncGenerator<Int64> {
    for (let after: Int64 | null = 0; after !== null; ) {
      const asked = reading(path("erasures", erasureId, "positions"), { after });
      const page = (await this.http.ask(asked)) as ErasedPositions;
      yield* page.positions;
      after = page.next;
    }
  }
}

/** How long events are kept, by owner. */
export class Retention {
  constructor(readonly http: Http) {}

  /** The owners whose events are kept by rules of their own. */
  list(): AsyncGenerator<OwnerRetention> {
    return pages<OwnerRetention>(this.http, "/v1/retention", {});
  }

  get(owner: string): Promise<OwnerRetention> {
    return this.http.ask(reading(path("retention", owner))) as Promise<OwnerRetention>;
  }

  /** Replace an owner's rules, such as `{ "transcription.*": "7d" }`. */
  set(owner: string, rules: Record<string, string>): Promise<OwnerRetention> {
    const asked = { method: "PUT", path: path("retention", owner), body: { rules }, repeatable: true };
    return this.http.ask(asked) as Promise<OwnerRetention>;
  }

  /** Keep an owner's events as long as all others. */
  async reset(owner: string): Promise<void> {
    await this.http.ask({ method: "DELETE", path: path("retention", owner), repeatable: true });
  }
}

export class Claims {
  constructor(readonly http: Http) {}

  /**
   * Give the installation that a browser came home with to the owner who is logged in there. Repeat-safe.
   * Throws `ClaimNotFound`, `ClaimOfAnother`, `InstallationHeld`.
   */
  claim(claim: string, owner: string): Promise<Installation> {
    const asked = { method: "POST", path: "/v1/claims", body: { claim, owner }, repeatable: true };
    return this.http.ask(asked) as Promise<Installation>;
  }
}

export class Installations {
  constructor(readonly http: Http) {}

  list(filters: { owner?: string; status?: InstallationStatus } = {}): AsyncGenerator<Installation> {
    return pages<Installation>(this.http, "/v1/installations", filters);
  }

  get(installationId: string): Promise<Installation> {
    return this.http.ask(reading(path("installations", installationId))) as Promise<Installation>;
  }

  /** Check an installation at Aircall now, and mend what can be mended. */
  check(installationId: string): Promise<CheckResult> {
    const asked = { method: "POST", path: path("installations", installationId, "check"), repeatable: true };
    return this.http.ask(asked) as Promise<CheckResult>;
  }

  /** All that is held about an installation: each has a `kind`, and under that name what it holds. */
  async *export(installationId: string): AsyncGenerator<{ kind: string; [held: string]: unknown }> {
    let kind = "";
    const { body, abort } = await this.http.open(reading(path("installations", installationId, "export")));
    try {
      for await (const line of lines(body)) {
        if (line === "") continue;
        const held = parse(line) as { kind: string };
        kind = held.kind;
        yield held;
      }
    } catch (error) {
      throw error instanceof TypeError ? new ConnectionLost("The export broke off", { cause: error }) : error;
    } finally {
      abort();
    }
    if (kind !== "end") throw new ConnectionLost("The export ended early");
  }

  /** Read the access token in clear. Prefer `client.aircall(…)`, which needs none. */
  token(installationId: string): Promise<TokenAnswer> {
    return this.http.ask(reading(path("installations", installationId, "token"))) as Promise<TokenAnswer>;
  }

  /** End an installation: at Aircall too. */
  async disconnect(installationId: string): Promise<void> {
    await this.http.ask({ method: "DELETE", path: path("installations", installationId), repeatable: true });
  }
}

export interface Following {
  epoch?: string | undefined;
  /** Called when you ask for the next event: begin with both after a crash. */
  save?: (position: Int64, epoch: string) => unknown;
  type?: string | string[];
  installation_id?: string;
  owner?: string;
  limit?: number;
}

export class Events {
  constructor(readonly http: Http) {}

  /** One page of the log. Filters: `type`, `owner`, `installation_id`, `limit`, `wait`, `order` and so on. */
  page(after: Int64 = 0, filters: Query = {}): Promise<EventPage> {
    return this.http.ask(reading("/v1/events", { after: after || undefined, ...filters })) as Promise<EventPage>;
  }

  /**
   * Every event past a position, for ever: nothing is skipped, and a connection that drops is resumed by position.
   * Throws `PositionGone` if the position is older than what is kept, and `PositionUnknown` if the log was restored.
   */
  async *follow(after: Int64 = 0, options: Following = {}): AsyncGenerator<Event> {
    const { save, ...filters } = options;
    let { epoch } = options;
    for (let failures = 0; ; ) {
      const asked = reading("/v1/events", { ...filters, after: after || undefined, epoch, wait: WAIT_SECONDS });
      let page: EventPage;
      try {
        page = (await this.http.ask(asked)) as EventPage;
      } catch (error) {
        const pause = pauseBeforeAgain(asked, error, failures);
        if (pause === undefined) throw error;
        failures = Math.min(failures + 1, 10);
        await this.http.sleep(pause);
        continue;
      }
      failures = 0;
      epoch = page.epoch;
      let saved = after;
      for (const event of page.events) {
        yield event;
        saved = event.position;
        await save?.(saved, epoch);
      }
      after = page.next;
      if (after !== saved) await save?.(after, epoch);
    }
  }

  /** Events as the service pushes them, until the connection ends. `follow` goes on by itself. */
  async *stream(after: Int64 = 0, filters: Query = {}): AsyncGenerator<Event> {
    const { body, abort } = await this.http.open(reading("/v1/events/stream", { after: after || undefined, ...filters }));
    try {
      for await (const line of lines(body)) {
        if (line.startsWith("data:")) yield parse(line.slice(5)) as Event;
      }
    } catch (error) {
      throw error instanceof TypeError ? new ConnectionLost("The stream broke off", { cause: error }) : error;
    } finally {
      abort();
    }
  }

  /** Newest first. Filters: `type`, `owner`, `since`, `until`, `subject`, `call_id` and so on. */
  async *search(filters: Query = {}): AsyncGenerator<Event> {
    for (let before = filters["before"]; ; ) {
      const page = (await this.http.ask(reading("/v1/events", { ...filters, order: "desc", before }))) as EventPage;
      yield* page.events;
      if (!page.more) return;
      before = page.next;
    }
  }

  /** One event, and what became of it for each subscription. */
  get(eventId: string): Promise<EventWithDeliveries> {
    return this.http.ask(reading(path("events", eventId))) as Promise<EventWithDeliveries>;
  }

  /** Send one event to one subscription right now. */
  resend(eventId: string, subscriptionId: string): Promise<TestResult> {
    const body = { subscription_id: subscriptionId };
    return this.http.ask({ method: "POST", path: path("events", eventId, "resend"), body }) as Promise<TestResult>;
  }
}

export interface SubscriptionFields {
  kind?: "http" | "nats" | "rabbitmq" | "kafka";
  types?: string[];
  owners?: string[];
  installations?: string[];
  order?: SubscriptionOrder;
  from?: "now" | "beginning" | Int64;
  [ofItsKind: string]: unknown;
}

export class Subscriptions {
  constructor(readonly http: Http) {}

  /** Make a subscription; its `secret` is in this answer and never again. Repeated where the connection broke. */
  create(name: string, url: string, fields: SubscriptionFields = {}, idempotencyKey?: string): Promise<SubscriptionCreated> {
    const body = { kind: "http", ...fields, name, url };
    const headers = { "idempotency-key": idempotencyKey ?? randomUUID() };
    const asked = { method: "POST", path: "/v1/subscriptions", body, headers, repeatable: true };
    return this.http.ask(asked) as Promise<SubscriptionCreated>;
  }

  /**
   * Make a subscription of this name unless there is one; one that is there is changed where it differs.
   * Only the answer of a new one has a `secret`. Fields that are not given are left as they are.
   */
  async ensure(name: string, url: string, fields: SubscriptionFields = {}): Promise<Subscription | SubscriptionCreated> {
    try {
      return await this.create(name, url, { ...fields, ensure: true });
    } catch (error) {
      if (!(error instanceof SubscriptionDiffers)) throw error;
      for await (const one of this.list()) {
        const same = one.name === name && one.kind === (fields.kind ?? "http");
        if (same && alike(one.owners, fields.owners ?? one.owners)) return this.#changed(one, { ...fields, url });
      }
      throw error;
    }
  }

  /**
   * Do as `ensure` does, and return the subscription's secret, which is kept in `file` for the next start. Where the file
   * lacks it, a new one is made, and the old one ends after 24 hours. For an app of one process: several take the secret
   * from where you keep your other secrets.
   */
  async secret(name: string, url: string, { file, ...fields }: SubscriptionFields & { file: string }): Promise<string> {
    const one = await this.ensure(name, url, fields);
    let secret = ("secret" in one && one.secret) || (await readSecret(file, one.id));
    if (!secret) {
      secret = (await this.rotateSecret(one.id)).secret;
      console.warn(`${file} lacked the secret of ${name}: a new one is made, the old one ends in 24 hours`);
    }
    await writeSecret(file, one.id, secret);
    return secret;
  }

  async #changed(one: Subscription, wanted: Record<string, unknown>): Promise<Subscription> {
    const now = one as unknown as Record<string, unknown>;
    const given = CHANGEABLE.filter((field) => wanted[field] !== undefined);
    const differing = given.filter((field) => stringify(wanted[field]) !== stringify(now[field]));
    const changes = Object.fromEntries(differing.map((field) => [field, wanted[field]]));
    return differing.length > 0 ? this.change(one.id, changes) : one;
  }

  list(): AsyncGenerator<Subscription> {
    return pages<Subscription>(this.http, "/v1/subscriptions", {});
  }

  get(subscriptionId: string): Promise<Subscription> {
    return this.http.ask(reading(path("subscriptions", subscriptionId))) as Promise<Subscription>;
  }

  /** Change the fields that are given; its position stays. */
  change(subscriptionId: string, fields: Record<string, unknown>): Promise<Subscription> {
    const asked = { method: "PATCH", path: path("subscriptions", subscriptionId), body: fields, repeatable: true };
    return this.http.ask(asked) as Promise<Subscription>;
  }

  async delete(subscriptionId: string): Promise<void> {
    await this.http.ask({ method: "DELETE", path: path("subscriptions", subscriptionId), repeatable: true });
  }

  pause(subscriptionId: string): Promise<Subscription> {
    return this.#do(subscriptionId, ["pause"], { repeatable: true }) as Promise<Subscription>;
  }

  resume(subscriptionId: string): Promise<Subscription> {
    return this.#do(subscriptionId, ["resume"], { repeatable: true }) as Promise<Subscription>;
  }

  /** Send a sample event now, and say what came of it. */
  test(subscriptionId: string): Promise<TestResult> {
    return this.#do(subscriptionId, ["test"]) as Promise<TestResult>;
  }

  /** Make a new secret; for 24 hours deliveries are signed with both, unless the old one is to end `now`. */
  rotateSecret(subscriptionId: string, options: { now?: boolean } = {}): Promise<SecretAnswer> {
    const body = { now: options.now ?? false };
    return this.#do(subscriptionId, ["rotate-secret"], { body }) as Promise<SecretAnswer>;
  }

  /** What was tried, newest first. */
  attempts(subscriptionId: string, filters: Query = {}): AsyncGenerator<Attempt> {
    return pages<Attempt>(this.http, path("subscriptions", subscriptionId, "attempts"), filters);
  }

  /** The events that were given up on. */
  dead(subscriptionId: string): AsyncGenerator<DeadEvent> {
    return pages<DeadEvent>(this.http, path("subscriptions", subscriptionId, "dead"), {});
  }

  /** Put events that were given up on back: these, or all of them. */
  retryDead(subscriptionId: string, eventIds?: string[]): Promise<RetryAnswer> {
    const body = eventIds === undefined ? {} : { event_ids: eventIds };
    return this.#do(subscriptionId, ["dead", "retry"], { body }) as Promise<RetryAnswer>;
  }

  /** Deliver a window once more, or move the live reader with `position` or `since` alone. `dry_run` only counts. */
  replay(subscriptionId: string, window: Record<string, unknown>): Promise<ReplayAnswer> {
    return this.#do(subscriptionId, ["replay"], { body: window }) as Promise<ReplayAnswer>;
  }

  replays(subscriptionId: string): AsyncGenerator<Replay> {
    return pages<Replay>(this.http, path("subscriptions", subscriptionId, "replays"), {});
  }

  showReplay(subscriptionId: string, replayId: string): Promise<Replay> {
    return this.http.ask(reading(path("subscriptions", subscriptionId, "replays", replayId))) as Promise<Replay>;
  }

  stopReplay(subscriptionId: string, replayId: string): Promise<Replay> {
    return this.#do(subscriptionId, ["replays", replayId, "stop"], { repeatable: true }) as Promise<Replay>;
  }

  #do(subscriptionId: string, verb: string[], more: Partial<Asked> = {}): Promise<unknown> {
    return this.http.ask({ method: "POST", path: path("subscriptions", subscriptionId, ...verb), ...more });
  }
}

/** An answer of Aircall's. `data` is its JSON; iterating yields the items of a list, of every page. */
export class AircallAnswer<Data = unknown> implements AsyncIterable<unknown> {
  constructor(
    readonly data: Data,
    private readonly following: (query: Query) => Promise<AircallAnswer>,
    private readonly query: Query,
  ) {}

  async *[Symbol.asyncIterator](): AsyncGenerator<unknown> {
    yield* itemsOf(this.data);
    let [data, query]: [unknown, Query] = [this.data, this.query];
    for (let next = nextPage(data, query); next !== undefined; next = nextPage(data, query)) {
      if (JSON.stringify(next) === JSON.stringify(query)) return;
      query = next;
      data = (await this.following(query)).data;
      yield* itemsOf(data);
    }
  }
}

/**
 * One installation's Aircall. A path is Aircall's: `calls`, `users/42`.
 * Aircall's own errors are `AircallError`; those of the service have a `code`. 429 is waited for.
 */
export class Aircall {
  constructor(
    readonly http: Http,
    readonly installationId: string,
  ) {}

  /** Read. Iterate over the answer to follow the pages of a list. `Data` is what you expect in it; it is not checked. */
  async get<Data = unknown>(to: string, query: Query = {}): Promise<AircallAnswer<Data>> {
    const data = (await this.ask("GET", to, { query })) as Data;
    return new AircallAnswer(data, (next) => this.get(to, next), query);
  }

  post(to: string, body?: unknown, query: Query = {}): Promise<unknown> {
    return this.ask("POST", to, { body, query });
  }

  put(to: string, body?: unknown, query: Query = {}): Promise<unknown> {
    return this.ask("PUT", to, { body, query });
  }

  patch(to: string, body?: unknown, query: Query = {}): Promise<unknown> {
    return this.ask("PATCH", to, { body, query });
  }

  delete(to: string, body?: unknown, query: Query = {}): Promise<unknown> {
    return this.ask("DELETE", to, { body, query });
  }

  /** Send any method; returns the JSON of the answer, or its text. */
  ask(method: string, to: string, sent: { body?: unknown; query?: Query } = {}): Promise<unknown> {
    const segments = to.replace(/^\/+|\/+$/g, "").split("/");
    const repeatable = method === "GET" || method === "HEAD";
    return this.http.ask({
      method,
      path: path("installations", this.installationId, "aircall", ...segments),
      repeatable,
      ofAircall: true,
      ...sent,
    });
  }
}

/** What came of a customer's connection. */
export interface Home {
  installation: Installation | undefined;
  /** Why nothing is connected, in one word of the service's. */
  error: string;
  /** The reference that support asks for. */
  attempt: string;
  /** The same address is worth another try. */
  reload: boolean;
}

/**
 * Say what came of a customer's connection, from the query that the browser came home with. Right for a reload and the
 * back button too: without a claim that is still good, it is what is connected that counts.
 */
export async function wayHome(client: Client, owner: string, query: URLSearchParams): Promise<Home> {
  const [claim, error, attempt] = ["claim", "error", "attempt"].map((name) => (query.get(name) ?? "").slice(0, 512)) as [
    string,
    string,
    string,
  ];
  if (error !== "") return { installation: undefined, error, attempt, reload: false };
  if (claim !== "") {
    try {
      return { installation: await client.claims.claim(claim, owner), error: "", attempt, reload: false };
    } catch (refused) {
      if (refused instanceof ConnectionLost || refused instanceof Unavailable || refused instanceof TooManyRequests) {
        return { installation: undefined, error: "try_again", attempt, reload: true };
      }
      if (!(refused instanceof ServiceError)) throw refused;
      if (!(refused instanceof ClaimNotFound)) {
        return { installation: undefined, error: refused.code, attempt, reload: false };
      }
    }
  }
  // An owner may have several companies: the one that came last is what this browser has just connected.
  let newest: Installation | undefined;
  for await (const one of client.installations.list({ owner, status: "active" })) {
    if (newest === undefined || Date.parse(one.connected_at) > Date.parse(newest.connected_at)) newest = one;
  }
  if (newest !== undefined) return { installation: newest, error: "", attempt, reload: false };
  return { installation: undefined, error: "not_connected", attempt, reload: false };
}

function alike(one: string[], another: string[]): boolean {
  return stringify([...one].sort()) === stringify([...another].sort());
}

function reading(to: string, query: Query = {}): Asked {
  return { method: "GET", path: to, query, repeatable: true };
}

async function* pages<Item>(http: Http, to: string, query: Query): AsyncGenerator<Item> {
  for (let cursor: unknown = undefined; ; ) {
    const page = (await http.ask(reading(to, { ...query, cursor }))) as { items: Item[]; next: unknown };
    yield* page.items;
    if (page.next === null) return;
    cursor = page.next;
  }
}

function itemsOf(data: unknown): unknown[] {
  const lists = typeof data === "object" && data !== null ? Object.values(data).filter(Array.isArray) : [];
  if (lists.length !== 1) throw new ClientError("This answer of Aircall's is not a list; use its `data`");
  return lists[0] as unknown[];
}

function nextPage(data: unknown, query: Query): Query | undefined {
  const link = (data as { meta?: { next_page_link?: unknown } } | null)?.meta?.next_page_link;
  if (typeof link !== "string" || !URL.canParse(link)) return undefined;
  const next = Object.fromEntries(new URL(link).searchParams);
  return Object.keys(next).length > 0 ? { ...query, ...next } : undefined;
}

async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const whole = rest.split("\n");
      rest = whole.pop() ?? "";
      yield* whole;
    }
  } finally {
    reader.releaseLock();
  }
}
