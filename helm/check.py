"""Checks what matters in a rendered chart:  check.py NAME RENDERED VALUES [RELAY_CONFIG]

RENDERED is the output of `helm template` for the values file VALUES; NAME is that file's name. The
relay's configuration is written to RELAY_CONFIG, if it is in the output.
"""

import hashlib
import json
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
problems = []


class Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key} stands twice: {node.start_mark}")
        return super().construct_mapping(node, deep)


def expect(condition, message):
    if not condition:
        problems.append(message)


def seconds(text):
    number, unit = re.fullmatch(r"([0-9.]+)(ms|s|m|h)", text).groups()
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def check_workload(deployment, config, config_text):
    spec, pod = deployment["spec"], deployment["spec"]["template"]["spec"]
    main = {container["name"]: container for container in pod["containers"]}["outbox-relay"]
    expect(spec["replicas"] == 1, "not one replica")
    expect(spec["strategy"] == {"type": "Recreate"}, "the strategy is not Recreate")
    labels = spec["template"]["metadata"]["labels"]
    expect(spec["selector"]["matchLabels"].items() <= labels.items(), "the selector misses its pods")
    drain = seconds((config or {}).get("shutdown", {}).get("drain_timeout", "20s"))
    grace = pod["terminationGracePeriodSeconds"]
    expect(grace > drain + 20, f"terminationGracePeriodSeconds {grace} is too short for a drain of {drain} s")
    expect(pod["automountServiceAccountToken"] is False, "the pod has a token of the Kubernetes API")
    expect(pod["securityContext"]["runAsNonRoot"] is True, "the pod may run as root")
    expect(pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, "no seccomp profile")
    for container in [main, *pod.get("initContainers", [])]:
        context, name = container["securityContext"], container["name"]
        expect(context["readOnlyRootFilesystem"] is True, f"{name}: its root can be written to")
        expect(context["allowPrivilegeEscalation"] is False, f"{name}: it may gain privileges")
        expect(context["capabilities"]["drop"] == ["ALL"], f"{name}: it keeps capabilities")
        expect(container["resources"]["limits"]["memory"], f"{name}: no limit on memory")
        for mount in container["volumeMounts"]:
            volumes = [volume["name"] for volume in pod["volumes"]]
            expect(mount["name"] in volumes, f"{name}: no volume is called {mount['name']}")
    port = {port["name"]: port["containerPort"] for port in main["ports"]}["http"]
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        expect(main[probe]["httpGet"] == {"path": path, "port": "http"}, f"{probe} does not ask {path}")
    environment = {each["name"]: each.get("value") for each in main["env"]}
    listen = f"0.0.0.0:{port}"
    expect(environment["OUTBOX_RELAY__HTTP__LISTEN"] == listen, f"the relay does not listen at {listen}")
    if config_text:
        expect(config["http"]["listen"] == listen, f"http.listen is not {listen}")
        checksum = spec["template"]["metadata"]["annotations"]["checksum/config"]
        text = config_text.rstrip("\n")
        expect(checksum == hashlib.sha256(text.encode()).hexdigest(), "checksum/config is of something else")
        paths = re.findall(r"/run/secrets/outbox-relay/(\S+)", config_text)
        sources = [s for v in pod["volumes"] if v["name"] == "secrets" for s in v["projected"]["sources"]]
        mounted = [item["path"] for source in sources for item in source["secret"]["items"]]
        expect(sorted(paths) == sorted(mounted), f"the configuration names {paths}, mounted are {mounted}")
    return port


def check_service(found, deployment):
    service = found["Service"][0]["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    expect(service["selector"].items() <= labels.items(), "the Service selects nothing")
    expect(service["ports"][0]["targetPort"] == "http", "the Service's port leads nowhere")
    for pod in found.get("Pod", []):
        expect(not service["selector"].items() <= pod["metadata"]["labels"].items(), "the Service selects a test's pod")


def check_everything(found, deployment):
    wanted = {
        "ConfigMap": 2, "Deployment": 1, "NetworkPolicy": 1, "Pod": 1, "PodDisruptionBudget": 1,
        "PrometheusRule": 1, "Service": 1, "ServiceAccount": 1, "ServiceMonitor": 1,
    }
    count = {kind: len(each) for kind, each in found.items()}
    expect(count == wanted, f"everything on gives {count}")
    alerts = yaml.safe_load((ROOT / "monitoring/alerts.yaml").read_text())
    expect(found["PrometheusRule"][0]["spec"] == alerts, "the PrometheusRule is not monitoring/alerts.yaml")
    dashboards = [m for m in found["ConfigMap"] if m["metadata"]["labels"].get("grafana_dashboard") == "1"]
    expect(len(dashboards) == 1, "no dashboard has the sidecar's label")
    for dashboard in dashboards:
        same = json.loads(dashboard["data"]["outbox-relay.json"]) == json.loads(
            (ROOT / "monitoring/dashboard.json").read_text())
        expect(same, "the dashboard is not monitoring/dashboard.json")
    monitor, service = found["ServiceMonitor"][0], found["Service"][0]
    expect(monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items(),
           "the ServiceMonitor misses the Service")
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    expect("outbox-relay" in job, f"the job is {job}: OutboxRelayDown does not see it")
    expect(monitor["metadata"]["labels"]["release"] == "prometheus", "the ServiceMonitor lacks its label")
    pod = deployment["spec"]["template"]["spec"]
    main = pod["containers"][0]
    expect(main["image"].startswith("registry.example.com/outbox-relay@sha256:"), "the digest is not taken")
    expect(main["args"][-2:] == ["--set", "log.level=debug"], "extraArgs are lost")
    expect([each["name"] for each in main["env"]] == ["OUTBOX_RELAY__HTTP__LISTEN", "TZ"], "extraEnv is lost")
    expect(main["envFrom"] == [{"secretRef": {"name": "further"}}], "extraEnvFrom is lost")
    expect("/var/log/outbox-relay" in [m["mountPath"] for m in main["volumeMounts"]], "extraVolumeMounts are lost")
    init = pod["initContainers"][0]
    expect(init["args"] == ["schema", "--apply", "--config=/etc/outbox-relay/relay.yaml", "--replication-factor=3"],
           f"the schema is made by {init['args']}")
    expect(main["livenessProbe"]["failureThreshold"] == 5, "a probe's value is lost")
    for key in ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "imagePullSecrets"):
        expect(pod.get(key), f"{key} is lost")
    expect(pod["priorityClassName"] == "high", "priorityClassName is lost")
    expect(pod["serviceAccountName"] == found["ServiceAccount"][0]["metadata"]["name"] == "orders",
           "the service account is another")
    expect(found["PodDisruptionBudget"][0]["spec"].get("minAvailable") == 1, "minAvailable is lost")
    expect(deployment["spec"]["template"]["metadata"]["annotations"]["example.com/note"] == "yes", "podAnnotations are lost")
    for each in (each for kind in found if kind != "Pod" for each in found[kind]):
        expect(each["metadata"]["labels"].get("team") == "orders", f"{each['kind']} lacks commonLabels")


def check_network(found):
    policy = found["NetworkPolicy"][0]["spec"]
    expect(policy["policyTypes"] == ["Ingress", "Egress"], "the policy does not close both ways")
    expect(len(policy["ingress"]) == 1 and policy["ingress"][0].get("from"), "anybody may come in")
    rules = [(sorted(p["port"] for p in rule["ports"]), "to" in rule) for rule in policy["egress"]]
    wanted = [([53, 53], False), ([9042, 19042], True), ([9092], True), ([4317], True)]
    expect(rules == wanted, f"what may be reached: {rules}")


def check_secrets(config, config_text, deployment):
    files = {
        "password_file": config["scylla"]["password_file"],
        "sasl.password": config["kafka"]["property_files"]["sasl.password"],
        "admin_token_file": config["http"]["admin_token_file"],
    }
    expect(all(path.startswith("/run/secrets/outbox-relay/") for path in files.values()), f"secrets lie at {files}")
    expect(set(config["scylla"]["tls"]) == {"enabled", "ca_file", "cert_file", "key_file"}, "scylla.tls is not complete")
    for name in ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location"):
        expect(name in config["kafka"]["properties"], f"kafka.properties lacks {name}")
    expect(config["kafka"]["properties"]["sasl.username"] == "relay", "properties of the values are lost")
    volume = [v for v in deployment["spec"]["template"]["spec"]["volumes"] if v["name"] == "secrets"][0]
    expect(volume["projected"]["defaultMode"] == 0o440, "the secrets can be read by others")
    names = [source["secret"]["name"] for source in volume["projected"]["sources"]]
    wanted = ["scylla-credentials", "kafka-credentials", "relay-admin", "scylla-tls", "kafka-tls"]
    expect(names == wanted, f"the Secrets are {names}")


def main():
    name, rendered, values, *rest = sys.argv[1:]
    given = yaml.safe_load(pathlib.Path(values).read_text())
    found = {}
    for each in yaml.load_all(pathlib.Path(rendered).read_text(), Loader):
        if each:
            found.setdefault(each["kind"], []).append(each)
    deployment = found["Deployment"][0]
    texts = [m["data"]["relay.yaml"] for m in found.get("ConfigMap", []) if "relay.yaml" in m["data"]]
    text = texts[0] if texts else None
    config = yaml.load(text, Loader) if text else None
    expect(bool(text) != bool(given.get("existingConfigMap")), "a ConfigMap too many, or too few")
    check_workload(deployment, config, text)
    check_service(found, deployment)
    if text:
        for key, value in given["config"].items() if "config" in given else []:
            expect(key in config, f"config.{key} is lost")
            if key not in ("scylla", "kafka", "http"):
                merged = config[key] if not isinstance(value, dict) else {k: config[key].get(k) for k in value}
                expect(merged == value, f"config.{key} is not what the values say")
        if rest:
            pathlib.Path(rest[0]).write_text(text)
    expect(not text or config["relay"]["name"], "the relay has no name of its own")
    if name == "minimal":
        expect(config["relay"]["name"] == "orders-outbox-relay", "the relay's name is not the release's")
    if name in ("minimal", "secrets", "readme"):
        expect(set(found) == {"ConfigMap", "Deployment", "Pod", "Service", "ServiceAccount"}, f"too much: {set(found)}")
    if name == "everything":
        check_everything(found, deployment)
    elif name == "network":
        check_network(found)
    elif name == "secrets":
        check_secrets(config, text, deployment)
    elif name == "existing":
        pod = deployment["spec"]["template"]["spec"]
        volumes = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
        expect(volumes == ["relay-config"], f"the ConfigMaps are {volumes}")
        expect(pod["serviceAccountName"] == "shared" and "ServiceAccount" not in found, "the account is another")
        expect(found["PodDisruptionBudget"][0]["spec"]["maxUnavailable"] == 1, "no default for the budget")
    for problem in problems:
        print(f"helm: {name}: {problem}", file=sys.stderr)
    sys.exit(bool(problems))


main()
