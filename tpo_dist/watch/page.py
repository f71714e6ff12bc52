"""docs/metrics.md, made from the list of metrics."""

from tpo_dist.watch.exported import EXPORTED, PREFIX, TAGS

_HEAD = f"""# Metrics

What the driver of a distributed run exports through Ray, which serves it to Prometheus on each node's metrics port. Ray
puts `{PREFIX}` before each name: `tpo_dist_reward` is `{PREFIX}tpo_dist_reward` there. Every metric is tagged with
`{TAGS[0]}` (the run's folder name) and `{TAGS[1]}` (driver, learner, stream or rollout), some with more. Counters begin
at 0 with each driver, as Prometheus expects. The numbers of steps are those of `metrics.jsonl`.

Made by `tpo-dist metrics --markdown`; the Grafana dashboard is made from the same list by `tpo-dist metrics --grafana`.

| name | kind | unit | role | further tags | meaning |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    lines = [
        f"| `{each.name}` | {each.kind} | {each.unit} | {each.role} | {', '.join(each.tags)} "
        f"| {each.meaning.replace('|', chr(92) + '|')} |"
        for each in EXPORTED
    ]
    return _HEAD + "\n".join(lines) + "\n"
