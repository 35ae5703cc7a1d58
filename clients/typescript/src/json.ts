// JSON that loses no digit: an integer that a number cannot hold exactly is read as a bigint, and written as its digits.

const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/gs;
const INTEGER = /^-?\d+$/;

/** Parse JSON; an integer beyond 2^53 becomes a bigint. Throws a SyntaxError. */
export function parse(text: string): unknown {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  // A mark that is in no string of this text.
  let mark = "bigint:";
  while (text.includes(mark)) mark = `:${mark}`;
  const marked = text.replace(TOKENS, (token) =>
    INTEGER.test(token) && !Number.isSafeInteger(Number(token)) ? `"${mark}${token}"` : token,
  );
  return JSON.parse(marked, (_name, value: unknown) =>
    typeof value === "string" && value.startsWith(mark) ? BigInt(value.slice(mark.length)) : value,
  );
}

/** Write JSON; a bigint is written as its digits. */
export function stringify(value: unknown): string {
  let mark = "bigint:";
  const plain = JSON.stringify(value, (_name, each: unknown) => (typeof each === "bigint" ? null : each)) ?? "null";
  while (plain.includes(mark)) mark = `:${mark}`;
  const marked = JSON.stringify(value, (_name, each: unknown) => (typeof each === "bigint" ? `${mark}${each}` : each));
  return (marked ?? "null").replaceAll(new RegExp(`"${mark}(-?\\d+)"`, "g"), "$1");
}
