"""Events at a steady pace, each with the moment of its answer; in a process of its own.

python -m bench.paced PORT TOKEN PER_SECOND SECONDS SALT FILE
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import uvloop

from bench import ground
from bench.load import requests


def load(port: int, token: str, per_second: int, seconds: int, salt: int) -> dict[int, float]:
    """The number of each event, and when it was answered, by the machine's monotonic clock."""
    # In a file: of what a process prints after uvloop ran in it, a pipe may get the first 64 or 128 KiB only.
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        arguments = [str(each) for each in (port, token, per_second, seconds, salt, file.name)]
        command = [sys.executable, "-m", "bench.paced", *arguments]
        subprocess.run(command, check=True, cwd=ground.ROOT, timeout=seconds + 60)
        return {int(number): at for number, at in json.load(file).items()}


async def send(port: int, token: str, per_second: int, seconds: int, salt: int) -> dict[int, float]:
    bodies = [(head.partition(b"\r\n\r\n")[2], tail) for head, tail in requests(token)]
    answered: dict[int, float] = {}
    url = f"http://127.0.0.1:{port}/aircall/webhook"
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def post(number: int) -> None:
            head, tail = bodies[number % len(bodies)]
            async with session.post(url, data=b"%s%d%s" % (head, number, tail)) as response:
                await response.read()
                answered[number] = time.monotonic()
                assert response.status == 200

        started, tasks = time.monotonic(), []
        for count in range(per_second * seconds):
            await asyncio.sleep(max(started + count / per_second - time.monotonic(), 0))
            tasks.append(asyncio.create_task(post(salt * 10**12 + count)))
        await asyncio.gather(*tasks)
    return answered


if __name__ == "__main__":
    port_, token_, *numbers, path = sys.argv[1:]
    result = uvloop.run(send(int(port_), token_, *map(int, numbers)))
    Path(path).write_text(json.dumps(result))
