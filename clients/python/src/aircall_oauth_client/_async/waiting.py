"""Waiting, as this kind of client does."""

import asyncio


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)
