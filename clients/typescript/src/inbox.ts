// Takes deliveries: verified, once each, handed to your function, and answered so that the service does the rest.
//
// The service is the queue: it repeats what was not answered 2xx for three days. So a function runs before the answer,
// and one that throws makes the service try again. Keep it under ten seconds; what takes longer goes into a queue of yours.

import { HandlerFailed, SignatureInvalid } from "./errors.js";
import { header, verify, type HeadersLike } from "./signatures.js";
import type {
  CallAnsweredEvent,
  CallCreatedEvent,
  CallEndedEvent,
  CallHungupEvent,
  CallRingingOnAgentEvent,
  CallTaggedEvent,
  CallVoicemailLeftEvent,
  ContactCreatedEvent,
  ContactUpdatedEvent,
  Event,
  MessageReceivedEvent,
} from "./types.js";

// A method's parameter may be narrower than that of the type it stands for.
type Taking<E> = { take(event: E): unknown }["take"];
export type Handler = Taking<Event>;

/** Functions by event type: `call.ended`, `call.*`, `*`; every one that fits is called. */
export interface Handlers {
  "call.answered"?: Taking<CallAnsweredEvent>;
  "call.created"?: Taking<CallCreatedEvent>;
  "call.ended"?: Taking<CallEndedEvent>;
  "call.hungup"?: Taking<CallHungupEvent>;
  "call.ringing_on_agent"?: Taking<CallRingingOnAgentEvent>;
  "call.tagged"?: Taking<CallTaggedEvent>;
  "call.voicemail_left"?: Taking<CallVoicemailLeftEvent>;
  "contact.created"?: Taking<ContactCreatedEvent>;
  "contact.updated"?: Taking<ContactUpdatedEvent>;
  "message.received"?: Taking<MessageReceivedEvent>;
  [type: string]: Handler | undefined;
}

/** Whether a delivery is new; your handler keeps its id, in its own transaction. */
export type IsNew = (delivery: string) => boolean | Promise<boolean>;

/** Remembers which deliveries were dealt with, for every process of yours. */
export interface Seen {
  /** "new": deal with it now. "busy": another process is at it. */
  begin(delivery: string): Promise<"new" | "busy" | "done">;
  /** It was dealt with. */
  finish(delivery: string): Promise<void>;
  /** It failed: the next try begins anew. */
  forget(delivery: string): Promise<void>;
}

/** A process that took an event and died leaves it to the next delivery after this long. */
export const LEASE_MS = 60_000;
/** The service repeats nothing that is older. */
export const KEPT_MS = 35 * 24 * 3600 * 1000;
const BUSY_SECONDS = 5;
export const MAX_BODY_BYTES = 2 * 1024 * 1024;

const TABLE =
  "CREATE TABLE IF NOT EXISTS aircall_seen (delivery varchar(255) PRIMARY KEY, at bigint NOT NULL, done integer NOT NULL)";
const TAKE =
  "INSERT INTO aircall_seen (delivery, at, done) VALUES ($1, $2, 0) ON CONFLICT (delivery) DO UPDATE " +
  "SET at = excluded.at WHERE aircall_seen.done = 0 AND aircall_seen.at < $3";
const DONE = "SELECT done FROM aircall_seen WHERE delivery = $1";
const FINISH = "UPDATE aircall_seen SET done = 1 WHERE delivery = $1";
const FORGET = "DELETE FROM aircall_seen WHERE delivery = $1 AND done = 0";
const CLEAN = "DELETE FROM aircall_seen WHERE at < $1";

interface Result {
  changed: number;
  rows: Array<{ done?: unknown }>;
}

class SqlSeen implements Seen {
  #ready: Promise<unknown> | undefined;

  constructor(private readonly run: (statement: string, values: unknown[]) => Promise<Result>) {}

  async begin(delivery: string): Promise<"new" | "busy" | "done"> {
    this.#ready ??= this.#prepare().catch((error: unknown) => {
      this.#ready = undefined;
      throw error;
    });
    await this.#ready;
    const now = Date.now();
    if ((await this.run(TAKE, [delivery, now, now - LEASE_MS])).changed > 0) return "new";
    const [row] = (await this.run(DONE, [delivery])).rows;
    return row !== undefined && Number(row.done) === 0 ? "busy" : "done";
  }

  async finish(delivery: string): Promise<void> {
    await this.run(FINISH, [delivery]);
  }

  async forget(delivery: string): Promise<void> {
    await this.run(FORGET, [delivery]);
  }

  async #prepare(): Promise<void> {
    try {
      await this.run(TABLE, []);
    } catch {
      await this.run(TABLE, []); // another process made it at the same moment
    }
    await this.run(CLEAN, [Date.now() - KEPT_MS]);
  }
}

/** In a table of PostgreSQL, for any number of processes: `postgresSeen(new pg.Pool())`. */
export function postgresSeen(pool: {
  query(statement: string, values: unknown[]): Promise<{ rowCount: number | null; rows: Array<{ done?: unknown }> }>;
}): Seen {
  return new SqlSeen(async (statement, values) => {
    const { rowCount, rows } = await pool.query(statement, values);
    return { changed: rowCount ?? 0, rows };
  });
}

/** In a SQLite file, for the processes of one machine: `node:sqlite`'s `DatabaseSync`, or `better-sqlite3`. */
export function sqliteSeen(database: {
  prepare(statement: string): {
    run(...values: never[]): { changes: number | bigint };
    all(...values: never[]): unknown[];
  };
}): Seen {
  return new SqlSeen(async (statement, values) => {
    const prepared = database.prepare(statement.replaceAll(/\$\d/g, "?"));
    if (statement.startsWith("SELECT")) return { changed: 0, rows: prepared.all(...(values as never[])) as Result["rows"] };
    return { changed: Number(prepared.run(...(values as never[])).changes), rows: [] };
  });
}

/** In this process only, for a first try: a restart forgets, and so may handle a repeat again. */
export function memorySeen(): Seen {
  const known = new Map<string, "busy" | "done">();
  return {
    begin: async (delivery) => {
      const status = known.get(delivery);
      if (status === undefined) known.set(delivery, "busy");
      if (known.size > 100_000) known.delete(known.keys().next().value ?? "");
      return status ?? "new";
    },
    finish: async (delivery) => void known.set(delivery, "done"),
    forget: async (delivery) => void known.delete(delivery),
  };
}

export interface InboxOptions {
  /** Those of your subscriptions: the old and the new one while you rotate. */
  secrets: string | readonly string[];
  on: Handlers;
  /** A memory, or a function that says whether a delivery is new. */
  seen: Seen | IsNew;
}

export interface Taken {
  status: 204 | 401 | 503;
  headers: Record<string, string>;
}

/** Takes deliveries. A replay that you asked for is handed over again; a repeated delivery is not. */
export class Inbox {
  readonly #secrets: readonly string[];
  readonly #on: Array<[RegExp, Handler]>;
  readonly #seen: Seen;

  constructor(options: InboxOptions) {
    this.#secrets = typeof options.secrets === "string" ? [options.secrets] : options.secrets;
    if (this.#secrets.length === 0 || this.#secrets.some((secret) => secret === "")) {
      throw new TypeError("An inbox needs the secret of its subscription (whsec_…)");
    }
    const given = Object.entries(options.on).filter((one): one is [string, Handler] => one[1] !== undefined);
    this.#on = given.map(([pattern, handler]) => [patternOf(pattern), handler]);
    this.#seen = typeof options.seen === "function" ? asked(options.seen) : options.seen;
  }

  /** Deal with a delivery and return what to answer. Throws `HandlerFailed` if your function throws: answer 500. */
  async take(headers: HeadersLike, body: Uint8Array | string): Promise<Taken> {
    let event: Event;
    try {
      event = verify(headers, body, this.#secrets);
    } catch (error) {
      if (!(error instanceof SignatureInvalid)) throw error;
      console.warn(`aircall-oauth-client: a delivery was refused: ${error.message}`);
      return { status: 401, headers: {} };
    }
    const delivery = deliveryOf(event, headers);
    const begun = await this.#seen.begin(delivery);
    if (begun === "busy") return { status: 503, headers: { "retry-after": String(BUSY_SECONDS) } };
    if (begun === "new") await this.#handOver(event, delivery);
    return { status: 204, headers: {} };
  }

  async #handOver(event: Event, delivery: string): Promise<void> {
    try {
      for (const [pattern, handler] of this.#on) {
        if (pattern.test(event.type)) await handler(event);
      }
    } catch (error) {
      await this.#seen.forget(delivery);
      const name = error instanceof Error ? error.name : typeof error;
      throw new HandlerFailed(`The function for ${event.type} failed: ${name}`, { cause: error });
    }
    await this.#seen.finish(delivery);
  }
}

function patternOf(pattern: string): RegExp {
  const escaped = pattern.replaceAll(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*");
  return new RegExp(`^${escaped}$`);
}

function deliveryOf(event: Event, headers: HeadersLike): string {
  const replay = header(headers, "webhook-replay");
  // An event that is sent once more by hand may be sent so any number of times.
  const again = replay === "resend" ? `resend-${header(headers, "webhook-timestamp")}` : replay;
  return (again === "" ? event.id : `${event.id}@${again}`).slice(0, 255);
}

function asked(isNew: IsNew): Seen {
  return {
    begin: async (delivery) => ((await isNew(delivery)) ? "new" : "done"),
    finish: async () => undefined,
    forget: async () => undefined,
  };
}
