"""What a route may depend on: resources, the caller with a scope, the actor for the audit."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from aircall_oauth.access import known_keys
from aircall_oauth.access.audit import Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.access.scopes import Scope
from aircall_oauth.errors import ScopeMissing, Unauthenticated
from aircall_oauth.resources import Resources

bearer = HTTPBearer(auto_error=False, scheme_name="api_key", description="An API key of this service.")


# All of these are `async`: the framework runs a plain `def` in a thread, which costs as much as a statement.
async def resources_of(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(resources_of)]


async def authenticate(request: Request) -> None:
    """Recognise the API key of a request; raises `Unauthenticated`, alike for no key and a wrong or expired one."""
    credentials = await bearer(request)
    if credentials is None:
        raise Unauthenticated
    resources = await resources_of(request)
    await resources.require_ready()
    key = await known_keys.recognise(resources, credentials.credentials)
    if key is None:
        raise Unauthenticated
    structlog.contextvars.bind_contextvars(api_key_id=key.id)
    request.state.caller = key


async def caller(
    request: Request, _documented: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]
) -> Caller:
    """Return the caller that the route recognised before it read anything else of the request."""
    key: Caller = request.state.caller
    return key


def require_scope(key: Caller, scope: Scope) -> None:
    """Raise `ScopeMissing` if a caller's key lacks a scope."""
    if not key.may(scope):
        raise ScopeMissing(f"The API key does not have the scope {scope}.")


def scoped(scope: Scope) -> Callable[..., Coroutine[Any, Any, Caller]]:
    """Return a dependency for the caller, which raises `ScopeMissing` if its key lacks a scope.

    The dependency has the scope as an attribute, for the API's document.
    """

    async def scoped_caller(key: Annotated[Caller, Depends(caller)]) -> Caller:
        require_scope(key, scope)
        return key

    scoped_caller.scope = scope  # type: ignore[attr-defined]
    return scoped_caller


async def who(request: Request, key: Annotated[Caller, Depends(caller)]) -> Who:
    """Return the caller for the audit; its address is the socket's, which no header can change."""
    address = request.client.host if request.client else "-"
    return Who(key.id, address, request.scope.get("request_id"))


WhoDep = Annotated[Who, Depends(who)]
InstallationsReader = Annotated[Caller, Depends(scoped(Scope.INSTALLATIONS_READ))]
InstallationsWriter = Annotated[Caller, Depends(scoped(Scope.INSTALLATIONS_WRITE))]
TokensReader = Annotated[Caller, Depends(scoped(Scope.TOKENS_READ))]
AircallCaller = Annotated[Caller, Depends(scoped(Scope.AIRCALL_CALL))]
EventsReader = Annotated[Caller, Depends(scoped(Scope.EVENTS_READ))]
PrivacyEraser = Annotated[Caller, Depends(scoped(Scope.PRIVACY_ERASE))]
PrivacyKeeper = Annotated[Caller, Depends(scoped(Scope.PRIVACY_RETENTION))]
PrivacyExporter = Annotated[Caller, Depends(scoped(Scope.PRIVACY_EXPORT))]
AuditReader = Annotated[Caller, Depends(scoped(Scope.AUDIT_READ))]
SubscriptionsReader = Annotated[Caller, Depends(scoped(Scope.SUBSCRIPTIONS_READ))]
SubscriptionsWriter = Annotated[Caller, Depends(scoped(Scope.SUBSCRIPTIONS_WRITE))]
