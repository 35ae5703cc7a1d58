"""What most teams would write: FastAPI, a Pydantic body, an SQLModel session; recognise, store once, answer."""

import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import JSON, Column, DateTime
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.storage.database import Database


class PlainWebhook(SQLModel, table=True):
    __tablename__ = "plain_webhook"
    id: int | None = Field(default=None, primary_key=True)
    token: str = Field(unique=True, index=True)


class PlainEvent(SQLModel, table=True):
    __tablename__ = "plain_event"
    id: int | None = Field(default=None, primary_key=True)
    webhook_id: int = Field(index=True)
    event: str
    fingerprint: str = Field(unique=True)
    received_at: datetime = Field(sa_column=Column(DateTime(timezone=True)))
    data: dict[str, Any] = Field(sa_column=Column(JSON))


class AircallEvent(BaseModel):
    resource: str | None = None
    event: str
    timestamp: int | None = None
    token: str
    data: dict[str, Any]


database = Database(os.environ["BENCH_DATABASE_URL"])
engine = create_async_engine("postgresql+asyncpg://", async_creator=database.connect, pool_size=20)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    tables = [SQLModel.metadata.tables[name] for name in ("plain_webhook", "plain_event")]
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: SQLModel.metadata.create_all(sync, tables=tables))
    async with AsyncSession(engine) as session:
        if (await session.exec(select(PlainWebhook))).first() is None:
            session.add(PlainWebhook(token=os.environ["BENCH_TOKEN"]))
            await session.commit()
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/aircall/webhook")
async def receive(event: AircallEvent) -> dict[str, bool]:
    content = json.dumps([event.event, event.timestamp, event.data], sort_keys=True)
    async with AsyncSession(engine) as session:
        found = await session.exec(select(PlainWebhook).where(PlainWebhook.token == event.token))
        webhook = found.first()
        if webhook is None or webhook.id is None:
            raise HTTPException(401)
        session.add(
            PlainEvent(
                webhook_id=webhook.id,
                event=event.event,
                fingerprint=hashlib.sha256(content.encode()).hexdigest(),
                received_at=datetime.now(UTC),
                data=event.data,
            )
        )
        try:
            await session.commit()
        except IntegrityError:
            await session.rollback()
    return {"ok": True}
