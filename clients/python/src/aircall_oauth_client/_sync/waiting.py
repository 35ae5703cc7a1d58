"""Waiting, as this kind of client does."""

import time


def sleep(seconds: float) -> None:
    time.sleep(seconds)
