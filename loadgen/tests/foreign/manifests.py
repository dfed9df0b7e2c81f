"""Rendered manifests against the schemas of Kubernetes, strictly, and against what all of them must keep to.

Arguments: files of rendered manifests. Prints one JSON object: what there is, and what is wrong with it.
"""

import collections
import json
import sys

import kubernetes_validate
import yaml

# The newest that the schemas know of, and the oldest that Kubernetes still supports beside it.
VERSIONS = ["1.37", "1.35"]


def pod_template(resource):
    return resource.get("spec", {}).get("template") if resource["kind"] in ("Deployment", "StatefulSet", "Job") else None


def restricted(name, pod):
    """The `restricted` Pod Security Standard, and no more than a pod of Clarion needs."""
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") != 65532:
        yield f"{name}: does not run as 65532"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{name}: no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield f"{name}: is given a token of the cluster's API"
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"{name}: has privileges"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: its root can be written to"
        if "memory" not in container["resources"].get("limits", {}) or "cpu" not in container["resources"]["requests"]:
            yield f"{name}: resources are not limited"


def probed(name, pod):
    """Every server is asked for its health, on the port that it calls so."""
    for container in pod["containers"]:
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if ports and container.get(probe, {}).get("grpc", {}).get("port") != ports["health"]:
                yield f"{name}: {probe} does not ask the health port"


def resolved(name, pod, there):
    """Every ConfigMap, Secret and PersistentVolumeClaim that is mounted is there."""
    for volume in pod.get("volumes", []):
        for kind, key, field in (
            ("ConfigMap", "configMap", "name"),
            ("Secret", "secret", "secretName"),
            ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
        ):
            source = volume.get(key)
            if source and not source.get("optional") and (kind, source[field]) not in there:
                yield f"{name}: there is no {kind} {source[field]}"


def problems(resources):
    there = {(resource["kind"], resource["metadata"]["name"]) for resource in resources}
    labels = [pod_template(resource)["metadata"]["labels"] for resource in resources if pod_template(resource)]
    for resource in resources:
        name = f"{resource['kind']}/{resource['metadata']['name']}"
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(resource, version, strict=True)
            except Exception as error:
                yield f"{name}: {version}: {error}"
        if template := pod_template(resource):
            yield from restricted(name, template["spec"])
            yield from resolved(name, template["spec"], there)
            if resource["kind"] != "Job":
                yield from probed(name, template["spec"])
        if resource["kind"] == "Service":
            if not any(resource["spec"]["selector"].items() <= of.items() for of in labels):
                yield f"{name}: selects no pod"


verdict = {"kinds": collections.Counter(), "problems": []}
for path in sys.argv[1:]:
    rendered = [resource for resource in yaml.safe_load_all(open(path)) if resource]
    verdict["kinds"].update(resource["kind"] for resource in rendered)
    verdict["problems"] += problems(rendered)
print(json.dumps(verdict))
