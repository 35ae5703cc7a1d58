// Handlers of the Fetch API: Next.js, Hono, Remix, SvelteKit and so on.

import { wayHome, type Client, type Home } from "./client.js";
import { Inbox, MAX_BODY_BYTES, type InboxOptions } from "./inbox.js";

export interface ConnectOptions<Incoming> {
  /** Your own id of the customer who is logged in, or a response, such as a redirect to your login. */
  owner: (request: Incoming) => string | Response | Promise<string | Response>;
  /** The full address of where the browser comes home, which must be on the service's list. */
  returnTo?: string | undefined;
  /** A page of your own. */
  show?: (home: Home, request: Incoming) => Response | Promise<Response>;
}

const QUIET = { "cache-control": "no-store", "referrer-policy": "no-referrer" };

/** `connect` sends the browser to Aircall; `connected` is where it comes home. Both are for GET. */
export function connectRoutes(
  client: Client,
  options: ConnectOptions<Request>,
): { connect: (request: Request) => Promise<Response>; connected: (request: Request) => Promise<Response> } {
  return {
    connect: async (request) => {
      const owner = await options.owner(request);
      if (typeof owner !== "string") return owner;
      const link = await client.installLinks.create(owner, { returnTo: options.returnTo });
      return new Response(null, { status: 303, headers: { ...QUIET, location: link.url } });
    },
    connected: async (request) => {
      const owner = await options.owner(request);
      if (typeof owner !== "string") return owner;
      const url = new URL(request.url);
      const home = await wayHome(client, owner, url.searchParams);
      if (url.searchParams.has("claim") && home.installation !== undefined) {
        // Out of the address bar and the history; a reload then says what is connected.
        return new Response(null, { status: 303, headers: { ...QUIET, location: url.pathname } });
      }
      if (options.show !== undefined) return options.show(home, request);
      const headers = { ...QUIET, "content-type": "text/html; charset=utf-8" };
      return new Response(pageOf(home), { status: statusOf(home), headers });
    },
  };
}

/** What deliveries are posted to. */
export function receiver(options: InboxOptions): (request: Request) => Promise<Response> {
  const inbox = new Inbox(options);
  return async (request) => {
    if (Number(request.headers.get("content-length") ?? 0) > MAX_BODY_BYTES) return new Response(null, { status: 413 });
    const { status, headers } = await inbox.take(request.headers, new Uint8Array(await request.arrayBuffer()));
    return new Response(null, { status, headers });
  };
}

/** The HTTP status of a page about a way home. */
export function statusOf(home: Home): number {
  return home.installation !== undefined ? 200 : home.reload ? 503 : 409;
}

/** A plain page, for until you have one of your own. */
export function pageOf(home: Home): string {
  return (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="referrer" content="no-referrer">' +
    '<meta name="viewport" content="width=device-width"><title>Aircall</title>' +
    `<p style="font: 1.1rem/1.5 sans-serif; margin: 3rem auto; max-width: 32rem">${escaped(textOf(home))}</p>`
  );
}

function textOf(home: Home): string {
  if (home.installation !== undefined) return `${home.installation.company_name ?? "Your company"} is connected to Aircall.`;
  if (home.reload) return "This did not work right now. Please reload this page.";
  const said = home.error === "declined" ? "was declined" : "did not work";
  const reference = home.attempt === "" ? "" : ` Reference for our support: ${home.attempt}.`;
  return `Connecting to Aircall ${said} (${home.error}). Please start again from your settings.${reference}`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
