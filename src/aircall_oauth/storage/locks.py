"""PostgreSQL's advisory locks: every number that this service takes one under.

A number never changes: two versions of the service may run at the same time, and migrations have `LOG` (0010) and
`LOG_DAYS` (0028) written out.
"""

# Of 64 bits: one lock for the whole database.
# Held from drawing an event's position until its commit, so that positions commit in order (`events/store`).
LOG = 0x61697263616C6C2D6C6F67 & 0x7FFFFFFFFFFFFFFF  # "aircall-log"
# Held while a missing day of the log is made, so that two processes do not make the same one (migration 0028).
LOG_DAYS = 0x6576656E742D64  # "event-d"
# Held while an epoch of the log is begun, so that a restored log begins one and not several (`storage/epochs`).
LOG_EPOCHS = 0x65706F63682D6C6F67 & 0x7FFFFFFFFFFFFFFF  # "epoch-log"
# Held while subscriptions are counted and one is added, so that no limit is exceeded (`deliveries/subscriptions`).
SUBSCRIPTIONS = 0x726F6F6D  # "room"
# Held while failures of flows without a link are counted and one is added (`installations/attempts`).
INSTALL_FAILURES = 0x696E7374616C6C  # "install"
# Held while a step of an erasure is written, so that two of them never wait for each other (`privacy/erasing`).
ERASURES = 0x6572617365  # "erase"
# Held by a session while it seals all secrets anew, so that one rotation runs at a time (`operations/rotation`).
ROTATION = 0x726F74617465  # "rotate"
# Held by a session while it migrates the schema, so that one process does at a time (`alembic/env.py`).
MIGRATION = 0x61697263616C6C  # "aircall"

# Of two times 32 bits: this number, and one for what is locked.
# With an Aircall company: held while an install saves its installation (`installations/oauth/saving`).
COMPANY_INSTALL = 1
# With an actor: held while the actor's recent calls are counted, so that the limit holds (`access/audit`).
ACTOR_COUNT = 2
# With an Aircall company: held while its webhooks are adopted or retired (`installations/upkeep/adopt`).
COMPANY_WEBHOOKS = 3
