// Whether a delivery is the service's: Standard Webhooks 1, https://www.standardwebhooks.com.

import { Buffer } from "node:buffer";
import { createHmac, timingSafeEqual } from "node:crypto";

import { SignatureInvalid } from "./errors.js";
import { parse } from "./json.js";
import type { Event } from "./types.js";

const PREFIX = "whsec_";
const TOLERANCE_SECONDS = 300;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** The headers of a request: Node's, those of the Fetch API, or a plain object. */
export type HeadersLike = Headers | Record<string, string | string[] | undefined>;

export interface VerifyOptions {
  /** How many seconds old a delivery may be, or ahead of this clock. */
  tolerance?: number;
  /** UNIX seconds, for tests. */
  now?: number;
}

/** Return a header's value, or "". */
export function header(headers: HeadersLike, name: string): string {
  if (typeof (headers as Headers).get === "function") return (headers as Headers).get(name) ?? "";
  for (const [key, value] of Object.entries(headers as Record<string, string | string[] | undefined>)) {
    if (key.toLowerCase() === name && value !== undefined) return Array.isArray(value) ? value.join(" ") : value;
  }
  return "";
}

/**
 * Return the event of a delivery that was signed with one of the secrets; throws `SignatureInvalid`.
 * `body` is the exact bytes that came in.
 */
export function verify(
  headers: HeadersLike,
  body: Uint8Array | string,
  secrets: string | readonly string[],
  options: VerifyOptions = {},
): Event {
  const keys = (typeof secrets === "string" ? [secrets] : secrets).map(keyOf);
  if (keys.length === 0) throw new TypeError("verify needs a secret");
  const delivery = header(headers, "webhook-id");
  const timestamp = header(headers, "webhook-timestamp");
  if (delivery === "" || !/^[0-9]{1,15}$/.test(timestamp)) {
    throw new SignatureInvalid("The headers of a delivery are missing or damaged");
  }
  const now = options.now ?? Date.now() / 1000;
  if (Math.abs(now - Number(timestamp)) > (options.tolerance ?? TOLERANCE_SECONDS)) {
    throw new SignatureInvalid("The delivery is too old, or this machine's clock is wrong");
  }
  const bytes = Buffer.from(body);
  const wanted = keys.map((key) => createHmac("sha256", key).update(`${delivery}.${timestamp}.`).update(bytes).digest());
  const given = signaturesOf(header(headers, "webhook-signature"));
  if (!given.some((one) => wanted.some((each) => one.length === each.length && timingSafeEqual(one, each)))) {
    throw new SignatureInvalid("No signature is of the secret that is used here; it must be that of the subscription");
  }
  return eventOf(bytes.toString("utf8"), delivery);
}

function keyOf(secret: string): Buffer {
  const encoded = secret.startsWith(PREFIX) ? secret.slice(PREFIX.length) : secret;
  if (encoded === "" || !BASE64.test(encoded)) {
    throw new TypeError("A secret looks like whsec_… with base64 behind it");
  }
  return Buffer.from(encoded, "base64");
}

function signaturesOf(said: string): Buffer[] {
  return said
    .split(" ")
    .filter((each) => each.startsWith("v1,") && BASE64.test(each.slice(3)))
    .map((each) => Buffer.from(each.slice(3), "base64"));
}

function eventOf(text: string, delivery: string): Event {
  let event: unknown;
  try {
    event = parse(text);
  } catch {
    throw new SignatureInvalid("The body is not JSON");
  }
  const told = event as Partial<Event> | null;
  if (typeof told !== "object" || told === null || told.id !== delivery || typeof told.type !== "string") {
    throw new SignatureInvalid("The body is not the event that its headers name");
  }
  return told as Event;
}
