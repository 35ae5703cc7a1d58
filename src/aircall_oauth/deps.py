"""What a route may ask for."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlmodel import col, select

from aircall_oauth.audit import Who
from aircall_oauth.errors import ScopeMissing, Unauthenticated
from aircall_oauth.models import API_KEY_PURPOSE, ApiKey, Scope, now
from aircall_oauth.resources import Resources

USED_AGAIN_AFTER = timedelta(minutes=1)
bearer = HTTPBearer(auto_error=False, scheme_name="api_key", description="An API key of this service.")


def resources_of(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(resources_of)]


async def caller(
    resources: ResourcesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> ApiKey:
    """The API key of the request. A wrong, revoked or expired key gets the same answer as none."""
    if credentials is None:
        raise Unauthenticated
    await resources.require_ready()
    fingerprint = resources.vault.fingerprint(credentials.credentials, API_KEY_PURPOSE)
    async with resources.database.session() as session:
        key = (await session.exec(select(ApiKey).where(col(ApiKey.fingerprint) == fingerprint))).first()
        if key is None or not key.valid_at(now()):
            raise Unauthenticated
        if key.last_used_at is None or key.last_used_at < now() - USED_AGAIN_AFTER:
            key.last_used_at = now()
            session.add(key)
    structlog.contextvars.bind_contextvars(api_key_id=key.id)
    return key


def scoped(scope: Scope) -> Callable[..., Coroutine[Any, Any, ApiKey]]:
    """The caller, if its key has this scope."""

    async def scoped_caller(key: Annotated[ApiKey, Depends(caller)]) -> ApiKey:
        if not key.may(scope):
            raise ScopeMissing(f"The API key does not have the scope {scope}.")
        return key

    return scoped_caller


def who(request: Request, key: Annotated[ApiKey, Depends(caller)]) -> Who:
    """The caller as the audit tells of it; its address is the socket's, which no header can change."""
    address = request.client.host if request.client else "-"
    return Who(key.id, address, request.scope.get("request_id"))


WhoDep = Annotated[Who, Depends(who)]
InstallationsReader = Annotated[ApiKey, Depends(scoped(Scope.INSTALLATIONS_READ))]
InstallationsWriter = Annotated[ApiKey, Depends(scoped(Scope.INSTALLATIONS_WRITE))]
TokensReader = Annotated[ApiKey, Depends(scoped(Scope.TOKENS_READ))]
EventsReader = Annotated[ApiKey, Depends(scoped(Scope.EVENTS_READ))]
SubscriptionsReader = Annotated[ApiKey, Depends(scoped(Scope.SUBSCRIPTIONS_READ))]
SubscriptionsWriter = Annotated[ApiKey, Depends(scoped(Scope.SUBSCRIPTIONS_WRITE))]
