"""The manifests are valid, and what they say agrees with each other and with the worker."""

import re
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.deploy import custom_resources
from tests.deploy.manifests import HASH, K8S, OVERLAYS, ROOT, SECRET, Built, Manifest, build, overlay
from tests.system.cluster import NOTICES_SOON
from worker.rabbitmq.connection import CLOSE_TIMEOUT
from worker.rabbitmq.message import SETTLE_TIMEOUT
from worker.rabbitmq.topology import build_topology
from worker.settings import BrokerCommandSettings, IntakeSettings
from worker.settings.load import SECRETS_DIR, variables
from worker.settings.tree import LONGEST_DRAIN, HttpSettings, Settings, SinkSettings, VicidialSettings
from worker.settings.types import parse_duration

pytestmark = pytest.mark.verify

FOLDERS = [*(f"overlays/{name}" for name in OVERLAYS), "rabbitmq", "monitoring", "intake"]
VERSIONS = ("1.29", "1.33", kubernetes_validate.latest_version())
"""The oldest has all that is used here: `unhealthyPodEvictionPolicy`, `matchLabelKeys`."""

CONSUMER_TIMEOUT = timedelta(minutes=30)  # rabbitmq.com/docs/consumers#acknowledgement-timeout
LOCKS_AT = 10  # failed logins of VICIdial's API user
MEASURED_MEMORY = 67 * 2**20  # resident, after 200,000 events; 66 MiB through an outage with as many waiting


@pytest.fixture(params=OVERLAYS)
def built(request: pytest.FixtureRequest) -> Built:
    name: str = request.param
    return overlay(name)


# --- valid ----------------------------------------------------------------------------------------


def faults_of(manifest: Manifest, version: str) -> Iterator[str]:
    """Yield what is wrong with a manifest, by Kubernetes' schemas of a version or by ours."""
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    ours = custom_resources.schema(manifest)
    try:
        if ours is not None:
            jsonschema.validate(manifest, ours)
        else:
            kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{name}: of a kind that nobody knows"
    except jsonschema.ValidationError as error:
        yield f"{name}: {error.json_path}: {error.message}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_manifest_is_valid(folder: str, version: str) -> None:
    manifests = build(K8S / folder).manifests
    assert manifests
    assert [fault for each in manifests for fault in faults_of(each, version)] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_example_of_a_secret_is_valid(version: str) -> None:
    assert list(faults_of(SECRET, version)) == []


def test_a_mistyped_field_is_found_whosoever_the_kind() -> None:
    production = overlay("production")
    for kind in ("Deployment", "ScaledObject"):
        manifest = production.the(kind)
        mistyped = manifest | {"spec": manifest["spec"] | {"replica": 2}}
        (fault,) = faults_of(mistyped, VERSIONS[-1])
        assert "replica" in fault
    assert list(faults_of({"apiVersion": "a/v1", "kind": "B", "metadata": {"name": "c"}}, VERSIONS[0]))


def test_every_file_is_part_of_something_that_is_built() -> None:
    named = {K8S / "secret.example.yaml"}
    for kustomization in K8S.rglob("kustomization.yaml"):
        named.add(kustomization)
        listed = yaml.safe_load(kustomization.read_text(encoding="utf-8"))["resources"]
        named |= {kustomization.parent / name for name in listed if name.endswith(".yaml")}
    rules = set((K8S / "monitoring").iterdir())  # Prometheus' own format beside the manifests made of it
    assert set(K8S.rglob("*.yaml")) - named - rules == set()


# --- the worker's settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [ROOT / "Dockerfile", *sorted(K8S.rglob("*.yaml")), *sorted((ROOT / "config").glob("*.yaml"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_variable_that_is_named_is_a_setting(file: Path) -> None:
    named = set(re.findall(r"\bCRM_SYNC_[A-Z0-9_]*[A-Z0-9]", file.read_text(encoding="utf-8")))
    assert named - {*variables(), SECRETS_DIR} == set()


def test_the_secrets_keys_are_settings_that_stand_in_files() -> None:
    files = {path.removesuffix("_file") for path in variables().values() if path.endswith("_file")}
    keys = {key.replace("__", ".") for key in SECRET["stringData"]}
    assert keys <= files
    assert {"broker.url", "vicidial.password", "sink.url", "sink.signing_secret"} <= keys


def test_no_secret_stands_in_a_config_map(built: Built) -> None:
    files = {path.removesuffix("_file") for path in variables().values() if path.endswith("_file")}
    secret = {name for name, path in variables().items() if path in files}
    assert not secret & built.environment.keys()


def test_the_secret_is_mounted_as_a_folder_that_the_worker_reads_and_kubernetes_renews(built: Built) -> None:
    (mount,) = built.container["volumeMounts"]
    (volume,) = built.pod["spec"]["volumes"]
    assert mount["mountPath"] == built.environment[SECRETS_DIR]
    assert "subPath" not in mount, "would never be renewed"
    assert mount["readOnly"]
    assert volume["name"] == mount["name"]
    assert volume["secret"]["secretName"] == SECRET["metadata"]["name"]
    assert volume["secret"]["defaultMode"] == 0o440
    assert "fsGroup" in built.pod["spec"]["securityContext"], "the files are root's"


# --- each other -------------------------------------------------------------------------------------


def monitors(built: Built) -> list[Manifest]:
    """Return the workers' PodMonitor, of an overlay that has one."""
    return [each for each in built.all("PodMonitor") if each["metadata"]["name"] == "crm-sync"]


def test_everything_that_selects_pods_selects_the_workers(built: Built) -> None:
    labels = built.pod["metadata"]["labels"].items()
    selectors = [
        *(each["spec"]["podSelector"] for each in built.all("NetworkPolicy")),
        *(built.the(kind)["spec"]["selector"] for kind in ("Deployment", "PodDisruptionBudget")),
        *(each["spec"]["selector"] for each in monitors(built)),
        *(each["labelSelector"] for each in built.pod["spec"]["topologySpreadConstraints"]),
    ]
    assert len(selectors) >= 6
    assert all(each["matchLabels"].items() <= labels for each in selectors)


def test_what_names_another_manifest_names_one_that_is_there(built: Built) -> None:
    (source,) = built.container["envFrom"]
    assert source["configMapRef"]["name"] == built.the("ConfigMap")["metadata"]["name"]
    account = built.the("ServiceAccount")
    assert built.pod["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert account["automountServiceAccountToken"] is False
    assert built.pod["spec"]["automountServiceAccountToken"] is False
    if priority := built.pod["spec"].get("priorityClassName"):
        assert built.the("PriorityClass", priority)["preemptionPolicy"] == "Never"


def test_a_change_of_a_setting_rolls_the_workers(built: Built) -> None:
    """The ConfigMap's name holds a hash of its contents, and the pod names the ConfigMap."""
    own = built.the("ConfigMap")
    assert HASH.search(own["metadata"]["name"])
    others = [overlay(each).the("ConfigMap") for each in OVERLAYS]
    assert any(other["data"] != own["data"] for other in others)
    for other in others:
        assert (other["metadata"]["name"] == own["metadata"]["name"]) is (other["data"] == own["data"])


def test_every_probe_asks_the_port_that_the_worker_listens_on(built: Built) -> None:
    (port,) = built.container["ports"]
    assert port["containerPort"] == HttpSettings.model_fields["port"].default
    assert not {"CRM_SYNC_HTTP__PORT", "CRM_SYNC_HTTP__HOST"} & built.environment.keys()
    paths = {
        kind: built.container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")
    }
    assert {kind: probe["path"] for kind, probe in paths.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in paths.values()} == {port["name"]}
    assert {each["port"] for m in monitors(built) for each in m["spec"]["podMetricsEndpoints"]} <= {
        port["name"]
    }


def seconds_until_it_gives_up(probe: Manifest) -> int:
    periods: int = probe["periodSeconds"] * probe["failureThreshold"]
    return periods


def test_the_probes_are_patient_where_impatience_kills(built: Built) -> None:
    startup, live, ready = (built.container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
    assert seconds_until_it_gives_up(startup) >= 60, "a crowded node starts slowly"
    assert seconds_until_it_gives_up(live) >= 30
    assert seconds_until_it_gives_up(ready) <= 15
    assert all(probe["timeoutSeconds"] >= 3 for probe in (startup, live, ready))
    assert all(probe["timeoutSeconds"] <= probe["periodSeconds"] for probe in (live, ready))


def seconds(built: Built, variable: str, default: timedelta) -> float:
    return parse_duration(built.environment.get(variable, default)).total_seconds()


def test_every_wait_is_longer_than_the_waits_in_it(built: Built) -> None:
    """A request, the drain, the grace before a kill, and the broker's patience."""
    drain = seconds(built, "CRM_SYNC_DRAIN", Settings.model_fields["drain"].default)
    requests = [
        seconds(built, "CRM_SYNC_VICIDIAL__TIMEOUT", VicidialSettings.model_fields["timeout"].default),
        seconds(built, "CRM_SYNC_SINK__TIMEOUT", SinkSettings.model_fields["timeout"].default),
    ]
    closing = SETTLE_TIMEOUT + 2 * CLOSE_TIMEOUT  # the last event, and both connections
    grace = built.pod["spec"]["terminationGracePeriodSeconds"]
    assert max(requests) < drain < drain + closing < grace < CONSUMER_TIMEOUT.total_seconds()
    assert timedelta(seconds=drain) <= LONGEST_DRAIN


def test_a_rollout_takes_no_worker_away_before_a_new_one_consumes(built: Built) -> None:
    deployment = built.the("Deployment")["spec"]
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    assert built.the("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    fewest = deployment.get("replicas") or built.the("ScaledObject")["spec"]["minReplicaCount"]
    assert fewest >= 2, "one alone is a gap at each drained node"


def test_all_workers_together_can_not_lock_the_api_user(built: Built) -> None:
    most = int(built.environment["CRM_SYNC_VICIDIAL__MAX_CONCURRENCY"])
    assert most + 1 < LOCKS_AT, "those under way, and the next try"


def in_bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    scale: int = 2 ** {"Mi": 20, "Gi": 30}[unit]
    return int(number) * scale


def test_it_is_given_the_memory_that_was_measured_and_room_beside(built: Built) -> None:
    resources = built.container["resources"]
    assert in_bytes(resources["requests"]["memory"]) >= 1.25 * MEASURED_MEMORY
    assert in_bytes(resources["limits"]["memory"]) >= 2.5 * MEASURED_MEMORY
    assert "cpu" in resources["requests"]
    assert "cpu" not in resources["limits"], "would only slow a backlog down"


def test_workers_are_spread_over_nodes_and_zones(built: Built) -> None:
    constraints = built.pod["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in constraints] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]


# --- rights -----------------------------------------------------------------------------------------


def test_the_pod_meets_pod_securitys_restricted_level(built: Built) -> None:
    """kubernetes.io/docs/concepts/security/pod-security-standards: what is demanded beyond the baseline."""
    pod, container = built.pod["spec"], built.container["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile", "procMount"} & container.keys()
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all(volume.keys() <= {"name", "secret", "configMap", "emptyDir"} for volume in pod["volumes"])
    assert all("hostPort" not in port for port in built.container["ports"])


def test_it_runs_as_the_images_user_and_writes_nowhere(built: Built) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (user,) = re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE)
    context = built.pod["spec"]["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert built.container["securityContext"]["readOnlyRootFilesystem"] is True
    assert not {"command", "args"} & built.container.keys(), "the image's own"


def ports_out(policy: Manifest) -> set[int]:
    return {port["port"] for rule in policy["spec"].get("egress", []) for port in rule["ports"]}


def test_nothing_goes_in_or_out_but_what_its_work_takes(built: Built) -> None:
    base = built.the("NetworkPolicy")["spec"]
    assert set(base["policyTypes"]) == {"Ingress", "Egress"}, "what no policy names is refused"
    (scrape,) = base["ingress"]
    assert [port["port"] for port in scrape["ports"]] == ["http"]
    dns, broker = base["egress"]
    assert {(port["protocol"], port["port"]) for port in dns["ports"]} == {("UDP", 53), ("TCP", 53)}
    url = urlsplit(SECRET["stringData"]["broker__url"])
    assert url.port in {port["port"] for port in broker["ports"]} == {5671, 5672}
    assert ports_out(built.the("NetworkPolicy", "crm-sync-to-dialer")) == {80, 443}
    assert urlsplit(built.environment["CRM_SYNC_VICIDIAL__URL"]).scheme == "https"
    others = {each["metadata"]["name"] for each in built.all("NetworkPolicy")}
    ways = {"crm-sync", "crm-sync-to-dialer"}
    if built.environment["CRM_SYNC_SINK__KIND"] == "webhook":
        ways.add("crm-sync-to-crm")
        assert ports_out(built.the("NetworkPolicy", "crm-sync-to-crm")) == {443}
    assert others == ways


# The metadata services of AWS, Google and others; of Alibaba; Azure's platform; AWS' for tasks and for pods.
@pytest.mark.parametrize(
    "address", ["169.254.169.254", "100.100.100.200", "168.63.129.16", "169.254.170.2", "169.254.170.23"]
)
def test_no_way_leads_to_the_clouds_metadata(built: Built, address: str) -> None:
    blocks = [
        target["ipBlock"]
        for policy in built.all("NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for target in rule["to"]
        if "ipBlock" in target
    ]
    assert blocks
    for block in blocks:
        let_in = ip_address(address) in ip_network(block["cidr"])
        assert not let_in or any(ip_address(address) in ip_network(each) for each in block["except"])


# --- production -------------------------------------------------------------------------------------


def test_keda_alone_says_how_many_workers_there_are_and_never_none() -> None:
    production = overlay("production")
    scaled = production.the("ScaledObject")["spec"]
    assert "replicas" not in production.the("Deployment")["spec"]
    assert scaled["scaleTargetRef"]["name"] == production.the("Deployment")["metadata"]["name"]
    assert 2 <= scaled["minReplicaCount"] == scaled["fallback"]["replicas"] <= scaled["maxReplicaCount"]


def test_keda_watches_the_workers_own_queues_and_what_they_hold_scales_nothing() -> None:
    production = overlay("production")
    triggers = [each["metadata"] for each in production.the("ScaledObject")["spec"]["triggers"]]
    planned = build_topology(BrokerCommandSettings())
    assert [each["queueName"] for each in triggers] == list(planned.work_queues.values())
    in_hand = int(Settings.model_fields["max_in_flight"].default) * 1.25
    for trigger in triggers:
        assert (trigger["protocol"], trigger["mode"], trigger["excludeUnacknowledged"]) == (
            "http",
            "QueueLength",
            "false",
        )
        assert int(trigger["value"]) > in_hand
    (secret,) = production.the("TriggerAuthentication", "crm-sync-keda")["spec"]["secretTargetRef"]
    assert (secret["parameter"], secret["key"]) == ("host", "host")


def test_production_is_watched() -> None:
    production = overlay("production")
    assert production.the("PodMonitor")
    assert production.the("PrometheusRule")["spec"]["groups"]


def test_the_example_of_a_broker_notices_a_hanging_node_as_soon_as_the_measured_one() -> None:
    cluster = build(K8S / "rabbitmq").the("RabbitmqCluster", "rabbitmq")["spec"]["rabbitmq"]
    assert cluster["advancedConfig"].strip() == NOTICES_SOON
    assert f"\n{NOTICES_SOON}\n" in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


# --- the intake -------------------------------------------------------------------------------------


def test_the_intake_has_a_volume_for_its_spool_and_finds_what_it_is_given() -> None:
    """What its variables name lies below what is mounted, and the spool is full before the volume is."""
    intake = build(K8S / "intake")
    spec = intake.the("Deployment", "crm-sync-intake")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate"), "one process has the spool"
    assert given["CRM_SYNC_INTAKE__SPOOL"].startswith(f"{mounts['spool']}/")
    for name in ("CRM_SYNC_BROKER__URL_FILE", "CRM_SYNC_INTAKE__TOKEN_FILES"):
        assert given[name].startswith(f"{mounts['secrets']}/")
    claim = intake.the("PersistentVolumeClaim", "crm-sync-intake")["spec"]["resources"]["requests"]["storage"]
    assert claim == "1Gi"
    assert int(given["CRM_SYNC_INTAKE__SPOOL_SIZE"]) < 1024
    assert {
        container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")
    } == {"intake"}


def test_all_of_the_intake_selects_its_pod_alone() -> None:
    intake = build(K8S / "intake")
    labels = intake.the("Deployment", "crm-sync-intake")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        intake.the("Deployment", "crm-sync-intake")["spec"]["selector"]["matchLabels"],
        intake.the("Service", "crm-sync-intake")["spec"]["selector"],
        intake.the("NetworkPolicy", "crm-sync-intake")["spec"]["podSelector"]["matchLabels"],
        build(K8S / "monitoring").the("PodMonitor", "crm-sync-intake")["spec"]["selector"]["matchLabels"],
    ]
    assert selectors == [labels] * 4


def test_prometheus_reads_the_intakes_metrics_where_they_are() -> None:
    (endpoint,) = build(K8S / "monitoring").the("PodMonitor", "crm-sync-intake")["spec"][
        "podMetricsEndpoints"
    ]
    pod = build(K8S / "intake").the("Deployment", "crm-sync-intake")["spec"]["template"]["spec"]
    (port,) = pod["containers"][0]["ports"]
    assert (endpoint["port"], port["containerPort"]) == (
        port["name"],
        IntakeSettings.model_fields["port"].default,
    )
