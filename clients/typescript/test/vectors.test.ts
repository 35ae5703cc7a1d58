// The cases that the service and both clients share.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as client from "../src/index.js";

interface Vectors {
  signatures: Array<{
    name: string;
    headers: Record<string, string>;
    body: string;
    secrets: string[];
    now: number;
    valid: boolean;
  }>;
  envelopes: Array<{
    name: string;
    headers: Record<string, string>;
    body: string;
    secret: string;
    now: number;
    values: Record<string, string>;
  }>;
  errors: Array<{
    raised_as: string;
    status: number;
    headers: Record<string, string>;
    body: string;
    error: string;
    code: string;
    retry_after: number | null;
    oldest?: number;
    resume_from?: number;
    newest?: number;
  }>;
}

const vectors = JSON.parse(readFileSync(new URL("../../../vectors.json", import.meta.url), "utf8")) as Vectors;
const kinds = client as unknown as Record<string, new (...values: never[]) => Error>;

for (const { name, headers, body, secrets, now, valid } of vectors.signatures) {
  test(`signature: ${name}`, () => {
    for (const given of [headers, new Headers(Object.entries(headers).filter(([, value]) => /^[ -~]*$/.test(value)))]) {
      if (valid) assert.equal(client.verify(given, body, secrets, { now }).id, JSON.parse(body).id);
      else assert.throws(() => client.verify(given, body, secrets, { now }), client.SignatureInvalid);
    }
  });
}

for (const { name, headers, body, secret, now, values } of vectors.envelopes) {
  test(`envelope: ${name}`, () => {
    const event = client.verify(headers, Buffer.from(body), secret, { now });

    for (const [path, value] of Object.entries(values)) {
      const found = path.split(".").reduce((at: unknown, step) => (at as Record<string, unknown>)[step], event);
      assert.equal(String(found), value, path);
    }
    assert.deepEqual(client.parse(client.stringify(event)), event);
  });
}

for (const each of vectors.errors) {
  test(`error: ${each.raised_as}`, () => {
    const response = new Response(each.body, { status: each.status, headers: each.headers });

    const error = client.errorOf({ method: "GET", path: "/v1/events" }, response, each.body);

    assert.equal(error.constructor, kinds[each.error]);
    assert.ok(error instanceof client.ServiceError);
    assert.deepEqual([error.code, error.status, error.retryAfter ?? null], [each.code, each.status, each.retry_after]);
    if (error instanceof client.PositionGone) assert.equal(error.oldest, each.oldest);
    if (error instanceof client.PositionUnknown) {
      assert.deepEqual([error.resumeFrom, error.newest], [each.resume_from, each.newest]);
    }
  });
}
