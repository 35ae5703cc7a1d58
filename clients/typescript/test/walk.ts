// Asks the real service for everything once; `tests/clients/test_typescript_client.py` runs it, and compares with the document.

import assert from "node:assert/strict";

import {
  ClaimNotFound,
  Client,
  ClientError,
  InvalidRequest,
  Unauthenticated,
  type Event,
  type Replay,
  type SubscriptionCreated,
} from "../src/index.js";

function setting(name: string): string {
  const value = process.env[name];
  assert.ok(value, `${name} is needed`);
  return value;
}

const url = setting("SERVICE_URL");
const hook = setting("HOOK_URL");
const client = new Client(url, setting("API_KEY"));

async function all<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const found: Item[] = [];
  for await (const item of items) found.push(item);
  return found;
}

async function first<Item>(items: AsyncIterable<Item>): Promise<Item> {
  for await (const item of items) return item;
  assert.fail("there is nothing");
}

async function whatever(asked: Promise<unknown>): Promise<void> {
  await asked.catch((error: unknown) => assert.ok(error instanceof ClientError, String(error)));
}

assert.deepEqual([await client.live(), await client.ready()], [true, true]);
const link = await client.installLinks.create("acme");
assert.equal((await client.installAttempts.get(link.attempt_id)).id, link.attempt_id);
assert.ok((await all(client.installAttempts.list({ owner: "acme" }))).some((one) => one.id === link.attempt_id));
const installation = await client.claims.claim(setting("CLAIM"), "acme");
assert.equal((await client.claims.claim(setting("CLAIM"), "acme")).id, installation.id);
await assert.rejects(client.claims.claim("x".repeat(43), "acme"), ClaimNotFound);
assert.equal((await client.installations.get(installation.id)).status, "active");
assert.equal((await first(client.installations.list({ owner: "acme", status: "active" }))).id, installation.id);
assert.ok((await client.installations.check(installation.id)).healthy);
assert.equal((await client.installations.token(installation.id)).token_type, "Bearer");

const aircall = client.aircall(installation);
assert.deepEqual((await aircall.get("ping")).data, { ping: "pong" });
assert.ok(Array.isArray(await all(await aircall.get("calls", { per_page: 20 }))));
// What it answers to these does not matter here: they reach the operation.
await whatever(aircall.post("no/1", {}));
await whatever(aircall.put("no/1", {}));
await whatever(aircall.patch("no/1"));
await whatever(aircall.delete("no/1"));
for (const method of ["HEAD", "OPTIONS"]) await whatever(aircall.ask(method, "calls"));

const { events, subscriptions } = client;
const beginning = (await events.page(0, { limit: 1 })).events[0] as Event;
assert.equal((await first(events.stream())).id, beginning.id);
assert.equal((await first(events.follow())).id, beginning.id);
assert.ok((await all(events.search({ type: "*" }))).some((event) => event.id === beginning.id));
assert.deepEqual((await events.get(beginning.id)).deliveries, []);
const call = await first(events.search({ call_id: 9223372036854775807n }));
assert.equal((call.data as { id: unknown }).id, 9223372036854775807n);

const made = (await subscriptions.ensure("crm", hook, { types: ["call.*"], from: "beginning" })) as SubscriptionCreated;
const id = made.id;
assert.match(String(made.secret), /^whsec_/);
assert.equal((await subscriptions.ensure("crm", hook, { types: ["call.*"] })).id, id);
assert.deepEqual((await subscriptions.ensure("crm", hook, { types: ["call.ended"] })).types, ["call.ended"]);
assert.deepEqual(
  (await all(subscriptions.list())).map((one) => one.id),
  [id],
);
assert.equal((await subscriptions.get(id)).status, "active");
assert.ok((await subscriptions.test(id)).delivered);
assert.equal((await subscriptions.pause(id)).status, "paused");
assert.equal((await subscriptions.resume(id)).status, "active");
assert.ok((await events.resend(beginning.id, id)).delivered);
assert.equal((await first(subscriptions.attempts(id))).event_id, beginning.id);
assert.deepEqual(await all(subscriptions.dead(id)), []);
assert.equal((await subscriptions.retryDead(id)).retried, 0);
const window = { from: 1, to: beginning.position, everything: true };
const replay = (await subscriptions.replay(id, window)) as Replay;
assert.deepEqual(
  (await all(subscriptions.replays(id))).map((one) => one.id),
  [replay.id],
);
assert.equal((await subscriptions.showReplay(id, replay.id)).status, "running");
assert.equal((await subscriptions.stopReplay(id, replay.id)).status, "stopped");
assert.notEqual((await subscriptions.rotateSecret(id)).secret, made.secret);
await assert.rejects(subscriptions.create("x", hook, { kind: "smtp" as "http" }), (error) => {
  assert.ok(error instanceof InvalidRequest);
  assert.equal(error.detail, "body.kind: must be one of http, nats, rabbitmq, kafka");
  return true;
});
await subscriptions.delete(id);
assert.ok((await all(client.audit({ limit: 2 }))).some((line) => line.action === "token.read"));
const erasure = await client.erasures.create({ call_id: 9223372036854775807n, owner: "acme" });
assert.equal((await first(client.erasures.list())).id, erasure.id);
assert.equal((await client.erasures.get(erasure.id)).by, "call");
assert.deepEqual(await all(client.erasures.positions(erasure.id)), []);
assert.deepEqual((await client.retention.set("acme", { "call.*": "7d" })).rules, { "call.*": "7d" });
assert.equal((await first(client.retention.list())).owner, "acme");
await client.retention.reset("acme");
assert.deepEqual((await client.retention.get("acme")).rules, {});
assert.equal((await all(client.installations.export(installation.id))).at(-1)?.kind, "end");
await client.installations.disconnect(installation.id);
await assert.rejects(new Client(url, "aok_nobody").installations.get(installation.id), Unauthenticated);
process.stdout.write(JSON.stringify({ secret: made.secret }));
