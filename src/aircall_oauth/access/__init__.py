"""Who may use a door: API keys and their scopes, rules, how a refusal reads, and the audit."""
