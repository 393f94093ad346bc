"""The API's week of history as OpenMetrics with timestamps: promtool makes blocks of it."""
