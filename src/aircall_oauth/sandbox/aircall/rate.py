"""The rate limit: requests per minute for one company, over all its tokens."""

from aircall_oauth.sandbox.aircall import refusals

WINDOW_SECONDS = 60


class Rate:
    def __init__(self) -> None:
        self._windows: dict[int, tuple[int, int]] = {}

    def spend(self, company_id: int, limit: int, now: float) -> None:
        """Count one request; raises `RefusedError` (429) where the minute is used up."""
        window = int(now) // WINDOW_SECONDS
        counted, spent = self._windows.get(company_id, (window, 0))
        spent = spent if counted == window else 0
        if spent >= limit:
            raise refusals.too_many_requests(limit, (window + 1) * WINDOW_SECONDS)
        self._windows[company_id] = (window, spent + 1)
