"""From a customer to a replay of its events: to which destination?"""

from urllib.parse import urlencode

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from aircall_oauth.console import delivery_words
from aircall_oauth.console.frame import PageDep, guarded
from aircall_oauth.console.pages.customer_acts import name_of
from aircall_oauth.console.parameters import InstallationId
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.deliveries import troubled, views
from aircall_oauth.installations.views import show_installation

router = APIRouter(route_class=PageRoute)

MOST = 500


@router.get("/customers/{installation_id}/replay")
async def choose_destination(page: PageDep, installation_id: InstallationId) -> Response:
    """Ask to which destination a customer's events are sent once more; of one there is no choice."""
    customer = await show_installation(page.resources, page.caller, installation_id)
    found = (await views.list_all(page.resources, page.caller, cursor=None, limit=MOST)).items
    lately = await troubled.lately(page.resources, [each.id for each in found])
    query = urlencode({"installations": installation_id})
    if len(found) == 1:
        return guarded(RedirectResponse(f"/destinations/{found[0].id}/replay?{query}", 303))
    return page.show(
        "choose_destination.html",
        title=f"Replay events of {name_of(customer)}",
        sentence="Choose to which destination they are sent once more; they are counted first."
        if found
        else "There is no destination yet that they could be sent to.",
        rows=[(each, delivery_words.of_destination(each, lately=lately.get(each.id))) for each in found],
        query=query,
        back=f"/customers/{installation_id}",
    )
