#!/usr/bin/env python3
"""Checks what the documentation says against what is there.

    python3 docs/verify.py                          links, anchors, configuration keys, alerts, errors, calls
    python3 docs/verify.py --binary target/release/outbox-relay
                                                    commands, flags and YAML examples as well
    python3 docs/verify.py --self-test              that each check finds what it looks for

Needs Python 3.9 and nothing else. Ends with status 1 if anything is wrong, and lists all of it.

1. Every relative link, and every anchor of a Markdown page, resolves. Paths of the form
   docs/page.md#anchor in other files (alerts, units, charts) count as links.
2. Every configuration key in backticks (`section.key`) is in config/relay.yaml.
3. Every command `outbox-relay COMMAND` and each of its flags is known to the binary, and every YAML
   example of a configuration is accepted by it.
4. Every alert has its heading in docs/runbook.md, and every such heading its alert.
5. Every metric `outbox_relay_*` is in docs/metrics.md, if there is one.
6. Every test that is named by its path (`module::tests::a_sentence_about_it`) is there.
7. Every path of the HTTP server (src/http/mod.rs) is in docs/http.md, and every path there is one.
8. Every kind of docs/errors.md has its heading "Kind …" in docs/runbook.md, and every such heading its kind.
9. Every `curl` that sends a body (-d) to the relay says that it is JSON, without which it is refused (415).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Keys that the documentation may name before config/relay.yaml has them. To be emptied: an entry whose
# key is there is an error. `x.*` stands for x and all below it.
PENDING = []

# Words in backticks that look like keys of the configuration and are something else.
FOREIGN = {
    "log.dirs",  # a property of Kafka's brokers
    "kafka.sh",  # tests/kafka/kafka.sh
}

# Options of ScyllaDB's CDC source connector, whose names begin like a section of ours.
FOREIGN_OPTIONS = re.compile(
    r"scylla\.(?:(?:name|user)$|consistency\.level$|(?:ssl|cluster|table|local|query|confidence|minimal|initial)\b)"
)

# Sections below which users name keys of their own.
FREE = ("kafka.properties", "kafka.property_files", "outboxes.headers")

FILE_NAMES = re.compile(r"\.(yaml|yml|md|rs|sh|py|json|toml|service|txt|log|pem|jsonl)$")

FENCE = re.compile(r"^\s*(```+|~~~+)\s*(\w*)")
SPAN = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^\s{0,3}\[[^\]]+\]:\s+<?(\S+?)>?\s*$")
MENTION = re.compile(r"(?<![\w/.-])(?:blob/\w+/)?(docs/[\w./-]+\.md)(#[\w-]+)?")
KEY = re.compile(r"(?<![\w./-])([a-z_]+(?:\.[a-z_][a-z_0-9]*)+)(?![\w/])")
METRIC = re.compile(r"(?<![\w.])outbox_relay_[a-z_]+[a-z](?![\w(])")
TEST = re.compile(r"^[a-z][a-z_0-9]*(?:::[a-z][a-z_0-9]*)*::(\w+_\w+_\w+)$")
KIND = re.compile(r"^\|\s*\[`(\w+)`\]\(#\1\)", re.M)
BODY = re.compile(r"\s(?:-d|--data(?:-raw|-binary)?|--json)(?:[\s=]|$)")
OURS = re.compile(r"\$\{?R\b|:9464\b|/api/")
HEADER = re.compile(r"content-type:\s*application/json", re.I)
ALERT = re.compile(r"^\s*(?:-\s+)?alert:\s*[\"']?(\w+)", re.M)


class Page:
    """A Markdown file: its prose, its code spans and blocks, its anchors."""

    def __init__(self, path, text):
        self.path = path
        self.prose = []  # (line, text) without code
        self.spans = []  # (line, code)
        self.blocks = []  # (line, language, code)
        self.headings = []
        fence, language, begin, block = None, "", 0, []
        previous, paragraph = "", []
        for number, line in enumerate(text.splitlines(), 1):
            mark = FENCE.match(line)
            if fence:
                if mark and mark[1].startswith(fence) and line.strip() == mark[1]:
                    self.blocks.append((begin, language, "\n".join(block)))
                    fence = None
                else:
                    block.append(line)
                continue
            if mark:
                self._flush(paragraph)
                fence, language, begin, block = mark[1], mark[2].lower(), number, []
                continue
            indented = line.startswith("    ") and (not previous.strip() or previous.startswith("    "))
            if indented and line.strip() and not re.match(r"\s*([-*+]|\d+\.)\s", line):
                self.blocks.append((number, "indented", line.strip()))
                previous = line
                continue
            previous = line
            heading = re.match(r"(#{1,6})\s+(.*?)\s*#*$", line)
            if heading:
                self._flush(paragraph)
                self.headings.append(heading[2])
            if not line.strip():
                self._flush(paragraph)
            else:
                paragraph.append((number, line))
        self._flush(paragraph)
        self.anchors = set(re.findall(r"<a\s+(?:id|name)=\"([^\"]+)\"", text))
        seen = {}
        for heading in self.headings:
            slug = slugify(heading)
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            self.anchors.add(f"{slug}-{count}" if count else slug)

    def _flush(self, paragraph):
        """Code spans may go over the end of a line, so that a paragraph is looked at as a whole."""
        if not paragraph:
            return
        first = paragraph[0][0]
        text = "\n".join(line for _, line in paragraph)
        one = text.replace("\n", " ")
        for span in SPAN.finditer(one):
            line = first + text.count("\n", 0, span.start())
            self.spans.append((line, re.sub(r"\s+", " ", span[2].strip())))
        bare = SPAN.sub(lambda span: " " * len(span[0]), one)
        for link in LINK.finditer(bare):
            self.prose.append((first + text.count("\n", 0, link.start()), link[1]))
        for number, line in paragraph:
            reference = REFERENCE.match(line)
            if reference:
                self.prose.append((number, reference[1]))
        paragraph.clear()


def slugify(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")


class Checker:
    def __init__(self, root):
        self.root = root
        self.problems = []
        self.counts = {}
        self.cache = {}
        files = [root / "README.md", root / "CHANGELOG.md"]
        for folder in ("docs", "helm", "systemd", "crates", "examples", "monitoring"):
            files += sorted((root / folder).rglob("*.md"))
        self.pages = [self.page(path) for path in files if path.is_file() and "target" not in path.parts]

    def page(self, path):
        path = path.resolve()
        if path not in self.cache:
            self.cache[path] = Page(path, path.read_text(encoding="utf-8"))
        return self.cache[path]

    def problem(self, path, line, message):
        self.problems.append(f"{path.resolve().relative_to(self.root)}:{line}: {message}")

    def count(self, what, number=1):
        self.counts[what] = self.counts.get(what, 0) + number

    def link(self, path, line, target, base):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            return
        self.count("links")
        name, _, anchor = target.partition("#")
        to = (base / name).resolve() if name else path.resolve()
        if not to.exists():
            return self.problem(path, line, f"`{target}` leads nowhere")
        if self.root not in (to, *to.parents):
            return self.problem(path, line, f"`{target}` leads out of the project")
        if anchor and to.suffix == ".md" and anchor not in self.page(to).anchors:
            self.problem(path, line, f"`{target}`: {to.name} has no heading for #{anchor}")

    def links(self):
        for page in self.pages:
            for line, target in page.prose:
                self.link(page.path, line, target, page.path.parent)
        others = []
        for folder in ("config", "helm", "systemd", "monitoring"):
            others += [path for path in sorted((self.root / folder).rglob("*")) if path.is_file()]
        others += [path for path in self.root.glob("compose*.y*ml")]
        for path in others:
            if path.suffix in (".md", ".png", ".tgz"):
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                for mention in MENTION.finditer(line):
                    self.link(path, number, mention[1] + (mention[2] or ""), self.root)

    def keys(self):
        known = config_keys(self.root / "config" / "relay.yaml")
        sections = {key.split(".")[0] for key in known} | {entry.split(".")[0] for entry in PENDING}
        for entry in PENDING:
            name = entry[:-2] if entry.endswith(".*") else entry
            if name in known:
                self.problem(
                    Path(__file__) if Path(__file__).resolve().is_relative_to(self.root) else self.root / "README.md",
                    1,
                    f"config/relay.yaml has {name} now: take {entry} out of PENDING",
                )
        for page in self.pages:
            for line, span in page.spans:
                for found in KEY.finditer(span):
                    key = found[1]
                    if key.split(".")[0] not in sections or FILE_NAMES.search(key):
                        continue
                    if key in FOREIGN or FOREIGN_OPTIONS.match(key):
                        continue
                    if span[found.end() : found.end() + 1] == "(":
                        continue
                    self.count("keys")
                    if key not in known and not allowed(key):
                        self.problem(page.path, line, f"`{key}` is not a key of config/relay.yaml")

    def alerts(self):
        path = self.root / "monitoring" / "alerts.yaml"
        runbook = self.root / "docs" / "runbook.md"
        if not path.is_file():
            print("not checked: alerts (no monitoring/alerts.yaml)")
            return
        names = ALERT.findall(path.read_text(encoding="utf-8"))
        self.count("alerts", len(names))
        headings = self.page(runbook).headings if runbook.is_file() else []
        for name in names:
            if name not in headings:
                self.problem(path, 1, f"{name} has no heading in docs/runbook.md")
        for heading in headings:
            if re.fullmatch(r"OutboxRelay\w+", heading) and heading not in names:
                self.problem(runbook, 1, f"{heading} is no alert of monitoring/alerts.yaml")

    def kinds(self):
        path = self.root / "docs" / "errors.md"
        runbook = self.root / "docs" / "runbook.md"
        if not path.is_file() or not runbook.is_file():
            print("not checked: kinds of errors (no docs/errors.md or docs/runbook.md)")
            return
        names = KIND.findall(path.read_text(encoding="utf-8"))
        self.count("kinds", len(names))
        if not names:
            self.problem(path, 1, "no kind was found in it")
        headings = [re.fullmatch(r"Kind `?(\w+)`?", heading) for heading in self.page(runbook).headings]
        described = [heading[1] for heading in headings if heading]
        for name in names:
            if name not in described:
                self.problem(path, 1, f"{name} has no heading `Kind {name}` in docs/runbook.md")
        for name in described:
            if name not in names:
                self.problem(runbook, 1, f"`Kind {name}` is no kind of docs/errors.md")

    def calls(self):
        for page in self.pages:
            codes = list(page.spans)
            for line, language, code in page.blocks:
                # What a block sets is seen in its own calls, as in J="Content-Type: …" and -H "$J".
                variables = {}
                for at, text in enumerate(joined(code)):
                    assigned = re.match(r"\s*(?:export\s+)?(\w+)=(\"[^\"]*\"|'[^']*'|\S+)\s*(?:#.*)?$", text)
                    if assigned:
                        variables[assigned[1]] = assigned[2]
                    shown = re.sub(r"\$\{?(\w+)\}?", lambda name: name[0] + " " + variables.get(name[1], ""), text)
                    codes.append((line + 1 + at, shown))
            for line, code in codes:
                if not re.search(r"\bcurl\s", code) or not BODY.search(code) or not OURS.search(code):
                    continue
                self.count("calls")
                if not HEADER.search(code) and not re.search(r"\s--json[\s=]", code):
                    self.problem(page.path, line, "this `curl` with a body lacks -H 'Content-Type: application/json'")

    def metrics(self):
        path = self.root / "docs" / "metrics.md"
        if not path.is_file():
            print("not checked: metrics (no docs/metrics.md)")
            return
        known = set(METRIC.findall(path.read_text(encoding="utf-8")))
        for page in self.pages:
            for line, code in page.spans + [(line, code) for line, _, code in page.blocks]:
                for name in METRIC.findall(code):
                    self.count("metrics")
                    if name not in known and re.sub(r"_(bucket|count|sum)$", "", name) not in known:
                        self.problem(page.path, line, f"`{name}` is no metric of docs/metrics.md")

    def routes(self):
        source = self.root / "src" / "http" / "mod.rs"
        routes = set(re.findall(r'\.route\("([^"]+)"', source.read_text(encoding="utf-8")))
        path = self.root / "docs" / "http.md"
        page = next((page for page in self.pages if page.path == path), None)
        if page is None:
            self.problem(path, 1, "there is no page about HTTP")
            return
        named = {}
        for line, span in page.spans:
            if re.fullmatch(r"/[\w/{}-]*", span):
                named.setdefault(span, line)
        for route in sorted(routes | set(named)):
            self.count("paths")
            if route not in named:
                self.problem(path, 1, f"`{route}` is missing")
            elif route not in routes:
                self.problem(path, named[route], f"`{route}` is not answered")

    def tests(self):
        functions = set()
        for folder in ("src", "tests", "crates"):
            for path in (self.root / folder).rglob("*.rs"):
                if "target" not in path.parts:
                    functions.update(re.findall(r"\bfn (\w+)\s*\(", path.read_text(encoding="utf-8")))
        for page in self.pages:
            for line, span in page.spans:
                test = TEST.match(span)
                if test:
                    self.count("tests")
                    if test[1] not in functions:
                        self.problem(page.path, line, f"there is no test `{span}`")

    def commands(self, binary):
        for page in self.pages:
            codes = [(line, code) for line, code in page.spans]
            for line, language, code in page.blocks:
                if language in ("sh", "bash", "console", "indented", ""):
                    code = code.replace("\\\n", " ")
                    codes += [(line + at, text) for at, text in enumerate(code.split("\n"))]
            for line, code in codes:
                for words in command_lines(code):
                    self.count("commands")
                    message = binary.misses(words)
                    if message:
                        self.problem(page.path, line, message)
            for line, language, code in page.blocks:
                if language == "yaml" and binary.is_config(code):
                    self.count("examples")
                    for message in binary.refuses(code):
                        self.problem(page.path, line, message)


def joined(code):
    """The lines of a piece of shell; one that goes on in the next stands in its first line, whole."""
    lines, parts = [], []
    for text in code.split("\n"):
        parts.append(text.removesuffix("\\"))
        if text.endswith("\\"):
            continue
        lines += [" ".join(parts)] + [""] * (len(parts) - 1)
        parts = []
    return lines + parts


def config_keys(path):
    """Every key of the reference, those that are commented out as well; lists count for nothing."""
    keys, stack = set(), []
    if not path.is_file():
        return keys
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = re.match(r"^(\s*)(?:- )?(?:# )?([a-z_]+):(?: |$)", line)
        if not entry:
            continue
        indent = len(entry[1])
        while stack and stack[-1][0] >= indent:
            stack.pop()
        commented = line.lstrip().startswith("# ")
        key = ".".join([name for _, name in stack] + [entry[2]])
        if commented and not stack:
            continue
        keys.add(key)
        if not commented:
            stack.append((indent, entry[2]))
    return keys


def allowed(key):
    for entry in PENDING:
        name = entry[:-2] if entry.endswith(".*") else entry
        if key == name or (entry.endswith(".*") and key.startswith(name + ".")):
            return True
    return any(key.startswith(free + ".") for free in FREE)


def command_lines(code):
    """The words of each call of the relay in a line of code."""
    for part in re.split(r"\s*(?:&&|\|\||[|;])\s*", code.strip().removeprefix("$ ")):
        part = re.sub(r"\s#\s.*$|\s{3,}.*$", "", part)
        # As root, with variables of its own, and in a pod.
        part = re.sub(r"^kubectl\s.*?\sexec\s.*?\s--\s+|^kubectl\s+exec\s.*?\s--\s+", "", part)
        part = re.sub(r"^(?:sudo\s+)?(?:[A-Z_]+=\S*\s+)*", "", part)
        call = re.match(r"(?:[\w./~-]*/)?outbox-relay(\s+.*)?$", part)
        cargo = re.match(r"cargo run\b(?!.*\s-p\s)[^|]*?\s--(\s+.*)$", part)
        found = call or cargo
        if found and found[1]:
            words = found[1].split()
            # Names in capitals and … stand for what a reader fills in.
            yield words


class Binary:
    def __init__(self, path):
        self.path = str(path.resolve())
        self.helps = {}

    def help(self, *command):
        if command not in self.helps:
            run = subprocess.run([self.path, *command, "--help"], capture_output=True, text=True, timeout=60)
            text = run.stdout if run.returncode == 0 else ""
            section = re.search(r"^Commands:\n(.*?)(?:\n\n|\Z)", text, re.M | re.S)
            names = re.findall(r"^  ([a-z][a-z-]*)", section[1], re.M) if section else []
            flags = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*|-[a-zA-Z])(?![\w-])", text))
            self.helps[command] = (set(names), flags)
        return self.helps[command]

    def misses(self, words):
        command = ()
        while True:
            names, _ = self.help(*command)
            word = words[len(command)] if len(words) > len(command) else ""
            word = word.rstrip(",.:;")
            if not names or not re.fullmatch(r"[a-z][a-z-]*", word):
                break
            if word not in names:
                called = " ".join(["outbox-relay", *command])
                return f"`{called}` has no command `{word}`"
            command += (word,)
        if not command and not any(word in ("--help", "--version") for word in words):
            return None
        _, flags = self.help(*command)
        for word in words[len(command) :]:
            flag = re.match(r"(--[a-z][a-z-]*|-[a-zA-Z]$)", word)
            if flag and flag[1] not in flags:
                return f"`outbox-relay {' '.join(command)}` has no flag `{flag[1]}`"
        return None

    @staticmethod
    def is_config(code):
        sections = "relay|scylla|kafka|outboxes|follow|retry|breaker|dead_letters|checkpoint|limits|http|log"
        return re.search(rf"^(?:{sections}|shutdown|supervision):", code, re.M) is not None

    def refuses(self, code):
        """What the relay says is wrong with an example; files of secrets need not be there."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "relay.yaml"
            file.write_text(code, encoding="utf-8")
            call = [self.path, "config", "print", "--config", str(file)]
            if not re.search(r"^outboxes:", code, re.M):
                call += ["--set", 'outboxes=[{"table":"a.b"}]']
            # As under systemd: a folder of credentials, whose files are made up.
            credentials = Path(folder) / "credentials"
            credentials.mkdir()
            for name in re.findall(r"\$\{CREDENTIALS_DIRECTORY\}/([\w.-]+)", code):
                (credentials / name).write_text("0123456789abcdef", encoding="utf-8")
            env = {**os.environ, "CREDENTIALS_DIRECTORY": str(credentials)}
            run = subprocess.run(call, capture_output=True, text=True, timeout=60, env=env)
            if run.returncode == 0:
                return []
            lines = [line.strip().replace(str(file), "example") for line in run.stderr.splitlines()[1:]]
            return [f"the example is refused: {line}" for line in lines if "cannot be read" not in line]


def verify(root, binary=None):
    checker = Checker(root.resolve())
    checker.links()
    checker.keys()
    checker.alerts()
    checker.kinds()
    checker.calls()
    checker.metrics()
    checker.routes()
    checker.tests()
    if binary:
        checker.commands(binary)
    else:
        print("not checked: commands and examples (no --binary)")
    return checker


def self_test():
    """A small tree with one mistake of each kind: each must be found, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in ("docs", "config", "monitoring", "systemd", "src/http"):
            (root / path).mkdir(parents=True)
        (root / "config/relay.yaml").write_text(
            "# Prose: not a key.\nfollow:\n  # Pause between two reads.\n  poll: 10ms\n"
            "kafka:\n  properties: {}\noutboxes:\n  -\n    columns:\n      # id: id\n"
        )
        (root / "README.md").write_text(
            "# Title\n\n[good](docs/a.md#the-key-x), [gone](docs/b.md), [lost](docs/a.md#nothing)\n"
            "`[not a link](nowhere)` `follow.poll` `follow.pol` `outboxes.columns.id` `relay.yaml`\n"
            "`kafka.properties.linger.ms` `outbox-relay run --config x`, `outbox-relay walk`, `outbox-relay run\n"
            "--fast`\n\n```yaml\nfollow: { pace: 1 }\n```\n\n"
            "    outbox-relay letters list\n    outbox-relay letters lose\n"
            "    sudo A=/b outbox-relay letters hide\n    kubectl exec $D -- /usr/bin/outbox-relay letters burn\n"
            "\n```sh\nJ='Content-Type: application/json'\ncurl -X PUT -H \"$J\" -d '{}' $R/api/level\n"
            "curl -X PUT \\\n  -d '{}' $R/api/level\ncurl -d '{}' http://collector/\ncurl $R/livez\n```\n"
            "`curl -X POST --data '{}' http://127.0.0.1:9464/api/replay`\n"
        )
        (root / "docs/a.md").write_text("# The key `x`\n\n```\n# not a heading\n[no](link)\n```\n`outbox_relay_bad`\n")
        (root / "docs/metrics.md").write_text(
            "`outbox_relay_good`, `a::tests::a_test_that_is`, `a::tests::a_test_that_was`\n"
        )
        (root / "src/a.rs").write_text("fn a_test_that_is() {}\n")
        (root / "src/http/mod.rs").write_text('.route("/here", get(a)).route("/api/{id}", get(b))')
        (root / "docs/http.md").write_text("`/here`, `/gone`\n")
        (root / "docs/errors.md").write_text("| [`lost`](#lost) | a |\n| [`found`](#found) | b |\n\n## lost\n## found\n")
        (root / "docs/runbook.md").write_text(
            "## OutboxRelayGone\n## OutboxRelayDown\n## Kind lost\n## Kind stolen\n"
        )
        (root / "monitoring/alerts.yaml").write_text("- alert: OutboxRelayDown\n- alert: OutboxRelayNew\n")
        (root / "systemd/a.service").write_text("# see docs/a.md#the-key-x and docs/a.md#no-such\n")
        fake = root / "fake"
        fake.write_text(
            "#!/bin/sh\ncase \"$*\" in\n"
            "--help) printf 'Commands:\\n  run      runs\\n  letters  more\\n\\nOptions:\\n  --help\\n';;\n"
            "'run --help') printf 'Options:\\n  --config FILE\\n';;\n"
            "'letters --help') printf 'Commands:\\n  list  lists\\n\\n';;\n"
            "'letters list --help') printf 'Options:\\n';;\n"
            "*) printf 'one problem:\\n  follow.pace: unknown key\\n' >&2; exit 78;;\nesac\n"
        )
        fake.chmod(0o755)
        found = sorted(verify(root, Binary(fake)).problems)
        expected = [
            "README.md:11: the example is refused: follow.pace: unknown key",
            "README.md:16: `outbox-relay letters` has no command `lose`",
            "README.md:17: `outbox-relay letters` has no command `hide`",
            "README.md:18: `outbox-relay letters` has no command `burn`",
            "README.md:23: this `curl` with a body lacks -H 'Content-Type: application/json'",
            "README.md:28: this `curl` with a body lacks -H 'Content-Type: application/json'",
            "README.md:3: `docs/a.md#nothing`: a.md has no heading for #nothing",
            "README.md:3: `docs/b.md` leads nowhere",
            "README.md:4: `follow.pol` is not a key of config/relay.yaml",
            "README.md:5: `outbox-relay run` has no flag `--fast`",
            "README.md:5: `outbox-relay` has no command `walk`",
            "docs/a.md:7: `outbox_relay_bad` is no metric of docs/metrics.md",
            "docs/errors.md:1: found has no heading `Kind found` in docs/runbook.md",
            "docs/http.md:1: `/api/{id}` is missing",
            "docs/http.md:1: `/gone` is not answered",
            "docs/metrics.md:1: there is no test `a::tests::a_test_that_was`",
            "docs/runbook.md:1: `Kind stolen` is no kind of docs/errors.md",
            "docs/runbook.md:1: OutboxRelayGone is no alert of monitoring/alerts.yaml",
            "monitoring/alerts.yaml:1: OutboxRelayNew has no heading in docs/runbook.md",
            "systemd/a.service:1: `docs/a.md#no-such`: a.md has no heading for #no-such",
        ]
        strip = lambda lines: sorted(re.sub(r":\d+:", ":", line) for line in lines)
        if strip(found) != strip(expected):
            print("found:", *found, "expected:", *expected, sep="\n  ")
            return 1
        print(f"self-test: {len(expected)} mistakes of {len(expected)} found, and nothing else")
        return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--binary", type=Path, help="a built outbox-relay")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    checker = verify(arguments.root, Binary(arguments.binary) if arguments.binary else None)
    for problem in checker.problems:
        print(problem)
    checked = ", ".join(f"{number} {what}" for what, number in checker.counts.items())
    print(f"{len(checker.pages)} pages; {checked}; problems: {len(checker.problems)}")
    return 1 if checker.problems else 0


if __name__ == "__main__":
    sys.exit(main())
