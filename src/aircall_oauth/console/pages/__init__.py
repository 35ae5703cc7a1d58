"""The pages, one module each. A new one is added to `PAGES`, and has a line in `frame.NAVIGATION`."""

from aircall_oauth.console.pages import sessions, sign_in, well

PAGES = (well.router, sign_in.router, sign_in.signed_in, sessions.router)
