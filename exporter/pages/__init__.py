"""Families become bytes."""
