"""The readers that hand the log to subscriptions."""
