"""What most teams would write: FastAPI and httpx, one route, the token put in, the whole answer passed back."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request, Response

DROPPED = {"host", "authorization", "cookie", "connection", "content-length"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["BENCH_API_URL"], trust_env=False) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.api_route("/v1/installations/{_installation_id}/aircall/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
async def ask_aircall(_installation_id: str, path: str, request: Request) -> Response:
    headers = {name: value for name, value in request.headers.items() if name not in DROPPED}
    headers["authorization"] = "Bearer bench-access-token"
    client: httpx.AsyncClient = request.app.state.client
    answer = await client.request(
        request.method, path, params=request.query_params, headers=headers, content=await request.body()
    )
    return Response(answer.content, answer.status_code, {"content-type": answer.headers["content-type"]})
