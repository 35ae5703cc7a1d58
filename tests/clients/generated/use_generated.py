"""A client that openapi-python-client made: lists, changes a subscription, asks Aircall."""

import os

from made.api.aircall import ask_aircall_get
from made.api.subscriptions import change_subscription, list_subscriptions
from made.client import AuthenticatedClient
from made.models import Problem, ProblemCode, SubscriptionChange, SubscriptionList, SubscriptionSaved

subscription, installation = os.environ["SUBSCRIPTION"], os.environ["INSTALLATION"]

with AuthenticatedClient(base_url=os.environ["SERVICE_URL"], token=os.environ["API_KEY"]) as client:
    listed = list_subscriptions.sync(client=client)
    assert isinstance(listed, SubscriptionList)
    assert [one.id for one in listed.items] == [subscription]

    body = SubscriptionChange(types=["call.*", "user.*"])
    changed = change_subscription.sync(subscription, client=client, body=body)
    assert isinstance(changed, SubscriptionSaved), changed
    assert (changed.types, changed.name) == (["call.*", "user.*"], listed.items[0].name)

    refused = change_subscription.sync(subscription, client=client, body=SubscriptionChange(name=""))
    assert isinstance(refused, Problem)
    assert refused.code == ProblemCode.INVALID_REQUEST

    # The slash of the path is sent percent-encoded.
    asked = ask_aircall_get.sync_detailed(installation, "integrations/me", client=client)
    assert asked.status_code == 200
    assert b"integration" in asked.content
