"""Brakes failed sign-ins, by address and in all, as failed installs are braked."""

from collections.abc import Iterator
from contextlib import contextmanager

from aircall_oauth.errors import ConsoleError, TooManyFailedInstalls, TooManySignIns
from aircall_oauth.installations.oauth.brake import Brake


class SignInBrake:
    """Counts the sign-ins of this process that failed within the last minute."""

    def __init__(self) -> None:
        self._brake = Brake()

    @contextmanager
    def attempt(self, address: str | None) -> Iterator[None]:
        """Take a turn for a sign-in, which counts if it is refused; raises `TooManySignIns`."""
        try:
            turn = self._brake.take(address)
        except TooManyFailedInstalls as error:
            raise TooManySignIns(error.retry_after_seconds) from None
        try:
            yield
        except ConsoleError:
            raise
        except BaseException:
            turn.give_back()
            raise
        turn.give_back()
