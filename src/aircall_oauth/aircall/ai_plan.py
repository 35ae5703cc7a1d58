"""The paths that Aircall answers for companies with an AI plan only."""

import re
from urllib.parse import unquote

from aircall_oauth.aircall import versions

# What Aircall answers there to a company without the plan. Everywhere else it means that the token is dead.
MISSING = 403
OF_A_CALL = re.compile(
    r"calls/[^/]+/(?:(?:realtime_)?transcriptions?|(?:custom_)?summary|custom_summary_result|topics|sentiments?|"
    r"action_items|playbooks?|playbook_results?|(?:call_)?evaluations?)(?:/.*)?",
    re.DOTALL,
)


def is_needed(path: bytes) -> bool:
    """Whether a path, as it was sent, is one of those that need an AI plan."""
    _, rest = versions.split(path.decode())
    return OF_A_CALL.fullmatch(unquote(rest)) is not None
