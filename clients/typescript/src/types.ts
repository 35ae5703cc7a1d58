// What the service answers and takes, as types. Generated from docs/openapi.json; any answer may have more.

/** An integer of up to 64 bits: a bigint where a number would lose digits. */
export type Int64 = number | bigint;

export interface AttemptList {
  items: Array<Attempt>;
  /** The `cursor` of the next page; null at the end. */
  next: Int64 | null;
}

export interface Attempt {
  event_id: string;
  position: Int64;
  at: string;
  /** One word: `delivered`, `timeout`, `refused`, `http_503` … */
  outcome: string;
  milliseconds: number;
  /** The replay that sent it, or `resend`; null for a live delivery */
  replay_id: string | null;
}

/** One act: who did what to what, when, from where. */
export interface AuditLine {
  id: string;
  at: string;
  /** An API key's id; `person:` with a name: in the console, by a link; `proxied:` with a name: there, as its authenticating proxy says; `operator`: the command line; `service`: a chore */
  actor: string;
  /** The API key's name */
  actor_name: string | null;
  action: string;
  outcome: AuditOutcome;
  installation_id: string | null;
  /** Whom it concerned, at that time */
  owner: string | null;
  subscription_id: string | null;
  /** What was changed, from what, to what; never a secret */
  details: Record<string, unknown> | null;
  /** The other end of the socket */
  address: string | null;
  request_id: string | null;
}

export interface AuditPage {
  items: Array<AuditLine>;
  /** The `cursor` of the next page; null at the end. */
  next: string | null;
}

/** What a check found. `installation` is as it is after the mending. */
export interface CheckResult {
  /** Whether everything that was wrong is mended */
  healthy: boolean;
  /** `foreign`: it answers for another company or integration than before */
  token: TokenVerdict;
  /** What was wrong; empty if nothing was */
  found: Array<Finding>;
  installation: Installation;
}

/** What a check can find: stable codes for programs to branch on. */
export type FindingCode = "token_refused" | "token_foreign" | "token_accepted_again" | "integration_off" | "no_numbers" | "facts_changed" | "webhook_new" | "webhook_missing" | "webhook_disabled" | "webhook_changed" | "webhook_doubled" | "webhook_refused";

export interface DeadEventList {
  items: Array<DeadEvent>;
  /** The `cursor` of the next page; null at the end. */
  next: Int64 | null;
}

export interface RetryAnswer {
  /** So many were put back */
  retried: number;
}

export interface RetryRequest {
  /** Left out: all of them */
  event_ids?: Array<string> | null;
}

export interface DeadEvent {
  event_id: string;
  position: Int64;
  installation_id: string;
  attempts: number;
  reason: string;
  dead_at: string;
}

export type DeliveryStatus = "waiting" | "delivered" | "parked" | "dead";

/** How far one subscription is with an event. */
export interface Delivery {
  subscription_id: string;
  name: string;
  status: DeliveryStatus;
  attempts: number;
  last_outcome: string | null;
  last_at: string | null;
}

/** The receipt: which events were erased. */
export interface ErasedPositions {
  positions: Array<number>;
  /** The `after` of the next page; null at the end. */
  next: Int64 | null;
}

/** What a person, or a customer, is known by. */
export type ErasureKind = "phone" | "email" | "contact" | "user" | "call" | "installation";

export interface ErasureList {
  items: Array<Erasure>;
  /** The `cursor` of the next page; null at the end. */
  next: string | null;
}

export type ErasureStatus = "searching" | "following" | "settling" | "done";

/** One erasure: how far it is, and what it came to. It holds nothing of the person. */
export interface Erasure {
  id: string;
  /** `searching` the log for the person; `following` the calls that were found, for what else belongs to them; `settling` until no worker has any of it in memory; `done` */
  status: ErasureStatus;
  /** What the person is known by; `installation`: all of a customer's */
  by: ErasureKind;
  /** Only events of this owner */
  owner: string | null;
  /** Only events of this installation */
  installation_id: string | null;
  /** Events up to here are searched */
  position: Int64;
  /** The newest event when the search ended */
  last_position: Int64 | null;
  /** Events read; those read twice count twice */
  searched: number;
  /** Events erased */
  erased: number;
  /** Parked and dead deliveries deleted */
  parked: number;
  /** Of the events erased, how many a subscription of yours had taken before: those it cannot reach */
  delivered: number;
  created_at: string;
  ended_at: string | null;
  /** Until then the last backup that still has it is kept: `AIRCALL_OAUTH_BACKUPS_KEPT` after the end */
  backups_until: string | null;
}

export interface EventPage {
  events: Array<Event>;
  /** The `after` of the next page; newest first, its `before` */
  next: Int64;
  /** Whether there is more to read right now */
  more: boolean;
  /** Which log this is: another one after a restore. Keep it with `next` and pass both */
  epoch: string;
}

/** One event, and what became of it. */
export interface EventWithDeliveries {
  id: string;
  position: Int64;
  type: string;
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  /** What Aircall sent, byte for byte; null once it is erased */
  data: unknown;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
  /** For each subscription that wants it */
  deliveries: Array<Delivery>;
}

/** One event of the log, the same for every reader. */
export interface Event {
  id: string;
  position: Int64;
  type: string;
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  /** What Aircall sent, byte for byte; null once it is erased */
  data: unknown;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

export interface FilterWarning {
  type: string;
  /** The known type that looks most like it */
  nearest: string | null;
  detail: string;
}

export interface Finding {
  /** What was wrong */
  code: FindingCode;
  /** Whether it is mended now */
  mended: boolean;
}

export type SubscriptionHealth = "up" | "down";

export interface InstallAttemptList {
  items: Array<InstallAttempt>;
  /** The `cursor` of the next page; null at the end. */
  next: string | null;
}

/** One install attempt. Each `…_at` is one step, in this order; null where it was not reached. */
export interface InstallAttempt {
  id: string;
  /** Shown on every page it ended on; what support asks for */
  reference: string;
  /** The last step that it reached */
  step: string;
  /** How it ended: `connected`; `unclaimed`, kept until its claim is used; `claimed`; or what went wrong, as in the `error` of the way home. Null while it is under way, or where its admin just stopped. */
  ending: string | null;
  /** What the browser was shown last: `consent` (Aircall's page), `page:…`, or where it was sent: `return_to:…`, `success_url` */
  shown: string | null;
  /** The link's, or who claimed it */
  owner: string | null;
  /** Null for a flow without a link */
  link_id: string | null;
  installation_id: string | null;
  /** The Aircall company, with `company_name` and `installation_id`: an API key bound to an owner sees them once the owner has claimed the installation */
  company_id: Int64 | null;
  company_name: string | null;
  /** When it was first recorded; `since` and `until` go by it */
  created_at: string;
  /** The link was made */
  made_at: string | null;
  /** The browser opened it and was sent to Aircall */
  opened_at: string | null;
  /** It came back with a code */
  consented_at: string | null;
  /** Aircall gave a token for the code */
  exchanged_at: string | null;
  /** Aircall said whose it is */
  identified_at: string | null;
  /** The installation was saved */
  connected_at: string | null;
  /** Its owner claimed it */
  claimed_at: string | null;
  /** Its webhook at Aircall was live */
  live_at: string | null;
  ended_at: string | null;
}

export interface InstallLink {
  /** For the admin's browser; works once */
  url: string;
  expires_at: string;
  /** Of the install attempt: `GET /v1/install-attempts/{id}` tells how far it came */
  attempt_id: string;
  /** Of the same, for people: the pages show it */
  reference: string;
}

export interface InstallationList {
  items: Array<Installation>;
  /** The `cursor` of the next page; null at the end. */
  next: string | null;
}

export type InstallationStatus = "unclaimed" | "active" | "unauthorized" | "removed";

export interface Installation {
  id: string;
  status: InstallationStatus;
  owner: string | null;
  company_id: Int64;
  integration_id: Int64 | null;
  company_name: string | null;
  number_ids: Array<Int64>;
  connected_at: string;
  last_event_at: string | null;
  /** Present only if the installation is active and silent at hours at which it usually sends events. */
  silent_since?: string | null;
  webhook: Webhook;
}

export interface ClaimRequest {
  /** The `claim` that the browser brought to `return_to` */
  claim: string;
  /** The partner's own id of whom the installation belongs to */
  owner: string;
}

/** Whom to erase: by exactly one of `phone`, `email`, `contact_id`, `user_id`, `call_id`. */
export interface NewErasure {
  /** In any spelling, best with its country; 7 to 15 digits */
  phone?: string | null;
  email?: string | null;
  /** Aircall's id of a contact */
  contact_id?: string | null;
  /** Aircall's id of a user */
  user_id?: string | null;
  /** Aircall's id of a call */
  call_id?: string | null;
  /** Only in events of this owner */
  owner?: string | null;
  /** Only in events of this installation */
  installation_id?: string | null;
}

export interface NewHttp {
  name: string;
  url: string;
  /** Event types; `call.*` is all that begin so; empty is all */
  types?: Array<string>;
  /** Only events of installations that belong to these; empty is all */
  owners?: Array<string>;
  /** Only events of these; empty is all */
  installations?: Array<string>;
  /** Which events arrive one after the other, none past an earlier one that failed and is still tried: those about the same call, user, contact, number, message or installation (`subject`), all of an installation (`installation`), or no two (`none`) */
  order?: SubscriptionOrder;
  from?: StartPosition;
  /** Make none if there is one of this name for the same owners: that one is answered, without its secret. One that delivers otherwise is a 409 */
  ensure?: boolean;
  kind: "http";
}

export interface NewInstallLink {
  /** The partner's own id of whom the installation belongs to */
  owner: string;
  /** One of `AIRCALL_OAUTH_RETURN_URLS`, exactly; the first of them if left out */
  return_to?: string | null;
}

export interface NewKafka {
  name: string;
  url: string;
  /** Event types; `call.*` is all that begin so; empty is all */
  types?: Array<string>;
  /** Only events of installations that belong to these; empty is all */
  owners?: Array<string>;
  /** Only events of these; empty is all */
  installations?: Array<string>;
  /** Which events arrive one after the other, none past an earlier one that failed and is still tried: those about the same call, user, contact, number, message or installation (`subject`), all of an installation (`installation`), or no two (`none`) */
  order?: SubscriptionOrder;
  from?: StartPosition;
  /** Make none if there is one of this name for the same owners: that one is answered, without its secret. One that delivers otherwise is a 409 */
  ensure?: boolean;
  kind: "kafka";
  topic: string;
}

export interface NewNats {
  name: string;
  url: string;
  /** Event types; `call.*` is all that begin so; empty is all */
  types?: Array<string>;
  /** Only events of installations that belong to these; empty is all */
  owners?: Array<string>;
  /** Only events of these; empty is all */
  installations?: Array<string>;
  /** Which events arrive one after the other, none past an earlier one that failed and is still tried: those about the same call, user, contact, number, message or installation (`subject`), all of an installation (`installation`), or no two (`none`) */
  order?: SubscriptionOrder;
  from?: StartPosition;
  /** Make none if there is one of this name for the same owners: that one is answered, without its secret. One that delivers otherwise is a 409 */
  ensure?: boolean;
  kind: "nats";
  subject: string;
}

export interface NewRabbitmq {
  name: string;
  url: string;
  /** Event types; `call.*` is all that begin so; empty is all */
  types?: Array<string>;
  /** Only events of installations that belong to these; empty is all */
  owners?: Array<string>;
  /** Only events of these; empty is all */
  installations?: Array<string>;
  /** Which events arrive one after the other, none past an earlier one that failed and is still tried: those about the same call, user, contact, number, message or installation (`subject`), all of an installation (`installation`), or no two (`none`) */
  order?: SubscriptionOrder;
  from?: StartPosition;
  /** Make none if there is one of this name for the same owners: that one is answered, without its secret. One that delivers otherwise is a 409 */
  ensure?: boolean;
  kind: "rabbitmq";
  exchange: string;
  routing_key: string;
}

/** How long an owner's events are kept, by type; the closest type counts. */
export interface NewRetention {
  /** By event type, or its beginning with `*` behind it: `30d`, `12h`, `45m` or `90s` */
  rules: Record<string, unknown>;
}

export type AuditOutcome = "done" | "refused" | "failed";

export interface OwnerRetention {
  owner: string;
  /** How long the owner's events of these types are kept; empty: as long as all others */
  rules: Record<string, unknown>;
  /** When they were set; null where there are none */
  changed_at: string | null;
}

export interface ReplayList {
  items: Array<Replay>;
  /** The `cursor` of the next page; null at the end. */
  next: string | null;
}

/** Move the live reader: read again what lies past a position. */
export interface ReplayPast {
  position: Int64;
}

/** What a replay would deliver. Nothing was started. */
export interface ReplayPreview {
  events: number;
  /** Of so many installations */
  customers: number;
  first_position: Int64;
  last_position: Int64;
}

/** Move the live reader: read again what came in from a moment on. */
export interface ReplaySince {
  since: string;
}

export type ReplayStatus = "running" | "done" | "stopped" | "failed";

/** One replay and how far it is. */
export interface Replay {
  id: string;
  subscription_id: string;
  /** `failed`: the destination answered that it wants no more */
  status: ReplayStatus;
  /** Events received then or later */
  since: string | null;
  /** Events received before */
  until: string | null;
  /** Events from this position on */
  first_position: Int64;
  /** Up to and including this one */
  last_position: Int64;
  types: Array<string>;
  owners: Array<string>;
  installations: Array<string>;
  /** At most so many deliveries a second */
  per_second: number;
  /** Events to deliver, counted when it was started */
  events: number;
  /** Of so many installations */
  customers: number;
  /** Every event up to here was delivered or has failed */
  position: Int64;
  delivered: number;
  /** Events given up on after every try; see the subscription's attempts */
  failed: number;
  /** The last failure, in one word */
  last_error: string | null;
  created_at: string;
  ended_at: string | null;
}

/** Deliver a window of the log once more, beside the live reader. Both ends must be given, by time or position. */
export interface ReplayWindow {
  /** Events received then or later */
  since?: string | null;
  /** Events received before */
  until?: string | null;
  /** Events from this position on */
  from?: Int64 | null;
  /** Up to and including this position */
  to?: Int64 | null;
  /** Event types; `call.*` is all that begin so; empty is all */
  types?: Array<string>;
  /** Only events of installations that belong to these; empty is all */
  owners?: Array<string>;
  /** Only events of these; empty is all */
  installations?: Array<string>;
  /** Must be true where neither `types`, `owners` nor `installations` limits the replay */
  everything?: boolean;
  /** At most so many deliveries a second */
  per_second?: number;
  /** Only count: nothing is started */
  dry_run?: boolean;
}

export interface ResendRequest {
  subscription_id: string;
}

export interface RetentionList {
  /** `AIRCALL_OAUTH_EVENT_RETENTION`: what no rule says is kept so long */
  longest: string;
  /** `AIRCALL_OAUTH_EVENT_TYPE_RETENTION`: for owners without a rule for the type */
  rules: Record<string, unknown>;
  /** The owners with rules of their own, by name */
  items: Array<OwnerRetention>;
  /** The `cursor` of the next page; null at the end. */
  next: string | null;
}

export interface RotateSecretRequest {
  /** End the old secret at once, instead of after 24 hours */
  now?: boolean;
}

export interface SecretAnswer {
  /** Shown this once */
  secret: string;
}

/** What is left out stays as it is. */
export interface SubscriptionChange {
  name?: string;
  url?: string;
  /** Event types; `call.*` is all that begin so; empty is all */
  types?: Array<string>;
  /** Only events of installations that belong to these; empty is all */
  owners?: Array<string>;
  /** Only events of these; empty is all */
  installations?: Array<string>;
  /** Which events arrive one after the other, none past an earlier one that failed and is still tried: those about the same call, user, contact, number, message or installation (`subject`), all of an installation (`installation`), or no two (`none`) */
  order?: SubscriptionOrder;
}

export interface SubscriptionCreated {
  id: string;
  name: string;
  kind: SubscriptionKind;
  /** A broker's without its credentials, and what a query says as `***` */
  url: string;
  /** NATS only */
  subject: string | null;
  /** RabbitMQ only */
  exchange: string | null;
  /** RabbitMQ only */
  routing_key: string | null;
  /** Kafka only */
  topic: string | null;
  types: Array<string>;
  owners: Array<string>;
  installations: Array<string>;
  order: SubscriptionOrder;
  status: SubscriptionStatus;
  /** It was delivered, parked or left out up to here */
  position: Int64;
  /** Events behind; beyond 10,000 counted by their positions */
  lag: number;
  /** Events that failed and are tried again by schedule; no more than 10,000 are counted, of more than 100 subscriptions fewer of each */
  parked: number;
  /** Events that were given up on, counted likewise */
  dead: number;
  /** Events that it wanted and that were delivered or parked in the last 24 hours. Those that still wait are in `lag`. Counted by the workers, and written once a minute */
  matched_24h: number;
  /** Deliveries of the last 24 hours, replays apart; written once a minute */
  delivered_24h: number;
  /** Tries of the last 24 hours that failed, replays apart; written once a minute */
  failed_24h: number;
  /** How long ago the oldest event came in that it wants and has not got, at the time of the answer; null if there is none. More than 10,000 positions behind, an event that it does not want may count */
  oldest_undelivered_seconds: number | null;
  /** `down`: its position holds, and one probe at a time goes out */
  health: SubscriptionHealth;
  /** When the next probe goes out, if its destination is down; null if it is up */
  next_probe_at: string | null;
  /** The last failure, in one word */
  last_error: string | null;
  last_error_at: string | null;
  created_at: string;
  /** Of each of its `types` that no known event type matches, and none of the newest 10,000 events' */
  warnings: Array<FilterWarning>;
  /** Signs every delivery; shown this once, and to a repeat with the same `Idempotency-Key`. Null for a broker, and for one that `ensure` found */
  secret: string | null;
}

export type SubscriptionKind = "http" | "nats" | "rabbitmq" | "kafka";

export interface SubscriptionList {
  items: Array<Subscription>;
  /** The `cursor` of the next page; null at the end. */
  next: string | null;
}

export type SubscriptionOrder = "none" | "subject" | "installation";

export interface SubscriptionSaved {
  id: string;
  name: string;
  kind: SubscriptionKind;
  /** A broker's without its credentials, and what a query says as `***` */
  url: string;
  /** NATS only */
  subject: string | null;
  /** RabbitMQ only */
  exchange: string | null;
  /** RabbitMQ only */
  routing_key: string | null;
  /** Kafka only */
  topic: string | null;
  types: Array<string>;
  owners: Array<string>;
  installations: Array<string>;
  order: SubscriptionOrder;
  status: SubscriptionStatus;
  /** It was delivered, parked or left out up to here */
  position: Int64;
  /** Events behind; beyond 10,000 counted by their positions */
  lag: number;
  /** Events that failed and are tried again by schedule; no more than 10,000 are counted, of more than 100 subscriptions fewer of each */
  parked: number;
  /** Events that were given up on, counted likewise */
  dead: number;
  /** Events that it wanted and that were delivered or parked in the last 24 hours. Those that still wait are in `lag`. Counted by the workers, and written once a minute */
  matched_24h: number;
  /** Deliveries of the last 24 hours, replays apart; written once a minute */
  delivered_24h: number;
  /** Tries of the last 24 hours that failed, replays apart; written once a minute */
  failed_24h: number;
  /** How long ago the oldest event came in that it wants and has not got, at the time of the answer; null if there is none. More than 10,000 positions behind, an event that it does not want may count */
  oldest_undelivered_seconds: number | null;
  /** `down`: its position holds, and one probe at a time goes out */
  health: SubscriptionHealth;
  /** When the next probe goes out, if its destination is down; null if it is up */
  next_probe_at: string | null;
  /** The last failure, in one word */
  last_error: string | null;
  last_error_at: string | null;
  created_at: string;
  /** Of each of its `types` that no known event type matches, and none of the newest 10,000 events' */
  warnings: Array<FilterWarning>;
}

export type SubscriptionStatus = "active" | "paused" | "disabled";

export interface Subscription {
  id: string;
  name: string;
  kind: SubscriptionKind;
  /** A broker's without its credentials, and what a query says as `***` */
  url: string;
  /** NATS only */
  subject: string | null;
  /** RabbitMQ only */
  exchange: string | null;
  /** RabbitMQ only */
  routing_key: string | null;
  /** Kafka only */
  topic: string | null;
  types: Array<string>;
  owners: Array<string>;
  installations: Array<string>;
  order: SubscriptionOrder;
  status: SubscriptionStatus;
  /** It was delivered, parked or left out up to here */
  position: Int64;
  /** Events behind; beyond 10,000 counted by their positions */
  lag: number;
  /** Events that failed and are tried again by schedule; no more than 10,000 are counted, of more than 100 subscriptions fewer of each */
  parked: number;
  /** Events that were given up on, counted likewise */
  dead: number;
  /** Events that it wanted and that were delivered or parked in the last 24 hours. Those that still wait are in `lag`. Counted by the workers, and written once a minute */
  matched_24h: number;
  /** Deliveries of the last 24 hours, replays apart; written once a minute */
  delivered_24h: number;
  /** Tries of the last 24 hours that failed, replays apart; written once a minute */
  failed_24h: number;
  /** How long ago the oldest event came in that it wants and has not got, at the time of the answer; null if there is none. More than 10,000 positions behind, an event that it does not want may count */
  oldest_undelivered_seconds: number | null;
  /** `down`: its position holds, and one probe at a time goes out */
  health: SubscriptionHealth;
  /** When the next probe goes out, if its destination is down; null if it is up */
  next_probe_at: string | null;
  /** The last failure, in one word */
  last_error: string | null;
  last_error_at: string | null;
  created_at: string;
}

export interface TestResult {
  delivered: boolean;
  outcome: string;
  milliseconds: number;
}

/** What Aircall says about an installation's token. */
export type TokenVerdict = "accepted" | "refused" | "foreign";

export interface TokenAnswer {
  access_token: string;
  token_type?: string;
}

export type WebhookStatus = "pending" | "active" | "disabled" | "missing";

export interface Webhook {
  status: WebhookStatus;
  webhook_id: string | null;
  checked_at: string | null;
}

/** What went wrong. Branch on `code`; `detail` is for people. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  /** Stable; more may be added */
  code: "aircall_busy" | "aircall_error" | "aircall_refused" | "aircall_unavailable" | "api_error" | "app_error" | "backfill_put_off" | "body_too_large" | "body_too_slow" | "budget_spent" | "check_under_way" | "claim_not_found" | "claim_of_another" | "clocks_disagree" | "data_key_unusable" | "database_away" | "destination_refused" | "encoding_refused" | "erasure_not_found" | "event_erased" | "event_malformed" | "event_not_found" | "extra_missing" | "idempotency_key_used" | "inbox_full" | "install_attempt_not_found" | "installation_held" | "installation_not_active" | "installation_not_found" | "intake_full" | "invalid_request" | "leaving" | "method_not_allowed" | "not_found" | "not_ready" | "output_lost" | "owner_not_allowed" | "path_not_allowed" | "path_refused" | "position_gone" | "position_unknown" | "redirect_refused" | "replay_not_found" | "rotation_under_way" | "scope_missing" | "seal_broken" | "seal_error" | "seal_key_missing" | "subscription_differs" | "subscription_not_found" | "subscription_unsigned" | "subscriptions_full" | "too_many_at_once" | "too_many_requests" | "too_many_streams" | "too_many_token_reads" | "unauthenticated" | "unavailable" | "webhook_token_unknown";
  request_id: string | null;
  /** With `position_gone`: the oldest valid position */
  oldest?: Int64 | null;
  /** With `position_unknown`: the `after` from which nothing is missed */
  resume_from?: Int64 | null;
  /** With `position_unknown`: the log's newest position */
  newest?: Int64 | null;
}

/** One event. There is no signature and no event id; `token` says which webhook it is of. */
export interface AircallEvent {
  resource?: string;
  event: string;
  /** UNIX time in seconds, or in milliseconds */
  timestamp?: unknown;
  token: string;
  /** Kept byte for byte */
  data: unknown;
}

/** One server-sent event. A line that begins with `:` only keeps the connection open. */
export interface StreamItem {
  /** The event's position: the `after` or `Last-Event-ID` to resume with */
  id: string;
  data: string;
}

export interface CallData {
  id?: Int64;
  direct_link?: string | null;
  call_uuid?: string | null;
  direction?: string | null;
  status?: string | null;
  missed_call_reason?: string | null;
  /** UNIX time in seconds */
  started_at?: Int64 | null;
  /** UNIX time in seconds */
  answered_at?: Int64 | null;
  /** UNIX time in seconds */
  ended_at?: Int64 | null;
  /** Seconds */
  duration?: number | null;
  cost?: string | null;
  hangup_cause?: string | null;
  voicemail?: string | null;
  recording?: string | null;
  asset?: string | null;
  raw_digits?: string | null;
  archived?: boolean | null;
  contact?: ContactData | null;
  number?: NumberData | null;
  user?: UserData | null;
  assigned_to?: UserData | null;
  transferred_by?: UserData | null;
  transferred_to?: UserData | null;
  teams?: Array<Record<string, unknown>> | null;
  comments?: Array<Record<string, unknown>> | null;
  tags?: Array<Record<string, unknown>> | null;
  participants?: Array<Record<string, unknown>> | null;
  [more: string]: unknown;
}

export interface ContactData {
  id?: Int64;
  is_shared?: boolean | null;
  direct_link?: string | null;
  first_name?: string | null;
  last_name?: string | null;
  company_name?: string | null;
  description?: string | null;
  information?: string | null;
  created_at?: string | null;
  updated_at?: string | null;
  phone_numbers?: Array<ContactDetail> | null;
  emails?: Array<ContactDetail> | null;
  [more: string]: unknown;
}

export interface ContactDetail {
  id?: Int64;
  label?: string | null;
  value?: string | null;
  [more: string]: unknown;
}

export interface MessageData {
  id?: string | null;
  direct_link?: string | null;
  direction?: string | null;
  external_number?: string | null;
  raw_digits?: string | null;
  body?: string | null;
  status?: string | null;
  channel?: string | null;
  created_at?: string | null;
  updated_at?: string | null;
  sent_at?: string | null;
  media_details?: Array<Record<string, unknown>> | null;
  number?: NumberData | null;
  contact?: ContactData | null;
  [more: string]: unknown;
}

export interface NumberData {
  id?: Int64;
  direct_link?: string | null;
  name?: string | null;
  digits?: string | null;
  e164_digits?: string | null;
  country?: string | null;
  time_zone?: string | null;
  created_at?: string | null;
  availability_status?: string | null;
  open?: boolean | null;
  is_ivr?: boolean | null;
  live_recording_activated?: boolean | null;
  [more: string]: unknown;
}

export interface UserData {
  id?: Int64;
  available?: boolean | null;
  direct_link?: string | null;
  name?: string | null;
  email?: string | null;
  availability_status?: string | null;
  created_at?: string | null;
  time_zone?: string | null;
  language?: string | null;
  [more: string]: unknown;
}

/** An event of the type `call.created`. */
export interface CallCreatedEvent {
  id: string;
  position: Int64;
  type: "call.created";
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  data: CallData;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

/** An event of the type `call.ringing_on_agent`. */
export interface CallRingingOnAgentEvent {
  id: string;
  position: Int64;
  type: "call.ringing_on_agent";
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  data: CallData;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

/** An event of the type `call.answered`. */
export interface CallAnsweredEvent {
  id: string;
  position: Int64;
  type: "call.answered";
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  data: CallData;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

/** An event of the type `call.hungup`. */
export interface CallHungupEvent {
  id: string;
  position: Int64;
  type: "call.hungup";
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  data: CallData;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

/** An event of the type `call.ended`. */
export interface CallEndedEvent {
  id: string;
  position: Int64;
  type: "call.ended";
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  data: CallData;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

/** An event of the type `call.voicemail_left`. */
export interface CallVoicemailLeftEvent {
  id: string;
  position: Int64;
  type: "call.voicemail_left";
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  data: CallData;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

/** An event of the type `call.tagged`. */
export interface CallTaggedEvent {
  id: string;
  position: Int64;
  type: "call.tagged";
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  data: CallData;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

/** An event of the type `message.received`. */
export interface MessageReceivedEvent {
  id: string;
  position: Int64;
  type: "message.received";
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  data: MessageData;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

/** An event of the type `contact.created`. */
export interface ContactCreatedEvent {
  id: string;
  position: Int64;
  type: "contact.created";
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  data: ContactData;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

/** An event of the type `contact.updated`. */
export interface ContactUpdatedEvent {
  id: string;
  position: Int64;
  type: "contact.updated";
  resource: string | null;
  /** What it is about: a call, a user, a contact …; null where that is not known */
  subject: string | null;
  installation_id: string;
  company_id: Int64;
  owner: string | null;
  occurred_at: string | null;
  received_at: string;
  /** `aircall`; `backfill`: told when asked; `service`: noticed by this service */
  source: string;
  data: ContactData;
  /** Present, and true, if what the event held was erased: a person's, or kept long enough */
  erased?: boolean;
}

export type NewSubscription = NewHttp | NewNats | NewRabbitmq | NewKafka;

export type ReplayRequest = ReplayPast | ReplaySince | ReplayWindow;

export type ReplayAnswer = Subscription | ReplayPreview | Replay;

export type StartPosition = "now" | "beginning" | Int64;

export interface Operations {
  install: "GET /aircall/oauth/install";
  callback: "GET /aircall/oauth/callback";
  list_installations: "GET /v1/installations";
  show_installation: "GET /v1/installations/{installation_id}";
  disconnect: "DELETE /v1/installations/{installation_id}";
  check_installation: "POST /v1/installations/{installation_id}/check";
  read_token: "GET /v1/installations/{installation_id}/token";
  list_install_attempts: "GET /v1/install-attempts";
  show_install_attempt: "GET /v1/install-attempts/{attempt_id}";
  make_install_link: "POST /v1/install-links";
  claim_installation: "POST /v1/claims";
  list_events: "GET /v1/events";
  stream_events: "GET /v1/events/stream";
  show_event: "GET /v1/events/{event_id}";
  create_subscription: "POST /v1/subscriptions";
  list_subscriptions: "GET /v1/subscriptions";
  show_subscription: "GET /v1/subscriptions/{subscription_id}";
  change_subscription: "PATCH /v1/subscriptions/{subscription_id}";
  delete_subscription: "DELETE /v1/subscriptions/{subscription_id}";
  pause_subscription: "POST /v1/subscriptions/{subscription_id}/pause";
  resume_subscription: "POST /v1/subscriptions/{subscription_id}/resume";
  rotate_subscription_secret: "POST /v1/subscriptions/{subscription_id}/rotate-secret";
  test_subscription: "POST /v1/subscriptions/{subscription_id}/test";
  list_subscription_attempts: "GET /v1/subscriptions/{subscription_id}/attempts";
  list_dead_events: "GET /v1/subscriptions/{subscription_id}/dead";
  retry_dead_events: "POST /v1/subscriptions/{subscription_id}/dead/retry";
  replay_subscription: "POST /v1/subscriptions/{subscription_id}/replay";
  list_replays: "GET /v1/subscriptions/{subscription_id}/replays";
  show_replay: "GET /v1/subscriptions/{subscription_id}/replays/{replay_id}";
  stop_replay: "POST /v1/subscriptions/{subscription_id}/replays/{replay_id}/stop";
  resend_event: "POST /v1/events/{event_id}/resend";
  ask_aircall_get: "GET /v1/installations/{installation_id}/aircall/{path}";
  ask_aircall_head: "HEAD /v1/installations/{installation_id}/aircall/{path}";
  ask_aircall_post: "POST /v1/installations/{installation_id}/aircall/{path}";
  ask_aircall_put: "PUT /v1/installations/{installation_id}/aircall/{path}";
  ask_aircall_patch: "PATCH /v1/installations/{installation_id}/aircall/{path}";
  ask_aircall_delete: "DELETE /v1/installations/{installation_id}/aircall/{path}";
  ask_aircall_options: "OPTIONS /v1/installations/{installation_id}/aircall/{path}";
  export_installation: "GET /v1/installations/{installation_id}/export";
  erase_person: "POST /v1/erasures";
  list_erasures: "GET /v1/erasures";
  show_erasure: "GET /v1/erasures/{erasure_id}";
  list_erased_positions: "GET /v1/erasures/{erasure_id}/positions";
  list_retention: "GET /v1/retention";
  show_retention: "GET /v1/retention/{owner}";
  set_retention: "PUT /v1/retention/{owner}";
  reset_retention: "DELETE /v1/retention/{owner}";
  list_audit: "GET /v1/audit";
  livez: "GET /livez";
  readyz: "GET /readyz";
  receive_event: "POST /aircall/webhook";
}
