"""The endpoint of the audit, for the partner's systems."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from aircall_oauth.access import audit_lines
from aircall_oauth.access.audit_lines import CURSOR, Asked, AuditPage
from aircall_oauth.access.dependencies import AuditReader, ResourcesDep
from aircall_oauth.access.parameters import ID, TEXT, Moment
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.errors import InvalidRequest

api = APIRouter(prefix="/v1/audit", tags=["Audit"], route_class=StrictRoute)

CSV = "text/csv"
MOST_ACTIONS = 100
Pattern = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
Text = Annotated[str | None, Query(min_length=1, max_length=255, pattern=TEXT)]


def asked(
    action: Annotated[
        list[Pattern],
        Query(
            max_length=MOST_ACTIONS,
            description="Actions; `subscription.*` is all that begin so. A read token is `token.read`, a proxied call "
            "`aircall.read` or `aircall.write`",
            examples=[["token.read"]],
        ),
    ] = [],  # noqa: B006 - the framework copies it
    actor: Annotated[
        Text, Query(description="An API key's id or name, a person's name, `operator` or `service`")
    ] = None,
    installation_id: Annotated[str | None, Query(pattern=ID)] = None,
    owner: Text = None,
    subscription_id: Annotated[str | None, Query(pattern=r"^sub_[0-9a-f]{32}$")] = None,
    request_id: Annotated[
        str | None, Query(pattern=r"^[!-~]{1,128}$", description="The `x-request-id` of an answer")
    ] = None,
    since: Annotated[Moment | None, Query(description="At this time or later")] = None,
    until: Annotated[Moment | None, Query(description="Before this time")] = None,
    cursor: Annotated[str | None, Query(pattern=CURSOR, description="`next` of the page before")] = None,
) -> Asked:
    """Read the filter from the query parameters; raises `InvalidRequest` for an action that there is not."""
    try:
        actions = audit_lines.actions_of(action)
    except ValueError as error:
        raise InvalidRequest(f"query.action: {error}") from None
    return Asked(actions, actor, installation_id, owner, subscription_id, request_id, since, until, cursor)


@api.get(
    "",
    summary="Read the audit",
    response_model=AuditPage,
    responses=problems(401, 403, 422, 503) | {200: {"content": {CSV: {"schema": {"type": "string"}}}}},
)
async def list_audit(
    key: AuditReader,
    resources: ResourcesDep,
    wanted: Annotated[Asked, Depends(asked)],
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    format_: Annotated[
        Literal["json", "csv"] | None, Query(alias="format", description="Instead of the header `Accept`")
    ] = None,
) -> AuditPage | Response:
    """Who did what, when, from where: newest first. An API key bound to an owner sees what concerned that owner only.

    As CSV with `Accept: text/csv` or `format=csv`; the header `Link` then leads to the next page.
    """
    page = await audit_lines.page(resources, key, wanted, limit=limit)
    if format_ == "json" or (format_ is None and CSV not in request.headers.get("accept", "")):
        return page
    headers = {"cache-control": "no-store", "content-disposition": 'attachment; filename="audit.csv"'}
    if page.next is not None:
        headers["link"] = f'<?{request.url.include_query_params(cursor=page.next).query}>; rel="next"'
    return Response(audit_lines.as_csv(page.items), media_type=CSV, headers=headers)
