"""Makes `k8s/monitoring/prometheusrule.yaml`, which holds the same groups as `alerts.yaml`.

Kustomize can't put a file's content under a key, so the text stands twice; a test keeps both alike.
Run as `python -m tests.monitoring.operator` after a change of `alerts.yaml`.
"""

import argparse
import textwrap
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[2] / "k8s" / "monitoring"
ALERTS: Final = FOLDER / "alerts.yaml"
PROMETHEUS_RULE: Final = FOLDER / "prometheusrule.yaml"

_HEAD = """\
# Made from alerts.yaml by `python -m tests.monitoring.operator`; don't edit it here.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: crm-sync
  labels:
    app.kubernetes.io/name: crm-sync
spec:
"""


def for_the_operator(alerts: str) -> str:
    """Wrap a Prometheus rule file in the Prometheus operator's resource."""
    return _HEAD + textwrap.indent(alerts[alerts.index("groups:") :], "  ")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.monitoring.operator", description=__doc__).parse_args()
    PROMETHEUS_RULE.write_text(for_the_operator(ALERTS.read_text(encoding="utf-8")), encoding="utf-8")
