"""Takes in events from Aircall: the endpoint, the body, the envelope, the inbox."""
