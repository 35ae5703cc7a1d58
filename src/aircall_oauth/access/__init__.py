"""Access to the HTTP endpoints: API keys with their scopes and rules, problem details, and the audit."""
