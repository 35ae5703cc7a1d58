"""Sessions of aiohttp that send a request once and unchanged."""

from typing import Any

import aiohttp


class OnlyAnswer(aiohttp.ClientRequest):
    """A request that is not sent over a kept connection on which unrequested data has arrived.

    That data would be taken for this request's answer, and this request's answer for the next request's.
    """

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        if conn.protocol.should_close:
            raise aiohttp.ServerDisconnectedError("something came unasked")
        return await super().send(conn)


class LastWord(aiohttp.ClientResponse):
    """A response that closes its connection where it is a 101: we never ask for another protocol.

    aiohttp keeps such a connection, and takes what follows for the answer to the next request.
    """

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        await super().start(connection)
        if self.status == 101:
            protocol.close()
        return self


def open_session(connector: aiohttp.TCPConnector, **options: Any) -> aiohttp.ClientSession:
    """Open a session that sends a request once and unchanged, keeps no cookies, and does not decode answers."""
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        request_class=OnlyAnswer,
        response_class=LastWord,
        **options,
    )
    # aiohttp would send a PUT or a DELETE a second time on its own. There is no public way to turn that off.
    session._retry_connection = False
    return session
