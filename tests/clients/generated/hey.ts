// A client that @hey-api/openapi-ts made: lists, changes a subscription, asks Aircall.

import assert from "node:assert/strict";

import { createClient } from "./made/hey/client/index.js";
import { askAircallGet, changeSubscription, listSubscriptions } from "./made/hey/index.js";
import type { CallEndedEvent, Problem } from "./made/hey/index.js";

const { SERVICE_URL, API_KEY, INSTALLATION, SUBSCRIPTION } = process.env as Record<string, string>;
const client = createClient({ baseUrl: SERVICE_URL, auth: () => API_KEY });

const listed = await listSubscriptions({ client, throwOnError: true });
assert.deepEqual(
  listed.data.items.map((one) => one.id),
  [SUBSCRIPTION],
);

const path = { subscription_id: SUBSCRIPTION };
const changed = await changeSubscription({ client, path, body: { types: ["call.ended"] }, throwOnError: true });
assert.deepEqual([changed.data.types, changed.data.name], [["call.ended"], listed.data.items[0]?.name]);

const refused = await changeSubscription({ client, path, body: { name: "" } });
const problem: Problem | undefined = refused.error;
assert.equal(problem?.code satisfies Problem["code"] | undefined, "invalid_request");

// The slash of the path is sent percent-encoded.
const asked = await askAircallGet({ client, path: { installation_id: INSTALLATION, path: "integrations/me" } });
assert.equal(asked.response.status, 200);
assert.match(asked.request.url, /integrations%2Fme$/);

const ended = (event: CallEndedEvent): number | null | undefined => event.data.duration;
assert.equal(ended.length, 1);
