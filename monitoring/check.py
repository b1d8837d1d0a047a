"""Checks the dashboard and the alert rules against each other, the metrics and the runbook.

    check.py --metrics docs/metrics.md [--runbook docs/runbook.md] --promtool PATH --prometheus PATH

1. Every metric that a panel, a variable or a rule uses is in the list of metrics.
2. Every alert has severity, summary, description, its own heading in the runbook, and a unit test in
   which it fires.
3. The dashboard is well-formed: unique ids, no panels on top of each other, each with a description.
4. Every query of the dashboard returns something: a Prometheus on loopback answers it from made-up
   samples of one busy relay.
"""

import argparse
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

HERE = pathlib.Path(__file__).resolve().parent
NAME = re.compile(r"\b(?:outbox_relay|process)_[a-z0-9_]+\b")
RUNBOOK_URL = "https://github.com/outbox-relay/outbox-relay/blob/main/docs/runbook.md#"
BUCKETS = ["0.01", "0.1", "1", "10", "+Inf"]
MINUTES = 90

# The labels of the samples that queries are tried on, where the reference of metrics does not list their
# values; a metric without labels needs no entry.
LABELS = {
    "build_info": {"version": ["0.1.0"]},
    "part_state": {"part": ["ScyllaDB", "Kafka connection", "Kafka", "checkpoints", "dead letters"]},
    **{
        name: {"table": ["shop.outbox", "billing.outbox"]}
        for name in (
            "late_rows_total", "lateness_seconds", "table_watermark_lag_seconds",
            "table_backlog_seconds", "table_log_ttl_seconds", "table_expires_in_seconds",
            "table_events_total", "table_groups", "table_paused",
        )
    },
}

# A metric of the reference whose label has few values.
LISTED = re.compile(r"^\| `(\w+)` \| \w+ \| `(\w+)`: ([^|]+?) \|", re.M)

problems = []


def expect(condition, message):
    if not condition:
        problems.append(message)


def report():
    """Ends with the problems found so far, if there are any."""
    for problem in problems:
        print(f"monitoring: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


def panels(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries(dashboard):
    """Every PromQL expression of the dashboard, with where it stands."""
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]


def variables(dashboard):
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def filled(expression):
    """An expression as Grafana sends it, with All chosen everywhere."""
    expression = expression.replace("$__rate_interval", "5m")
    return re.sub(r"\$(?:job|instance|table)\b", ".*", expression)


def known(name, documented):
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return name in documented or base in documented


def check_names(used, metrics_path):
    text = metrics_path.read_text()
    documented = set(NAME.findall(text))
    for name, label, values in LISTED.findall(text):
        LABELS[name.removeprefix("outbox_relay_")] = {label: values.split(", ")}
    expect(len(LABELS) > 15, f"{metrics_path} lists the values of {len(LABELS)} labels: has its form changed?")
    expect(len(documented) > 30, f"{metrics_path} names {len(documented)} metrics: is it the right file?")
    for name, where in sorted(used.items()):
        expect(known(name, documented), f"{where} uses {name}, which {metrics_path} does not have")
    return documented


def check_alerts(rules, tests, runbook):
    headings = {
        re.sub(r"[^a-z0-9 _-]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
        for line in runbook.read_text().splitlines() if line.startswith("#")
    } if runbook else None
    fired = {
        match
        for case in tests["tests"] for check in case.get("promql_expr_test", [])
        if check["exp_samples"] for match in re.findall(r'alertname="(\w+)"', check["expr"])
    }
    names = [rule["alert"] for rule in rules]
    expect(len(names) == len(set(names)), "an alert's name is used twice")
    for rule in rules:
        name = rule["alert"]
        expect(name in fired, f"{name} has no case in alerts_test.yaml in which it fires")
        expect(rule["labels"].get("severity") in ("critical", "warning"), f"{name} has no severity")
        for key in ("summary", "description"):
            expect(rule["annotations"].get(key), f"{name} has no {key}")
        wanted = RUNBOOK_URL + name.lower()
        expect(rule["annotations"].get("runbook_url") == wanted, f"{name}: runbook_url is not {wanted}")
        if headings is not None:
            expect(name.lower() in headings, f"{runbook} has no heading {name}")
    for name in fired - set(names):
        expect(False, f"alerts_test.yaml tests {name}, which does not exist")
    silent = [
        case for case in tests["tests"]
        if all('alertname' not in check["expr"] for check in case.get("promql_expr_test", []))
        and case.get("promql_expr_test")
    ]
    expect(len(silent) >= 2, "alerts_test.yaml lacks the cases in which no alert at all may fire")


def check_dashboard(dashboard):
    ids = [panel["id"] for panel in panels(dashboard)]
    expect(len(ids) == len(set(ids)), "two panels have the same id")
    taken = {}
    for panel in panels(dashboard):
        grid, title = panel["gridPos"], panel["title"]
        expect(grid["x"] + grid["w"] <= 24, f"{title} is wider than the dashboard")
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                other = taken.setdefault((x, y), title)
                expect(other == title, f"{title} lies on top of {other}")
        if panel["type"] == "row":
            continue
        expect(panel.get("description"), f"{title} has no description")
        expect(panel.get("targets"), f"{title} asks for nothing")
        for part in [panel, *panel.get("targets", [])]:
            expect(part["datasource"]["uid"] == "${datasource}", f"{title} names a data source of its own")


def samples(documented, now):
    """One busy relay, a sample a minute, in OpenMetrics text."""
    lines = []
    start = now - MINUTES * 60

    def add(name, labels, value):
        text = ",".join(f'{k}="{v}"' for k, v in {"job": "outbox-relay", "instance": "relay:9464", **labels}.items())
        for minute in range(MINUTES + 1):
            lines.append(f"{name}{{{text}}} {value(minute)} {start + 60 * minute}")

    for name in sorted(documented):
        short = name.removeprefix("outbox_relay_")
        label, values = next(iter(LABELS.get(short, {"": [""]}).items()))
        histogram = short in ("stage_seconds", "lateness_seconds")
        counter = name.endswith("_total")
        kind = "histogram" if histogram else "counter" if counter else "gauge"
        lines.append(f"# TYPE {name.removesuffix('_total') if counter else name} {kind}")
        for number, value in enumerate(values, start=1):
            labels = {label: value} if label else {}
            if histogram:
                for rank, bound in enumerate(BUCKETS, start=1):
                    grown = lambda minute, rank=rank: 20 * rank * minute
                    add(name + "_bucket", {**labels, "le": bound}, grown)
                add(name + "_sum", labels, lambda minute: 3 * minute)
                add(name + "_count", labels, lambda minute: 20 * len(BUCKETS) * minute)
            elif counter:
                add(name, labels, lambda minute, number=number: 10 * number * minute)
            elif name == "process_start_time_seconds":
                add(name, labels, lambda minute: start + (60 * MINUTES - 30 if minute == MINUTES else 0))
            else:
                add(name, labels, lambda minute, number=number: number)
    lines.append("# TYPE ALERTS gauge")
    add("ALERTS", {"alertname": "OutboxRelayNotReady", "alertstate": "firing", "severity": "critical"}, lambda _: 1)
    return "\n".join([*lines, "# EOF", ""])


def ask(port, path, **parameters):
    url = f"http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as error:
        return error.read().decode()


def check_queries(dashboard, documented, promtool, prometheus):
    now = int(time.time()) // 60 * 60 - 600
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        root = pathlib.Path(folder)
        (root / "samples.txt").write_text(samples(documented, now))
        (root / "prometheus.yaml").write_text("scrape_configs: []\n")
        made = subprocess.run(
            [promtool, "tsdb", "create-blocks-from", "openmetrics", root / "samples.txt", root / "data"],
            capture_output=True, text=True,
        )
        if made.returncode:
            sys.exit(f"the samples cannot be loaded: {made.stderr}")
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        log = (root / "log").open("w")
        server = subprocess.Popen(
            [prometheus, f"--config.file={root}/prometheus.yaml", f"--storage.tsdb.path={root}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
            stdout=log, stderr=log,
        )
        try:
            for _ in range(300):
                if server.poll() is not None:
                    sys.exit(f"Prometheus ended: {(root / 'log').read_text()}")
                try:
                    if isinstance(ask(port, "/api/v1/query", query="1"), dict):
                        break
                except OSError:
                    pass
                time.sleep(0.1)
            else:
                sys.exit("Prometheus does not answer")
            count = 0
            for where, expression in queries(dashboard):
                answer = ask(port, "/api/v1/query", query=filled(expression), time=now)
                found = isinstance(answer, dict) and answer["result"]
                expect(found, f"{where}: no data for {expression}: {answer}")
                if found and where != "Versions" and not where.startswith("annotation"):
                    values = [sample["value"][1] for sample in answer["result"]]
                    expect(any(value != "NaN" for value in values), f"{where}: not a number: {expression}")
                count += 1
            for name, query in variables(dashboard):
                metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
                answer = ask(port, f"/api/v1/label/{label}/values", **{
                    "match[]": filled(metric), "start": now - 3600, "end": now})
                expect(isinstance(answer, list) and answer, f"variable {name}: no values: {answer}")
        finally:
            server.terminate()
            server.wait(timeout=30)
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", type=pathlib.Path, required=True)
    parser.add_argument("--runbook", type=pathlib.Path)
    parser.add_argument("--promtool", required=True)
    parser.add_argument("--prometheus", required=True)
    options = parser.parse_args()

    dashboard = json.loads((HERE / "dashboard.json").read_text())
    groups = yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    tests = yaml.safe_load((HERE / "alerts_test.yaml").read_text())

    used = {}
    for where, expression in [*queries(dashboard), *variables(dashboard)]:
        used.update((name, f"dashboard.json ({where})") for name in NAME.findall(expression))
    for rule in rules:
        used.update((name, f"alerts.yaml ({rule['alert']})") for name in NAME.findall(rule["expr"]))

    documented = check_names(used, options.metrics)
    check_alerts(rules, tests, options.runbook)
    check_dashboard(dashboard)
    report()
    count = check_queries(dashboard, documented, options.promtool, options.prometheus)
    report()
    print(f"monitoring: {len(rules)} alerts, {count} queries of the dashboard, {len(used)} metrics: all fit")


if __name__ == "__main__":
    main()
