"""Install attempts: a row per install link, or per flow without one: how far it came, where it stopped and why."""
