"""The clients for Aircall's API that a process has: one for its own requests, one for its callers'."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from aircall_oauth.aircall.client import Aircall
from aircall_oauth.aircall.relay import Relay
from aircall_oauth.aircall.transport import QuickTransport
from aircall_oauth.http_client import trust

Watched = Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]


@dataclass(frozen=True)
class Clients:
    own: Aircall
    relay: Relay

    async def close(self) -> None:
        await self.relay.close()
        await self.own.close()


def open_clients(
    *,
    api_url: str,
    client_id: str,
    client_secrets: Sequence[SecretStr],
    redirect_uri: str,
    proxy: str,
    transport: httpx.AsyncBaseTransport | None,
    watched: Watched | None,
) -> Clients:
    """Open both clients; they keep connections until they are closed.

    `proxy` is what https goes through, if not empty; `transport` stands for the network; `watched` puts what traces
    requests around a transport.
    """
    own, callers = (transport, transport) if transport else _transports(proxy if api_url.startswith("https://") else "")
    if watched is not None:
        own, callers = watched(own), watched(callers)
    return Clients(
        Aircall(
            api_url=api_url,
            client_id=client_id,
            client_secrets=client_secrets,
            redirect_uri=redirect_uri,
            transport=own,
        ),
        Relay(api_url=api_url, transport=callers),
    )


def trust_for_aircall() -> ssl.SSLContext:
    """Return a TLS context with the public authorities that come with httpx, and those that deliveries trust."""
    context = trust(httpx.create_ssl_context(trust_env=False))
    context.load_default_certs()
    return context


def _transports(proxy: str) -> tuple[httpx.AsyncBaseTransport, httpx.AsyncBaseTransport]:
    """Return the transports for the service's own requests and for its callers'; they share one TLS context."""
    context = trust_for_aircall()
    own = httpx.AsyncHTTPTransport(verify=context, trust_env=False, proxy=httpx.Proxy(proxy) if proxy else None)
    return own, QuickTransport(context, proxy)
