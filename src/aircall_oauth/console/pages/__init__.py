"""The pages, one module each. A new one is added to `PAGES`, and has a line in `frame.NAVIGATION`."""

from aircall_oauth.console.pages import (
    attempts,
    audit,
    calls,
    customer_acts,
    customers,
    event,
    events,
    keys,
    search,
    sessions,
    sign_in,
    vault,
    well,
)

PAGES = (
    well.router,
    customers.router,
    customer_acts.router,
    attempts.router,
    events.router,
    event.router,
    calls.router,
    audit.router,
    keys.router,
    vault.router,
    search.router,
    sign_in.router,
    sign_in.signed_in,
    sessions.router,
)
