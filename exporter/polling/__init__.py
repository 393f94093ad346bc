"""When each endpoint is polled."""
