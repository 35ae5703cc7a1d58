"""Pass on what is said over one connection to another, both ways."""

import asyncio

CHUNK = 65_536


async def pass_both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    server_reader: asyncio.StreamReader,
    server_writer: asyncio.StreamWriter,
) -> None:
    """Copy until both have ended, or one breaks; both are closed then."""
    try:
        await asyncio.gather(pass_on(reader, server_writer), pass_on(server_reader, writer))
    finally:
        server_writer.close()
        writer.close()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one way; a half that is closed there is closed here, too."""
    try:
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()
