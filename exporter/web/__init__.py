"""The HTTP server: routes, authentication, TLS, status page."""
