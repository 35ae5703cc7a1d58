"""How many events of the log wait for each subscription that wants them: counted to a bound, of all together too."""

from dataclasses import dataclass

from aircall_oauth.events import query
from aircall_oauth.events.positions import NEWEST_POSITION
from aircall_oauth.resources import Resources
from aircall_oauth.storage.statuses import SubscriptionStatus

# So many positions past a subscription's own are looked at, and of all subscriptions together.
COUNTED, COUNTED_IN_ALL = 1_000, 20_000
MOST_SUBSCRIPTIONS = 1_000
WAITING = f"""
    WITH head AS MATERIALIZED (SELECT {NEWEST_POSITION} AS position), behind AS MATERIALIZED (
        SELECT s.*, head.position AS head FROM subscription s, head
        WHERE status <> '{SubscriptionStatus.PAUSED}' AND s.position < head.position
        ORDER BY id LIMIT {MOST_SUBSCRIPTIONS}
    ), measure AS MATERIALIZED (
        SELECT least({COUNTED}, {COUNTED_IN_ALL} / greatest(count(*), 1)) AS counted FROM behind
    )
    SELECT s.id, waiting.events, s.head > s.position + m.counted AS more
    FROM behind s CROSS JOIN measure m
    CROSS JOIN LATERAL {query.like_patterns("s")} AS patterns
    CROSS JOIN LATERAL (
        SELECT count(*) AS events FROM event e
        WHERE e.position > s.position AND e.position <= s.position + m.counted
          AND {query.wanted_by("s", "e", "patterns")}
    ) AS waiting
"""


@dataclass(frozen=True)
class Waiting:
    """Events of the log that are wanted and not delivered; `more` if there are positions that were not looked at."""

    events: int = 0
    more: bool = False

    def __add__(self, other: "Waiting") -> "Waiting":
        return Waiting(self.events + other.events, self.more or other.more)

    def __str__(self) -> str:
        return f"{self.events:,}{' or more' if self.more else ''}"


async def in_the_log(resources: Resources) -> dict[str, Waiting]:
    """Count what waits in the log for each subscription that is behind and not paused."""
    async with resources.database.driver_connection() as connection:
        return {row["id"]: Waiting(row["events"], row["more"]) for row in await connection.fetch(WAITING)}
