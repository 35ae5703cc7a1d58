// openapi-fetch over the types that openapi-typescript made: lists, changes a subscription, asks Aircall.

import assert from "node:assert/strict";

import createClient from "openapi-fetch";

import type { components, paths } from "./made/types.js";

const { SERVICE_URL, API_KEY, INSTALLATION, SUBSCRIPTION } = process.env as Record<string, string>;
const client = createClient<paths>({ baseUrl: SERVICE_URL!, headers: { authorization: `Bearer ${API_KEY}` } });

const listed = await client.GET("/v1/subscriptions");
assert.deepEqual(
  listed.data?.items.map((one) => one.id),
  [SUBSCRIPTION],
);

const params = { path: { subscription_id: SUBSCRIPTION! } };
const changed = await client.PATCH("/v1/subscriptions/{subscription_id}", { params, body: { types: ["call.*"] } });
assert.deepEqual([changed.data?.types, changed.data?.name], [["call.*"], listed.data?.items[0]?.name]);

const refused = await client.PATCH("/v1/subscriptions/{subscription_id}", { params, body: { name: "" } });
const code: components["schemas"]["Problem"]["code"] | undefined = refused.error?.code;
assert.equal(code, "invalid_request");

// The slash of the path is sent percent-encoded.
const asked = await client.GET("/v1/installations/{installation_id}/aircall/{path}", {
  params: { path: { installation_id: INSTALLATION!, path: "integrations/me" } },
});
assert.equal(asked.response.status, 200);
assert.match(asked.response.url, /integrations%2Fme$/);

type Ended = components["schemas"]["CallEndedEvent"];
const ended = (event: Ended): number | null | undefined => event.data.duration;
assert.equal(ended.length, 1);
