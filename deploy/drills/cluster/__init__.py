"""A small Kubernetes for a drill: a real control plane, and nodes whose pods run in namespaces of Linux."""
