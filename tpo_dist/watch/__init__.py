"""What a run exports while it trains: one list, from which Prometheus, Grafana and docs/metrics.md are made."""
