"""Customers that need a person: refused tokens, webhooks that are off, silence, missing numbers, missing claims."""

from aircall_oauth.operations.doctor import Level
from aircall_oauth.operations.needs import MOST_NAMED, Cause, Need, Touched
from aircall_oauth.resources import Resources
from aircall_oauth.storage.statuses import InstallationStatus, WebhookStatus

MOST_COUNTED = 1000
NAME = "coalesce(i.company_name, i.owner, i.id)"
ACTIVE = f"i.status = '{InstallationStatus.ACTIVE}'"
OFF = f"'{WebhookStatus.DISABLED}', '{WebhookStatus.MISSING}'"
# A webhook is registered, and an installation claimed, within seconds.
LATE = "interval '5 minutes'"
# Each gives id, name and since when; the longest first.
# Where Aircall refused a token in another request than the worker's, the event that says so has the time.
REFUSED = f"""
    SELECT r.id, r.name, CASE WHEN r.n <= {MOST_NAMED} THEN coalesce(r.refused_at, (
        SELECT received_at FROM event
        WHERE installation_id = r.id AND type = 'installation.unauthorized' ORDER BY position DESC LIMIT 1
    )) END
    FROM (
        SELECT i.id, {NAME} AS name, w.refused_at, row_number() OVER (ORDER BY w.refused_at, i.id) AS n
        FROM installation AS i LEFT JOIN webhook AS w ON w.installation_id = i.id
        WHERE i.status = '{InstallationStatus.UNAUTHORIZED}' ORDER BY n LIMIT {MOST_COUNTED}
    ) AS r ORDER BY r.n
"""  # noqa: S608 - only constants of ours are put in
SWITCHED_OFF = f"""
    SELECT i.id, {NAME}, g.since FROM webhook AS w JOIN installation AS i ON i.id = w.installation_id AND {ACTIVE}
    LEFT JOIN LATERAL (SELECT min(since) AS since FROM gap WHERE installation_id = i.id AND until IS NULL) AS g ON true
    WHERE w.status IN ({OFF}) ORDER BY g.since, i.id LIMIT {MOST_COUNTED}
"""  # noqa: S608 - likewise
PENDING = f"""
    SELECT i.id, {NAME}, i.connected_at FROM webhook AS w
    JOIN installation AS i ON i.id = w.installation_id AND {ACTIVE}
    WHERE w.status = '{WebhookStatus.PENDING}' AND i.connected_at < now() - {LATE}
    ORDER BY i.connected_at, i.id LIMIT {MOST_COUNTED}
"""  # noqa: S608 - likewise
UNCLAIMED = f"""
    SELECT i.id, {NAME}, i.connected_at FROM installation AS i
    WHERE i.status = '{InstallationStatus.UNCLAIMED}' AND i.connected_at < now() - {LATE}
    ORDER BY i.connected_at, i.id LIMIT {MOST_COUNTED}
"""  # noqa: S608 - likewise
SILENT = f"""
    SELECT i.id, {NAME}, to_timestamp(3600 * (r.hour + 1)) FROM rhythm AS r
    JOIN installation AS i ON i.id = r.installation_id AND {ACTIVE}
    WHERE r.silent_at <= now() ORDER BY r.silent_at, i.id LIMIT {MOST_COUNTED}
"""  # noqa: S608 - likewise
NUMBERLESS = f"""
    SELECT i.id, {NAME}, i.connected_at FROM installation AS i
    WHERE {ACTIVE} AND i.number_ids = '{{}}' ORDER BY i.connected_at, i.id LIMIT {MOST_COUNTED}
"""  # noqa: S608 - likewise
LOOKED_FOR = (
    (
        Cause.TOKENS_REFUSED,
        Level.PROBLEM,
        REFUSED,
        "Aircall no longer accepts the token of",
        "Ask its admin to install the app again; id and owner stay.",
    ),
    (
        Cause.WEBHOOKS_OFF,
        Level.PROBLEM,
        SWITCHED_OFF,
        "The webhook at Aircall is off or gone of",
        "The worker repairs it; check now to see why it can't.",
    ),
    (
        Cause.WEBHOOKS_PENDING,
        Level.PROBLEM,
        PENDING,
        "Connected, but the webhook is still not registered at Aircall, so nothing comes, of",
        "The worker goes on trying; check now to see why it can't.",
    ),
    (
        Cause.UNCLAIMED,
        Level.WARNING,
        UNCLAIMED,
        "Connected at Aircall, but not claimed by its owner, and erased an hour after:",
        "Its owner opens your own page once more in the browser that installed; otherwise send a fresh link.",
    ),
    (
        Cause.SILENT,
        Level.WARNING,
        SILENT,
        "No events come, at hours when they usually do, from",
        "Check now: it says whether webhook, numbers and token are well.",
    ),
    (
        Cause.NO_NUMBERS,
        Level.WARNING,
        NUMBERLESS,
        "No number is linked to the app in Aircall, so no calls come, from",
        "Only its admin can choose numbers, in Aircall's Dashboard.",
    ),
)
# All of them in one round trip: of each so many as are named, and how many there are.
LOOK = " UNION ALL ".join(
    f"""(
        SELECT {n} AS looked_for, row_number() OVER () AS nth, id, name, since, count(*) OVER () AS found
        FROM ({statement}) AS each (id, name, since) ORDER BY nth LIMIT {MOST_NAMED}
    )"""  # noqa: S608 - only constants of ours are put in
    for n, (_, _, statement, _, _) in enumerate(LOOKED_FOR)
)


async def look(resources: Resources) -> list[Need]:
    """Return what customers need a person for; raises `DatabaseAway`."""
    async with resources.database.driver_connection() as connection:
        rows = sorted(await connection.fetch(LOOK), key=lambda row: row["nth"])
    needs = []
    for n, (cause, level, _, what, advice) in enumerate(LOOKED_FOR):
        if found := [row for row in rows if row["looked_for"] == n]:
            named = tuple(Touched(row["id"], row["name"]) for row in found)
            needs.append(Need(cause, level, what, advice, found[0]["since"], named, found[0]["found"]))
    return needs
