"""The pretend Aircall as a process: `python -m aircall_oauth.sandbox.aircall --help`."""

import argparse
import os
import socket
import sys
from pathlib import Path

import uvicorn

from aircall_oauth.sandbox.aircall.app import create_app
from aircall_oauth.sandbox.aircall.pretend import PretendAircall

SECRET_VARIABLE = "SANDBOX_CLIENT_SECRET"
SHUTDOWN_SECONDS = 2


def main() -> None:
    """Serve until stopped. What can't be started is one line on stderr and exit 1."""
    options = _parser().parse_args()
    secret = os.environ.get(SECRET_VARIABLE, "")
    if not secret:
        sys.exit(f"pretend Aircall: set {SECRET_VARIABLE} to the client secret")
    try:
        aircall = _aircall(options, secret)
        listener = _listen(options.host, options.port)
    except (OSError, ValueError) as error:
        sys.exit(f"pretend Aircall: {error}")
    _serve(aircall, listener)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aircall_oauth.sandbox.aircall",
        description="A pretend Aircall for development.",
        epilog=f"The client secret is read from {SECRET_VARIABLE}.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--redirect-uri", required=True, action="append", help="may be given more than once")
    parser.add_argument("--base-url", help="its own address in links (default: from host and port)")
    parser.add_argument("--rate", type=int, default=120, help="requests a minute for one company (120)")
    parser.add_argument("--disable-after", type=int, default=10, help="failures in a row (10)")
    parser.add_argument("--attempt-pause", type=float, default=2.0, help="seconds between attempts (2)")
    parser.add_argument("--more-companies", type=int, default=0, help="beside the three with a name (0)")
    parser.add_argument("--state", type=Path, help="file that keeps grants, tokens and webhooks")
    return parser


def _aircall(options: argparse.Namespace, secret: str) -> PretendAircall:
    return PretendAircall(
        client_id=options.client_id,
        client_secret=secret,
        redirect_uris=options.redirect_uri,
        base_url=options.base_url or f"http://{options.host}:{options.port}",
        rate_per_minute=options.rate,
        webhook_attempt_pause=options.attempt_pause,
        disable_after=options.disable_after,
        state_file=options.state,
        more_companies=options.more_companies,
    )


def _listen(host: str, port: int) -> socket.socket:
    """Bound here, so that a taken port is known before anything is started."""
    try:
        return socket.create_server((host, port), backlog=2048)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else error
        raise OSError(f"cannot listen on {host}:{port} ({reason})") from None


def _serve(aircall: PretendAircall, listener: socket.socket) -> None:
    config = uvicorn.Config(
        create_app(aircall),
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    print(f"pretend Aircall at {aircall.base_url}", flush=True)
    try:
        uvicorn.Server(config).run([listener])
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
