// Handlers of Express: `app.use(connectRoutes(…))`, `app.use(receiver(…))`. No body parser is needed in front of them.

import { Buffer } from "node:buffer";
import type { IncomingMessage, ServerResponse } from "node:http";

import { wayHome, type Client, type Home } from "./client.js";
import { pageOf, statusOf } from "./fetch.js";
import { Inbox, MAX_BODY_BYTES, type InboxOptions } from "./inbox.js";

/** Express's request, or plain Node's. */
export type Incoming = IncomingMessage & { body?: unknown; originalUrl?: string };
export type Next = (error?: unknown) => void;
export type Middleware = (request: Incoming, response: ServerResponse, next: Next) => void;

export interface ConnectOptions {
  /** Your own id of the customer who is logged in; undefined once you have answered yourself, such as by a redirect. */
  owner: (request: Incoming, response: ServerResponse) => string | undefined | Promise<string | undefined>;
  /** The full address of `{path}/connected`, which must be on the service's list. */
  returnTo?: string;
  /** A page of your own. */
  show?: (home: Home, request: Incoming, response: ServerResponse) => unknown;
  path?: string;
}

const PATH = "/aircall";
const QUIET = { "cache-control": "no-store", "referrer-policy": "no-referrer" };

/** `{path}/connect` sends the browser to Aircall, `{path}/connected` is where it comes home. */
export function connectRoutes(client: Client, options: ConnectOptions): Middleware {
  const path = options.path ?? PATH;

  async function connect(request: Incoming, response: ServerResponse): Promise<void> {
    const owner = await options.owner(request, response);
    if (owner === undefined) return;
    const link = await client.installLinks.create(owner, { returnTo: options.returnTo });
    response.writeHead(303, { ...QUIET, location: link.url }).end();
  }

  async function connected(request: Incoming, response: ServerResponse): Promise<void> {
    const owner = await options.owner(request, response);
    if (owner === undefined) return;
    const url = urlOf(request);
    const home = await wayHome(client, owner, url.searchParams);
    if (url.searchParams.has("claim") && home.installation !== undefined) {
      // Out of the address bar and the history; a reload then says what is connected.
      response.writeHead(303, { ...QUIET, location: url.pathname }).end();
    } else if (options.show !== undefined) {
      await options.show(home, request, response);
    } else {
      response.writeHead(statusOf(home), { ...QUIET, "content-type": "text/html; charset=utf-8" }).end(pageOf(home));
    }
  }

  return (request, response, next) => {
    const { pathname } = urlOf(request);
    const handler = pathname === `${path}/connect` ? connect : pathname === `${path}/connected` ? connected : undefined;
    if (request.method !== "GET" || handler === undefined) return next();
    handler(request, response).catch(next);
  };
}

/** `{path}` is what deliveries are posted to. */
export function receiver(options: InboxOptions & { path?: string }): Middleware {
  const inbox = new Inbox(options);
  const path = options.path ?? `${PATH}/events`;
  return (request, response, next) => {
    if (request.method !== "POST" || urlOf(request).pathname !== path) return next();
    bodyOf(request)
      .then(async (body) => {
        if (body === undefined) return response.writeHead(413, { connection: "close" }).end();
        const { status, headers } = await inbox.take(request.headers, body);
        return response.writeHead(status, headers).end();
      })
      .catch(next);
  };
}

function urlOf(request: Incoming): URL {
  return new URL(request.originalUrl ?? request.url ?? "/", "http://localhost");
}

/** The exact bytes; undefined where they are too many. */
async function bodyOf(request: Incoming): Promise<Uint8Array | undefined> {
  if (Buffer.isBuffer(request.body)) return request.body;
  if (request.readableEnded) {
    throw new TypeError("The body was read already: put `receiver` in front of express.json(), or use express.raw()");
  }
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
