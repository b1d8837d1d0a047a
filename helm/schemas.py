"""Writes JSON schemas of Kubernetes' and the Prometheus operator's resources for kubeconform.

    schemas.py OUTPUT_DIR OPERATOR_DIR VERSION...

Kubernetes' come from the Python package kubernetes-validate, the operator's from the custom resource
definitions in its Go module. Each is written whole (no references), as KIND-GROUP-VERSION.json under
OUTPUT_DIR/VERSION, and strict: an unknown key is an error.
"""

import importlib.util
import json
import pathlib
import sys

import yaml

KINDS = [
    "configmap-v1", "deployment-apps-v1", "networkpolicy-networking-v1", "pod-v1",
    "poddisruptionbudget-policy-v1", "service-v1", "serviceaccount-v1",
]
OPERATOR = ["prometheusrules", "servicemonitors"]


def inlined(node, definitions):
    if isinstance(node, list):
        return [inlined(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        name = node["$ref"].rsplit("/", 1)[1]
        return inlined(definitions[name], definitions)
    return {key: inlined(value, definitions) for key, value in node.items()}


def strict(node):
    """A definition's schema, so that keys it does not know are refused."""
    if isinstance(node, list):
        return [strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    node = {key: strict(value) for key, value in node.items()}
    open_ = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if isinstance(node.get("properties"), dict) and node.get("type") == "object" and not open_:
        node["additionalProperties"] = False
    return node


def main():
    output, operator, *versions = sys.argv[1:]
    spec = importlib.util.find_spec("kubernetes_validate")
    package = pathlib.Path(spec.submodule_search_locations[0]) / "kubernetes-json-schema"
    for version in versions:
        source = package / f"v{version}-local-strict"
        target = pathlib.Path(output) / version
        target.mkdir(parents=True, exist_ok=True)
        definitions = json.loads((source / "_definitions.json").read_text())
        definitions = definitions.get("$defs") or definitions["definitions"]
        for kind in KINDS:
            schema = inlined(json.loads((source / f"{kind}.json").read_text()), definitions)
            (target / f"{kind}.json").write_text(json.dumps(schema))
        for plural in OPERATOR:
            name = f"example/prometheus-operator-crd/monitoring.coreos.com_{plural}.yaml"
            definition = yaml.safe_load((pathlib.Path(operator) / name).read_text())["spec"]
            kind = definition["names"]["kind"].lower()
            group = definition["group"].split(".")[0]
            for form in definition["versions"]:
                schema = strict(form["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                (target / f"{kind}-{group}-{form['name']}.json").write_text(json.dumps(schema))


main()
