"""The Helm chart, and what writes those of its files that are from elsewhere."""
