"""How the exporter is run by others: Helm, Docker Compose, systemd."""
