"""Connections over which many requests go out: to Aircall for its callers, and to the partner's systems."""

from typing import Any

import aiohttp


class OnlyAnswer(aiohttp.ClientRequest):
    """Is not sent over a kept connection on which something came that nobody asked for.

    It would be taken for the answer to this request, and the answer to this one for that of the next, whose ever it is.
    """

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        if conn.protocol.should_close:
            raise aiohttp.ServerDisconnectedError("something came unasked")
        return await super().send(conn)


class LastWord(aiohttp.ClientResponse):
    """Ends its connection where it is a 101, as nobody asked for another protocol.

    aiohttp keeps such a connection, and takes what comes after it for the answer to the next request.
    """

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        await super().start(connection)
        if self.status == 101:
            protocol.close()
        return self


def open_session(connector: aiohttp.TCPConnector, **options: Any) -> aiohttp.ClientSession:
    """A session that sends a request once and as it is, keeps no cookies, and gives answers as they come."""
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        request_class=OnlyAnswer,
        response_class=LastWord,
        **options,
    )
    # It would send a PUT or a DELETE once more on its own. There is no public way to say no.
    session._retry_connection = False
    return session
