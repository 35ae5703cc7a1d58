"""The OAuth flow: links, state, consent, callback and claims."""
