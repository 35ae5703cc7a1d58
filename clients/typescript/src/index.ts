// The client of aircall-oauth: connect customers to Aircall, ask Aircall as them, and take their events.

export {
  Aircall,
  AircallAnswer,
  Client,
  wayHome,
  type Following,
  type Home,
  type SubscriptionFields,
} from "./client.js";
export * from "./errors.js";
export { errorOf, type Options, type Query } from "./http.js";
export { folderSeen } from "./files.js";
export {
  Inbox,
  memorySeen,
  postgresSeen,
  sqliteSeen,
  type Handler,
  type Handlers,
  type InboxOptions,
  type IsNew,
  type Seen,
  type Taken,
} from "./inbox.js";
export { parse, stringify } from "./json.js";
export { verify, type HeadersLike, type VerifyOptions } from "./signatures.js";
export type * from "./types.js";
