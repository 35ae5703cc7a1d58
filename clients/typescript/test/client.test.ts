// How the client asks: repeated where that is safe, patient as told, paged, resumed; and how an inbox takes.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, stat, utimes, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import express from "express";

import { connectRoutes as expressRoutes, receiver as expressReceiver } from "../src/express.js";
import { connectRoutes, receiver } from "../src/fetch.js";
import {
  AircallError,
  Client,
  ConnectionLost,
  folderSeen,
  Inbox,
  HandlerFailed,
  memorySeen,
  parse,
  PositionGone,
  stringify,
  SubscriptionDiffers,
  TooManyRequests,
  Unavailable,
  wayHome,
  type Event,
} from "../src/index.js";

type Step = Response | Error;

function scripted(...steps: Step[]) {
  const asked: Array<{ method: string; url: URL; body: string | undefined; headers: Headers }> = [];
  const pauses: number[] = [];
  const fetching: typeof globalThis.fetch = async (input, init) => {
    const body = typeof init?.body === "string" ? init.body : undefined;
    asked.push({ method: init?.method ?? "GET", url: new URL(String(input)), body, headers: new Headers(init?.headers) });
    const step = steps.shift();
    if (step === undefined) throw new Error("nothing more is scripted");
    if (step instanceof Error) throw step;
    return step;
  };
  const sleep = async (seconds: number): Promise<void> => void pauses.push(seconds);
  const client = (patience = 60): Client =>
    new Client("https://service.example.com/base/", "aok_key", { fetch: fetching, sleep, patience });
  return { asked, pauses, client };
}

const json = (body: unknown, status = 200): Response =>
  new Response(stringify(body), { status, headers: { "content-type": "application/json" } });

function problem(status: number, code: string, more: Record<string, unknown> = {}, retryAfter?: number): Response {
  const headers: Record<string, string> = { "content-type": "application/problem+json" };
  if (retryAfter !== undefined) headers["retry-after"] = String(retryAfter);
  return new Response(JSON.stringify({ code, status, detail: "…", ...more }), { status, headers });
}

const broken = new TypeError("fetch failed");
const INSTALLATION = { id: "ins_1", company_name: "Northwind <Ltd>" };

test("a claim is repeated where the connection broke", async () => {
  const { asked, pauses, client } = scripted(broken, problem(503, "database_away", {}, 2), json(INSTALLATION));

  assert.equal((await client().claims.claim("c", "acme")).id, "ins_1");
  assert.deepEqual(new Set(asked.map((one) => one.body)), new Set(['{"claim":"c","owner":"acme"}']));
  assert.equal(asked[0]?.headers.get("authorization"), "Bearer aok_key");
  assert.equal(pauses[1], 2);
});

test("what may change something twice is not repeated", async () => {
  for (const [step, kind] of [[broken, ConnectionLost], [problem(503, "database_away"), Unavailable]] as const) {
    const { asked, client } = scripted(step);
    await assert.rejects(client().events.resend("evt_1", "sub_1"), kind);
    assert.equal(asked.length, 1);
  }
});

test("what Aircall was not asked for is asked again, until patience ends", async () => {
  const once = scripted(problem(429, "budget_spent", {}, 13), json({ contact: {} }, 201));
  assert.deepEqual(await once.client().aircall("ins_1").post("contacts", { first_name: "Ada" }), { contact: {} });
  assert.deepEqual(once.pauses, [13]);

  const often = scripted(...Array.from({ length: 4 }, () => problem(429, "budget_spent", {}, 25)));
  await assert.rejects(often.client(60).aircall("ins_1").get("calls"), TooManyRequests);
  assert.deepEqual(often.pauses, [25, 25]);
});

test("Aircall's own error is no error of the service", async () => {
  const { client } = scripted(json({ error: "Not found", code: "x" }, 404));

  await assert.rejects(client().aircall("ins_1").get("calls/1"), (error) => {
    assert.ok(error instanceof AircallError);
    assert.deepEqual([error.status, error.data], [404, { error: "Not found", code: "x" }]);
    return true;
  });
});

test("the pages of a list are followed, and a path is encoded but for its slashes", async () => {
  const page = (number: number, more: boolean): Response =>
    json({
      meta: { next_page_link: more ? `https://api.aircall.io/v1/calls?page=${number + 1}&per_page=2` : null },
      calls: [{ id: number }],
    });
  const { asked, client } = scripted(page(1, true), problem(429, "budget_spent", {}, 1), page(2, true), page(3, false));

  const found: unknown[] = [];
  for await (const call of await client().aircall("ins_1").get("a b/é", { per_page: 2, order: "desc" })) found.push(call);

  assert.deepEqual(found, [{ id: 1 }, { id: 2 }, { id: 3 }]);
  assert.deepEqual(
    asked.map((one) => one.url.searchParams.get("page")),
    [null, "2", "2", "3"],
  );
  assert.ok(asked.every((one) => one.url.searchParams.get("order") === "desc"));
  assert.equal(asked[0]?.url.pathname, "/base/v1/installations/ins_1/aircall/a%20b/%C3%A9");
});

const events = (positions: number[], next: number, more = false): Response =>
  json({ events: positions.map((n) => ({ id: `evt_${n}`, position: n, type: "call.ended" })), next, more, epoch: "log_1" });

test("the log is followed over dropped connections and saved behind each event", async () => {
  const away = Array.from({ length: 12 }, () => broken);
  const { asked, pauses, client } = scripted(events([1, 2], 5), broken, ...away, events([7], 7));
  const saved: unknown[] = [];
  const seen: unknown[] = [];

  for await (const event of client(0).events.follow(0, { save: (...told) => saved.push(told) })) {
    seen.push([event.position, saved.length]);
    if (event.position === 7) break;
  }

  assert.deepEqual(seen, [[1, 0], [2, 1], [7, 3]]);
  assert.deepEqual(saved, [[1, "log_1"], [2, "log_1"], [5, "log_1"]]);
  assert.equal(asked.at(-1)?.url.searchParams.get("after"), "5");
  assert.equal(asked.at(-1)?.url.searchParams.get("epoch"), "log_1");
  assert.ok(Math.max(...pauses) <= 30);
});

test("a position that is gone is an error that names the oldest", async () => {
  const { client } = scripted(problem(410, "position_gone", { oldest: 4000 }));

  await assert.rejects(client().events.follow(7).next(), (error) => error instanceof PositionGone && error.oldest === 4000);
});

test("a search goes back to the end, and a large position is not rounded", async () => {
  const large = new Response('{"events":[],"next":9007199254740993,"more":true,"epoch":"log_1"}', {
    headers: { "content-type": "application/json" },
  });
  const { asked, client } = scripted(events([9, 8], 8, true), large, events([3], 3));

  const found: unknown[] = [];
  for await (const event of client().events.search({ type: ["call.*", "user.*"], call_id: 9007199254740995n })) {
    found.push(event.position);
  }

  assert.deepEqual(found, [9, 8, 3]);
  assert.deepEqual(
    asked.map((one) => one.url.searchParams.get("before")),
    [null, "8", "9007199254740993"],
  );
  assert.equal(asked[0]?.url.searchParams.get("call_id"), "9007199254740995");
  assert.deepEqual(asked[0]?.url.searchParams.getAll("type"), ["call.*", "user.*"]);
});

test("a subscription is made once, and changed where it differs", async () => {
  const crm = { id: "sub_1", name: "crm", kind: "http", url: "https://crm.example.com/", types: ["call.*"], owners: [] };
  const listed = json({ items: [crm, { ...crm, id: "sub_2", owners: ["acme"] }], next: null });
  const { asked, client } = scripted(broken, json(crm, 201), problem(409, "subscription_differs"), listed, json(crm));
  const { subscriptions } = client();

  await subscriptions.ensure("crm", "https://crm.example.com/", { types: ["call.*"], from: "beginning" });
  await subscriptions.ensure("crm", "https://new.example.com/", { types: ["call.*"], owners: ["acme"] });

  assert.deepEqual(
    asked.map((one) => one.method),
    ["POST", "POST", "POST", "GET", "PATCH"],
  );
  assert.match(asked[0]?.body ?? "", /"ensure":true/);
  assert.equal(asked[0]?.headers.get("idempotency-key"), asked[1]?.headers.get("idempotency-key"));
  assert.match(asked[4]?.url.pathname ?? "", /sub_2$/);
  assert.equal(asked[4]?.body, '{"url":"https://new.example.com/"}');

  const other = scripted(problem(409, "subscription_differs"), json({ items: [{ ...crm, kind: "nats" }], next: null }));
  await assert.rejects(other.client().subscriptions.ensure("crm", "https://crm.example.com/"), SubscriptionDiffers);
});

test("JSON loses no digit and mistakes no text for a number", () => {
  const text = '{"a":9223372036854775807,"b":[-9007199254740993,1.5,1e300],"c":"9223372036854775807","d":"bigint:9"}';
  const read = parse(text) as { a: unknown; b: unknown[]; c: unknown; d: unknown };

  assert.deepEqual(read, { a: 9223372036854775807n, b: [-9007199254740993n, 1.5, 1e300], c: "9223372036854775807", d: "bigint:9" });
  assert.equal(stringify(read), text.replace("1e300", "1e+300"));
  assert.throws(() => parse('{"a": 92233720368547758070'), SyntaxError);
});

const SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

function delivery(number = 1, type = "call.ended", more: Record<string, string> = {}) {
  const body = JSON.stringify({ id: `evt_${number}`, position: number, type, data: {} });
  const timestamp = String(Math.floor(Date.now() / 1000));
  const key = Buffer.from(SECRET.slice(6), "base64");
  const made = createHmac("sha256", key).update(`evt_${number}.${timestamp}.${body}`).digest("base64");
  const headers: Record<string, string> = {
    "webhook-id": `evt_${number}`,
    "webhook-timestamp": timestamp,
    "webhook-signature": `v1,${made}`,
    "content-type": "application/json",
    ...more,
  };
  return { headers, body };
}

test("an inbox takes each delivery once, and a replay again", async () => {
  const handled: string[] = [];
  const seen = memorySeen();
  const on = { "call.*": (event: Event) => handled.push(event.id), other: () => assert.fail() };
  const [one, another] = [new Inbox({ secrets: SECRET, on, seen }), new Inbox({ secrets: ["whsec_AAAA", SECRET], on, seen })];

  for (const inbox of [one, another]) {
    for (const { headers, body } of [delivery(1), delivery(2), delivery(1, "call.ended", { "webhook-replay": "rpl_1" })]) {
      assert.equal((await inbox.take(headers, body)).status, 204);
    }
  }
  const { headers, body } = delivery(3);

  assert.deepEqual(handled, ["evt_1", "evt_2", "evt_1"]);
  assert.equal((await one.take(headers, `${body} `)).status, 401);
});

test("what failed comes again, and what another process is at is put off", async () => {
  let failures = 1;
  const seen = memorySeen();
  const handled: string[] = [];
  const inbox = new Inbox({
    secrets: SECRET,
    seen,
    on: {
      "*": async (event) => {
        if (failures-- > 0) throw new Error("not now");
        handled.push(event.id);
      },
    },
  });
  const [first, second] = [delivery(1), delivery(2)];

  await assert.rejects(inbox.take(first.headers, first.body), (error) => error instanceof HandlerFailed && /not now/.test(String(error.cause)));
  assert.equal((await inbox.take(first.headers, first.body)).status, 204);
  await seen.begin("evt_2");
  assert.deepEqual(await inbox.take(second.headers, second.body), { status: 503, headers: { "retry-after": "5" } });
  assert.deepEqual(handled, ["evt_1"]);
});

test("a function may say what is new, and a secret is needed", async () => {
  const handled: string[] = [];
  const on = { "*": (event: Event) => handled.push(event.id) };
  const inbox = new Inbox({ secrets: SECRET, on, seen: async (id) => id !== "evt_1" });

  for (const number of [1, 2]) {
    const { headers, body } = delivery(number);
    await inbox.take(headers, body);
  }

  assert.deepEqual(handled, ["evt_2"]);
  assert.throws(() => new Inbox({ secrets: [], on, seen: memorySeen() }), /secret/);
  assert.throws(() => new Inbox({ secrets: "", on, seen: memorySeen() }), /secret/);
});

const connecting = () =>
  scripted(
    json({ url: "https://service.example.com/aircall/oauth/install?link=x" }, 201),
    json(INSTALLATION),
    json({ items: [INSTALLATION], next: null }),
    problem(403, "claim_of_another"),
    problem(404, "claim_not_found"),
    json({ items: [], next: null }),
    problem(503, "database_away", {}, 90),
  );

async function walk(get: (path: string) => Promise<Response>): Promise<void> {
  const away = await get("/aircall/connect");
  assert.deepEqual([away.status, away.headers.get("location")], [303, "https://service.example.com/aircall/oauth/install?link=x"]);
  const home = await get("/aircall/connected?claim=c");
  assert.deepEqual([home.status, home.headers.get("location")], [303, "/aircall/connected"]);
  const reloaded = await get("/aircall/connected");
  assert.equal(reloaded.status, 200);
  assert.match(await reloaded.text(), /Northwind &lt;Ltd&gt; is connected/);
  const another = await get("/aircall/connected?claim=c");
  assert.deepEqual([another.status, /claim_of_another/.test(await another.text())], [409, true]);
  const stale = await get("/aircall/connected?claim=c");
  assert.deepEqual([stale.status, /not_connected/.test(await stale.text())], [409, true]);
  const outage = await get("/aircall/connected?claim=c");
  assert.deepEqual([outage.status, /reload this page/.test(await outage.text())], [503, true]);
  const declined = await get("/aircall/connected?error=declined&attempt=%3Cb%3E7KQ2MXNP");
  const page = await declined.text();
  assert.equal(declined.status, 409);
  assert.match(page, /was declined.*&lt;b&gt;7KQ2MXNP/);
  assert.equal(declined.headers.get("cache-control"), "no-store");
}

test("the handlers of the Fetch API send a customer away and take them home", async () => {
  const routes = connectRoutes(connecting().client(), { owner: () => "acme" });
  await walk((path) => {
    const request = new Request(`https://app.example.com${path}`);
    return path.startsWith("/aircall/connected") ? routes.connected(request) : routes.connect(request);
  });

  const turnedAway = connectRoutes(connecting().client(), { owner: () => new Response(null, { status: 401 }) });
  assert.equal((await turnedAway.connect(new Request("https://app.example.com/aircall/connect"))).status, 401);
});

test("the receiver of the Fetch API", async () => {
  const handled: string[] = [];
  const take = receiver({ secrets: SECRET, on: { "*": (event) => handled.push(event.id) }, seen: memorySeen() });
  const { headers, body } = delivery();
  const post = (sent: string, more: Record<string, string> = {}): Promise<Response> =>
    take(new Request("https://app.example.com/", { method: "POST", headers: { ...headers, ...more }, body: sent }));

  assert.deepEqual([(await post(body)).status, (await post(body)).status, (await post(`${body} `)).status], [204, 204, 401]);
  assert.equal((await post(body, { "content-length": "3000000" })).status, 413);
  assert.deepEqual(handled, ["evt_1"]);
});

async function listening(server: Server): Promise<string> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test("the handlers of Express", async () => {
  const handled: string[] = [];
  const app = express();
  app.use(expressRoutes(connecting().client(), { owner: () => "acme" }));
  app.use(expressReceiver({ secrets: SECRET, on: { "*": (event) => handled.push(event.id) }, seen: memorySeen() }));
  app.use(express.json());
  app.get("/aircall/other", (_request, response) => void response.send("mine"));
  const server = createServer(app);
  const url = await listening(server);
  const { headers, body } = delivery();
  const post = (sent: string): Promise<Response> => fetch(`${url}/aircall/events`, { method: "POST", headers, body: sent });

  try {
    await walk((path) => fetch(url + path, { redirect: "manual" }));
    assert.deepEqual([(await post(body)).status, (await post(body)).status, (await post(`${body} `)).status], [204, 204, 401]);
    assert.equal((await post("x".repeat(2 * 1024 * 1024 + 1)).catch(() => ({ status: 413 }))).status, 413);
    assert.equal(await (await fetch(`${url}/aircall/other`)).text(), "mine");
  } finally {
    server.closeAllConnections();
    server.close();
  }
  assert.deepEqual(handled, ["evt_1"]);
});

test("a body that was parsed before is an error that says what to do", async () => {
  const said: unknown[] = [];
  const app = express();
  app.use(express.json());
  app.use(expressReceiver({ secrets: SECRET, on: {}, seen: memorySeen() }));
  app.use((error: Error, _request: express.Request, response: express.Response, _next: express.NextFunction) => {
    said.push(error.message);
    response.sendStatus(500);
  });
  const server = createServer(app);
  const url = await listening(server);
  const { headers, body } = delivery();

  await fetch(`${url}/aircall/events`, { method: "POST", headers, body });
  server.closeAllConnections();
  server.close();

  assert.match(String(said[0]), /express\.raw/);
});

test("what a function throws is a 500, whatever status it has", async () => {
  const gone = (): void => {
    throw Object.assign(new Error("gone"), { status: 410 });
  };
  const app = express();
  app.use(expressReceiver({ secrets: SECRET, on: { "*": gone }, seen: memorySeen() }));
  app.use((error: Error, _request: express.Request, _response: express.Response, next: express.NextFunction) => {
    assert.ok(error instanceof HandlerFailed);
    assert.equal((error.cause as Error).message, "gone");
    next(Object.assign(error, { stack: "" })); // not printed
  });
  const server = createServer(app);
  const url = await listening(server);
  const { headers, body } = delivery();

  const answer = await fetch(`${url}/aircall/events`, { method: "POST", headers, body });
  server.closeAllConnections();
  server.close();

  assert.equal(answer.status, 500);
});

const temporary = (): Promise<string> => mkdtemp(join(tmpdir(), "aircall-oauth-client-"));

test("a folder remembers over a restart, lets one process begin, and takes over from one that died", async () => {
  const folder = join(await temporary(), "seen");
  const [one, another] = [folderSeen(folder), folderSeen(folder)];

  const begun = await Promise.all([one, another, folderSeen(folder)].map((seen) => seen.begin("evt_1")));
  assert.deepEqual(begun.sort(), ["busy", "busy", "new"]);
  await one.finish("evt_1");
  assert.equal(await folderSeen(folder).begin("evt_1"), "done");

  assert.equal(await one.begin("evt_2"), "new");
  await one.forget("evt_2");
  assert.equal(await another.begin("evt_2"), "new");

  const before = new Date(Date.now() - 61_000);
  for (const name of await readdir(folder)) await utimes(join(folder, name), before, before);
  assert.deepEqual([await one.begin("evt_2"), await another.begin("evt_2")], ["new", "busy"]);
  assert.equal(await one.begin("evt_1"), "done");
});

test("what is too old to be repeated is deleted from the folder", async () => {
  const folder = await temporary();
  await writeFile(join(folder, "old"), "done");
  await utimes(join(folder, "old"), new Date(0), new Date(0));

  await folderSeen(folder).begin("evt_1");

  assert.equal((await readdir(folder)).length, 1);
});

test("a secret is kept for the next start, and made anew where it was not kept", async () => {
  const file = join(await temporary(), "secret.json");
  const made = scripted(json({ id: "sub_1", secret: "whsec_one" }, 201), json({ id: "sub_1" }));
  const secret = (client: Client): Promise<string> => client.subscriptions.secret("crm", "https://a.example.com", { file });

  assert.equal(await secret(made.client()), "whsec_one");
  assert.equal(await secret(made.client()), "whsec_one");
  assert.equal((await stat(file)).mode & 0o077, 0);
  assert.equal(made.asked[0]?.body?.includes("secret.json"), false);

  for (const kept of ["{", "null", '{"sub_2": "whsec_other"}']) {
    await writeFile(file, kept);
    const lost = scripted(json({ id: "sub_1" }), json({ secret: "whsec_new" }));
    assert.equal(await secret(lost.client()), "whsec_new");
    assert.deepEqual(JSON.parse(await readFile(file, "utf8")), { sub_1: "whsec_new" });
  }
});

test("a variable that is not set, a service that is not there, and a wrong key say what to do", async () => {
  assert.throws(() => new Client("", "aok_key"), /address/);
  assert.throws(() => new Client("service.example.com", "aok_key"), /address/);
  assert.throws(() => new Client("https://service.example.com", ""), /API key/);
  const away = new Client("http://127.0.0.1:2", "aok_key", { patience: 0 });
  await assert.rejects(away.installLinks.create("acme"), /ECONNREFUSED.* Is http:\/\/127\.0\.0\.1:2 the service's address/);
  await assert.rejects(scripted(problem(401, "unauthenticated")).client().installations.get("ins_1"), /keys list/);
});

test("an owner of two companies comes home to the one that was connected last", async () => {
  const [old, recent] = ["2026-01-01T10:00:00Z", "2026-01-02T10:00:00Z"].map((at) => ({ id: at, connected_at: at }));
  const { client } = scripted(json({ items: [recent], next: "more" }), json({ items: [old], next: null }));

  assert.equal((await wayHome(client(), "acme", new URLSearchParams())).installation?.id, recent?.id);
});
