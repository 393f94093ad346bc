"""All metrics by name: those of a site in the order of a scrape, then the exporter's own.

Each metric is defined where its value comes from: in `collectors/`, by endpoint, and in
`pages/exporter_metrics.py`.
"""

from exporter.collectors.registry import SITE_METRICS
from exporter.pages.exporter_metrics import OWN_METRICS

CATALOGUE = {metric.name: metric for metric in (*SITE_METRICS, *OWN_METRICS)}
