// What the memory in PostgreSQL must do, with a real one; `tests/clients/test_typescript_client.py` runs it.

import assert from "node:assert/strict";

import pg from "pg";

import { postgresSeen } from "../src/index.js";

const pool = new pg.Pool({ host: process.env["PG_HOST"], database: process.env["PG_DATABASE"], user: "postgres" });

// Two processes that make the table at once, and eight that are handed the same delivery.
const memories = Array.from({ length: 8 }, () => postgresSeen(pool));
const begun = await Promise.all(memories.map((memory) => memory.begin("same")));
assert.deepEqual(begun.sort(), [...Array.from({ length: 7 }, () => "busy"), "new"]);

const [one, another] = [postgresSeen(pool), postgresSeen(pool)];
await one.finish("same");
assert.equal(await another.begin("same"), "done");
assert.equal(await another.begin("b"), "new");
await another.forget("b");
assert.equal(await one.begin("b"), "new");
await one.forget("same");
assert.equal(await one.begin("same"), "done");
await pool.end();
