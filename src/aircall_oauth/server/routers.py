"""Every router of the public port, in the order of the document."""

from aircall_oauth.access import routes as access
from aircall_oauth.deliveries import routes as deliveries
from aircall_oauth.deliveries.replays import routes as replays
from aircall_oauth.events import routes as events
from aircall_oauth.installations import routes as installations
from aircall_oauth.installations.attempts import routes as attempts
from aircall_oauth.installations.oauth import routes as oauth
from aircall_oauth.privacy import routes as privacy
from aircall_oauth.proxy import routes as proxy
from aircall_oauth.server import health

ROUTERS = (
    oauth.browser,
    installations.api,
    attempts.api,
    oauth.custody,
    events.api,
    deliveries.of_events,
    deliveries.api,
    replays.api,
    replays.of_events,
    proxy.api,
    privacy.exports,
    privacy.api,
    privacy.keeping,
    access.api,
    health.router,
)
TITLE = "aircall-oauth"
