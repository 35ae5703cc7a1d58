// What goes wrong, by the service's stable `code`.

/** The base of every error of this package. */
export class ClientError extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

export interface ProblemBody {
  code?: unknown;
  status?: unknown;
  detail?: unknown;
  request_id?: unknown;
  [more: string]: unknown;
}

const ADVICE: Record<string, string> = {
  unauthenticated: " This one is unknown, revoked or expired; `aircall-oauth keys list` shows those that are good.",
  scope_missing: " `aircall-oauth keys create --scopes …` makes one that has it.",
};

function adviceOn(code: unknown): string {
  return ADVICE[String(code)] ?? "";
}

/** The service refused. Branch on `code`, or on the class; `detail` is for people. */
export class ServiceError extends ClientError {
  readonly code: string;
  readonly status: number;
  readonly detail: string;
  readonly requestId: string | undefined;

  constructor(
    readonly problem: ProblemBody,
    /** Seconds to wait before another try, where the service says so. */
    readonly retryAfter: number | undefined = undefined,
  ) {
    super(`${String(problem.code)}: ${String(problem.detail)}${adviceOn(problem.code)} (request ${String(problem.request_id)})`);
    this.code = String(problem.code ?? "unknown");
    this.status = Number(problem.status ?? 0);
    this.detail = String(problem.detail ?? "");
    this.requestId = typeof problem.request_id === "string" ? problem.request_id : undefined;
  }
}

/** The API key is not known, revoked or expired. */
export class Unauthenticated extends ServiceError {}
/** The API key lacks the scope that this needs. */
export class ScopeMissing extends ServiceError {}
/** The API key is bound to another owner. */
export class OwnerNotAllowed extends ServiceError {}
/** There is no such thing, or not for this API key. */
export class NotFound extends ServiceError {}
/** What was sent is not valid; `detail` says what and where. */
export class InvalidRequest extends ServiceError {}
/** The claim was never given, was used by another owner, or is older than an hour. */
export class ClaimNotFound extends NotFound {}
/** The link that the claim came from was another owner's. */
export class ClaimOfAnother extends ServiceError {}
/** The installation belongs to another owner. */
export class InstallationHeld extends ServiceError {}
/** There is a subscription of this name that delivers otherwise. */
export class SubscriptionDiffers extends ServiceError {}
/** The installation cannot be asked as: its customer must connect again. */
export class InstallationNotActive extends ServiceError {}
/** Wait `retryAfter` seconds. */
export class TooManyRequests extends ServiceError {}
/** Nothing is lost; try again. */
export class Unavailable extends ServiceError {}

/** Events past the position were dropped already. */
export class PositionGone extends ServiceError {
  get oldest(): number | bigint {
    return this.problem["oldest"] as number | bigint;
  }
}

/** The log was restored and lacks what was read. From `resumeFrom` on nothing is missed. */
export class PositionUnknown extends ServiceError {
  get resumeFrom(): number | bigint {
    return this.problem["resume_from"] as number | bigint;
  }
  get newest(): number | bigint {
    return this.problem["newest"] as number | bigint;
  }
}

/** Aircall itself answered with an error: `status` and `data` are Aircall's. */
export class AircallError extends ClientError {
  constructor(
    readonly status: number,
    readonly data: unknown,
    readonly retryAfter: number | undefined = undefined,
  ) {
    super(`Aircall answered ${status}`);
  }
}

/** There was no answer: whether the request arrived is not known. */
export class ConnectionLost extends ClientError {}
/** A function of yours threw while it dealt with an event; what it threw is the `cause`.
 *
 * A framework takes the status of some errors for its answer. The service would take it for your receiver's own: a 410
 * switches the subscription off. */
export class HandlerFailed extends ClientError {}

/** The request is not a delivery of the service, or too old. */
export class SignatureInvalid extends ClientError {}

type Kind = new (problem: ProblemBody, retryAfter?: number) => ServiceError;

const BY_CODE = new Map<string, Kind>([
  ["unauthenticated", Unauthenticated],
  ["scope_missing", ScopeMissing],
  ["owner_not_allowed", OwnerNotAllowed],
  ["claim_not_found", ClaimNotFound],
  ["claim_of_another", ClaimOfAnother],
  ["installation_held", InstallationHeld],
  ["installation_not_active", InstallationNotActive],
  ["subscription_differs", SubscriptionDiffers],
  ["position_gone", PositionGone],
  ["position_unknown", PositionUnknown],
]);
const BY_STATUS = new Map<number, Kind>([
  [400, InvalidRequest],
  [401, Unauthenticated],
  [404, NotFound],
  [413, InvalidRequest],
  [415, InvalidRequest],
  [422, InvalidRequest],
  [429, TooManyRequests],
  [502, Unavailable],
  [503, Unavailable],
]);

/** The error for a problem of the service; one whose code is not known yet goes by its status. */
export function serviceError(problem: ProblemBody, retryAfter?: number): ServiceError {
  const Known = BY_CODE.get(String(problem.code)) ?? BY_STATUS.get(Number(problem.status)) ?? ServiceError;
  return new Known(problem, retryAfter);
}
