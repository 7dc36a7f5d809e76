"""The kinds that operators define, as far as these manifests use them.

Kubernetes' own schemas don't know them, and theirs are not ours to ship. A field that is not listed here is
taken for a mistake: list it with its source, once it is looked up there.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
DURATION: Schema = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


NAMED = _object({"name": TEXT})
RIGHT: Schema = {"type": "string", "minLength": 1, "pattern": r"^\^"}
"""Begun with `^`: RabbitMQ searches for the pattern anywhere in a name. An empty one allows nothing, as does
`^$`, which says so."""

SPECS: dict[tuple[str, str], Schema] = {
    # keda.sh/docs/latest/reference/scaledobject-spec and …/scalers/rabbitmq-queue: all metadata are strings.
    ("keda.sh/v1alpha1", "ScaledObject"): _object(
        {
            "scaleTargetRef": NAMED,
            "maxReplicaCount": COUNT,
            "triggers": _list(
                _object(
                    {
                        "type": {"const": "rabbitmq"},
                        "metadata": _object(
                            {
                                "protocol": {"const": "http"},
                                "mode": {"enum": ["QueueLength", "MessageRate"]},
                                "value": {"type": "string", "pattern": r"^\d+$"},
                                "queueName": TEXT,
                                "excludeUnacknowledged": {"enum": ["true", "false"]},
                            }
                        ),
                        "authenticationRef": NAMED,
                    }
                )
            ),
        },
        {
            "minReplicaCount": COUNT,
            "pollingInterval": COUNT,
            "fallback": _object({"failureThreshold": COUNT, "replicas": COUNT}),
            "advanced": _object(
                {
                    "horizontalPodAutoscalerConfig": _object(
                        {"behavior": _object({"scaleDown": _object({"stabilizationWindowSeconds": COUNT})})}
                    )
                }
            ),
        },
    ),
    # keda.sh/docs/latest/concepts/authentication
    ("keda.sh/v1alpha1", "TriggerAuthentication"): _object(
        {"secretTargetRef": _list(_object({"parameter": TEXT, "name": TEXT, "key": TEXT}))}
    ),
    # prometheus-operator.dev/docs/api-reference/api: PodMonitorSpec, PrometheusRuleSpec
    ("monitoring.coreos.com/v1", "PodMonitor"): _object(
        {
            "selector": _object({"matchLabels": TEXTS}),
            "podMetricsEndpoints": _list(_object({"port": TEXT}, {"path": TEXT, "interval": DURATION})),
        },
        {"jobLabel": TEXT},
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _object(
        {
            "groups": _list(
                _object(
                    {
                        "name": TEXT,
                        "rules": _list(
                            _object(
                                {"expr": TEXT},
                                {
                                    "alert": TEXT,
                                    "record": TEXT,
                                    "for": DURATION,
                                    "keep_firing_for": DURATION,
                                    "labels": TEXTS,
                                    "annotations": TEXTS,
                                },
                            )
                        ),
                    },
                    {"interval": DURATION},
                )
            )
        }
    ),
    # rabbitmq.com/kubernetes/operator/using-operator. `affinity` is Kubernetes' own.
    ("rabbitmq.com/v1beta1", "RabbitmqCluster"): _object(
        {
            "replicas": {"type": "integer", "minimum": 1},
            "persistence": _object({"storage": TEXT}, {"storageClassName": TEXT}),
            "resources": _object({"requests": TEXTS, "limits": TEXTS}),
        },
        {
            "rabbitmq": _object({"additionalConfig": TEXT, "advancedConfig": TEXT}),
            "affinity": {"type": "object"},
        },
    ),
    # rabbitmq.com/kubernetes/operator/using-topology-operator; the operator's config/crd/bases
    ("rabbitmq.com/v1beta1", "Vhost"): _object({"name": TEXT, "rabbitmqClusterReference": NAMED}),
    ("rabbitmq.com/v1beta1", "User"): _object(
        {"importCredentialsSecret": NAMED, "rabbitmqClusterReference": NAMED},
        {"tags": _list({"enum": ["management", "policymaker", "monitoring", "administrator"]})},
    ),
    ("rabbitmq.com/v1beta1", "Permission"): _object(
        {
            "vhost": TEXT,
            "userReference": NAMED,
            "permissions": _object({"configure": RIGHT, "write": RIGHT, "read": RIGHT}),
            "rabbitmqClusterReference": NAMED,
        }
    ),
    ("rabbitmq.com/v1beta1", "TopicPermission"): _object(
        {
            "vhost": TEXT,
            "userReference": NAMED,
            "permissions": _object({"exchange": TEXT, "write": RIGHT, "read": RIGHT}),
            "rabbitmqClusterReference": NAMED,
        }
    ),
    ("rabbitmq.com/v1beta1", "Policy"): _object(
        {
            "name": TEXT,
            "vhost": TEXT,
            "pattern": RIGHT,
            "applyTo": {"enum": ["queues", "classic_queues", "quorum_queues", "exchanges", "all"]},
            "definition": {"type": "object", "minProperties": 1},
            "rabbitmqClusterReference": NAMED,
        },
        {"priority": {"type": "integer"}},
    ),
}

METADATA = _object({"name": TEXT}, {"labels": TEXTS, "annotations": TEXTS, "namespace": TEXT})


def schema(manifest: dict[str, Any]) -> Schema | None:
    """Return the schema of a whole manifest of such a kind; `None` for a kind that is not listed."""
    api, kind = manifest["apiVersion"], manifest["kind"]
    if (api, kind) not in SPECS:
        return None
    fixed: dict[str, Schema] = {"apiVersion": {"const": api}, "kind": {"const": kind}}
    return _object(fixed | {"metadata": METADATA, "spec": SPECS[api, kind]})
