// What an app of one machine keeps in files: the secret of its subscription, and which deliveries were dealt with.

import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { KEPT_MS, LEASE_MS, type Seen } from "./inbox.js";

const DONE = "done";

/**
 * In a folder, a file for each delivery: for the processes of one machine, where Node has no SQLite of its own yet.
 * What the service repeats no more is deleted at the start.
 */
export function folderSeen(folder: string): Seen {
  let ready: Promise<void> | undefined;
  const fileOf = (delivery: string): string => join(folder, createHash("sha256").update(delivery).digest("hex"));
  return {
    async begin(delivery) {
      ready ??= prepared(folder).catch((error: unknown) => {
        ready = undefined;
        throw error;
      });
      await ready;
      return (await created(fileOf(delivery))) ? "new" : statusOf(fileOf(delivery));
    },
    finish: (delivery) => writeFile(fileOf(delivery), DONE),
    forget: (delivery) => rm(fileOf(delivery), { force: true }),
  };
}

async function prepared(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const name of await readdir(folder)) {
    const file = join(folder, name);
    if ((await ageOf(file)) > KEPT_MS) await rm(file, { force: true });
  }
}

async function created(file: string): Promise<boolean> {
  try {
    await writeFile(file, "", { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    return false;
  }
}

/** "new" where the process that began died: its file is older than its lease. */
async function statusOf(file: string): Promise<"new" | "busy" | "done"> {
  const text = await readFile(file, "utf8").catch(() => "");
  if (text === DONE) return "done";
  if ((await ageOf(file)) < LEASE_MS) return "busy";
  await utimes(file, new Date(), new Date());
  return "new";
}

async function ageOf(file: string): Promise<number> {
  return Date.now() - (await stat(file).then((found) => found.mtimeMs, () => Date.now()));
}

/** The secret that is kept for this subscription; undefined if there is none, or another one's. */
export async function readSecret(file: string, subscriptionId: string): Promise<string | undefined> {
  try {
    const kept = JSON.parse(await readFile(file, "utf8")) as Record<string, unknown> | null;
    const secret = kept?.[subscriptionId];
    return typeof secret === "string" ? secret : undefined;
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Keep it, for this user of the machine only: all of it, or what was there before. */
export async function writeSecret(file: string, subscriptionId: string, secret: string): Promise<void> {
  await writeFile(`${file}.new`, JSON.stringify({ [subscriptionId]: secret }), { mode: 0o600 });
  await rename(`${file}.new`, file);
}
