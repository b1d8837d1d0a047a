"""Checks what matters in compose.yaml (as JSON on standard input, made by docker/composefile), and that
the Dockerfile, the ignore file and docker/build.sh fit each other. Only the standard library is used.
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
SERVICES = {"scylla", "redpanda", "schema", "topics", "relay", "write", "prometheus", "grafana"}
problems = []


def expect(condition, message):
    if not condition:
        problems.append(message)


def check_compose(project):
    services = project["services"]
    expect(set(services) == SERVICES, f"compose.yaml has the services {sorted(services)}")
    for name, service in services.items():
        image = service.get("image", "")
        pinned = re.search(r":v?\d+\.\d+\.\d+$", image) or (image == "outbox-relay:local" and service.get("build"))
        expect(pinned, f"{name}: the image {image!r} is not pinned to a version")
        for port in service.get("ports", []):
            expect(port.get("host_ip") == "127.0.0.1", f"{name}: port {port['target']} is open to others")
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                source = pathlib.Path(volume["source"])
                expect(source.exists(), f"{name}: {source} does not exist")
                expect(volume.get("read_only"), f"{name}: {source} is not mounted read-only")
        for other, how in service.get("depends_on", {}).items():
            kind = how["condition"]
            expect(kind != "service_started", f"{name} waits for {other} to start only, not to work")
            if kind == "service_healthy":
                expect(services[other].get("healthcheck", {}).get("test"), f"{other} has no healthcheck")
    relay = services["relay"]
    expect(relay.get("read_only") is True, "relay: its root can be written to")
    expect(relay.get("cap_drop") == ["ALL"], "relay: it keeps capabilities")
    expect("no-new-privileges:true" in relay.get("security_opt", []), "relay: it may gain privileges")
    expect(str(relay.get("user", "")).startswith("65532"), "relay: it does not run as nonroot")
    expect(relay.get("stop_grace_period") == "1m0s", "relay: a stop does not get 60 s")
    expect(not relay.get("healthcheck"), "relay: the healthcheck is to be that of the image")
    for needed in ("schema", "topics"):
        how = relay["depends_on"].get(needed, {}).get("condition")
        expect(how == "service_completed_successfully", f"relay: it does not wait for {needed}")
    dashboards = (ROOT / "docker/compose/grafana/dashboards/outbox-relay.yaml").read_text()
    folder = re.search(r"path: ([^ }]+)", dashboards)[1]
    mounts = [volume["target"] for volume in services["grafana"]["volumes"]]
    expect(any(mount.startswith(folder + "/") for mount in mounts), f"grafana: no dashboard lies in {folder}")
    prometheus = (ROOT / "docker/compose/prometheus.yaml").read_text()
    expect("relay:9464" in prometheus, "prometheus: it does not scrape relay:9464")


def check_dockerfile():
    text = (ROOT / "Dockerfile").read_text()
    final = text.split("\nFROM ")[-1]
    wanted = {
        "the build is docker/build.sh": "docker/build.sh /out" in text,
        "nothing else is built": "cargo " not in text,
        "the final image is distroless": final.startswith("gcr.io/distroless/cc-debian12"),
        "it does not run as root": re.search(r"^USER 65532:65532$", final, re.M),
        "it stops by SIGTERM": re.search(r"^STOPSIGNAL SIGTERM$", final, re.M),
        "the port is told": re.search(r"^EXPOSE 9464$", final, re.M),
        "the program itself checks its health":
            re.search(r'^HEALTHCHECK .*\\\n +CMD \["/usr/bin/outbox-relay", "healthcheck"', final, re.M),
        "the entry point is the program": 'ENTRYPOINT ["/usr/bin/outbox-relay"]' in final,
        "nothing runs in the final image": "\nRUN " not in final,
        "the port is reached from outside": "OUTBOX_RELAY__HTTP__LISTEN=0.0.0.0:9464" in final,
    }
    for what, holds in wanted.items():
        expect(holds, f"Dockerfile: no longer true: {what}")
    version = re.search(r'^\[workspace\.package\]\nversion = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    expect(f"ARG VERSION={version}" in final, f"Dockerfile: VERSION is not {version}")
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    manifest = (ROOT / "Cargo.toml").read_text()
    needed = ["Cargo.toml", "Cargo.lock", "src", "crates", "benches", "tests", "examples", "docker/build.sh"]
    for path in needed:
        expect(path not in ignored and path.split("/")[0] not in ignored, f".dockerignore: {path} is needed")
    for path in ignored:
        expect(f'"{path}/' not in manifest, f".dockerignore: Cargo.toml names a file in {path}")


check_compose(json.load(sys.stdin))
check_dockerfile()
for problem in problems:
    print(f"docker: {problem}", file=sys.stderr)
if problems:
    sys.exit(1)
print("docker: Dockerfile and compose.yaml say what they must")
