"""Render metrics as Prometheus text and keep the finished pages."""
