#!/usr/bin/env bash
# Checks the chart:  CI_CACHE=DIR bash helm/verify.sh
#
# Needs Go and Python: helm and kubeconform are built from their Go modules. With OUTBOX_RELAY=PROGRAM
# the relay reads the configurations that the chart renders. REFERENCE names another reference
# configuration than config/relay.yaml.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd .. && pwd)
cache="${CI_CACHE:-$root/target/ci}/helm"
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
chart=outbox-relay
helm=v3.22.0
kubeconform=v0.8.0
operator=v0.85.0
kubernetes="1.27.0 1.34.0 1.37.0" # the chart's oldest, and recent ones

install_go() { # install_go PROGRAM MODULE VERSION
  [ -x "$cache/bin/$1-$3" ] && return
  GOBIN="$cache/bin" GOFLAGS=-buildvcs=false go install "$2@$3"
  mv "$cache/bin/$1" "$cache/bin/$1-$3"
}
install_go helm helm.sh/helm/v3/cmd/helm "$helm"
install_go kubeconform github.com/yannh/kubeconform/cmd/kubeconform "$kubeconform"
helm() { "$cache/bin/helm-$helm" "$@"; }

if ! cmp -s requirements.txt "$cache/requirements.txt"; then
  python3 -m venv --clear "$cache/python"
  # kubernetes-validate for its schemas alone: what it depends on is not needed.
  "$cache/python/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement requirements.txt
  cp requirements.txt "$cache/requirements.txt"
fi
python="$cache/python/bin/python"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
crds=$(cd "$scratch" && go mod download -json "github.com/prometheus-operator/prometheus-operator@$operator" |
  sed -nE 's/^\t"Dir": "(.*)",$/\1/p')
# shellcheck disable=SC2086 # a list of versions
"$python" schemas.py "$scratch/schemas" "$crds" $kubernetes

conform() { # conform KUBERNETES FILE
  "$cache/bin/kubeconform-$kubeconform" -strict -summary -kubernetes-version "$1" \
    -schema-location "$scratch/schemas/$1/{{.ResourceKind}}{{.KindSuffix}}.json" "$2"
}
render() { helm template orders "$chart" --kube-version 1.34 --namespace events "$@"; }

# One source: the chart's files are copies.
for file in alerts.yaml dashboard.json; do
  cmp "$root/monitoring/$file" "$chart/files/$file" || {
    echo "helm: copy monitoring/$file to helm/$chart/files/ again" >&2
    exit 1
  }
done
"$python" - "$root" "${REFERENCE:-$root/config/relay.yaml}" <<'PYTHON'
import json, pathlib, re, sys, yaml
root = pathlib.Path(sys.argv[1])
chart = root / "helm/outbox-relay"
schema = json.loads((chart / "values.schema.json").read_text())["properties"]
values = yaml.safe_load((chart / "values.yaml").read_text())
reference = yaml.safe_load(pathlib.Path(sys.argv[2]).read_text())
readme = (chart / "README.md").read_text()
version = re.search(r'^\[workspace\.package\]\nversion = "(.*)"', (root / "Cargo.toml").read_text(), re.M)[1]
wrong = []
if set(schema) - {"global"} != set(values):
    wrong.append(f"values.yaml and its schema differ in {sorted(set(values) ^ (set(schema) - {'global'}))}")
if set(schema["config"]["properties"]) != set(reference):
    differ = sorted(set(reference) ^ set(schema["config"]["properties"]))
    wrong.append(f"values.schema.json, config: its sections differ from config/relay.yaml in {differ}")
wrong += [f"README.md does not have {key}" for key in values if not re.search(rf"`{key}[`.]", readme)]
meta = yaml.safe_load((chart / "Chart.yaml").read_text())
if meta["appVersion"] != version:
    wrong.append(f"Chart.yaml: appVersion is {meta['appVersion']}, the relay's version is {version}")
sys.exit("\n".join("helm: " + each for each in wrong) or 0)
PYTHON

# shellcheck disable=SC2016 # backticks of Markdown
sed -n '/^```yaml$/,/^```$/p' "$chart/README.md" | sed '1d;$d' >"$scratch/readme-values.yaml"
sets=0
for values in "$chart"/ci/*-values.yaml "$scratch/readme-values.yaml"; do
  name=$(basename "$values" -values.yaml)
  helm lint --strict --quiet --kube-version 1.34 --values "$values" "$chart"
  render --values "$values" >"$scratch/$name.yaml"
  for version in $kubernetes; do
    conform "$version" "$scratch/$name.yaml" >"$scratch/said" || { cat "$scratch/said" >&2; exit 1; }
    grep -q 'Skipped: 0$' "$scratch/said" || { cat "$scratch/said" >&2; exit 1; }
  done
  "$python" check.py "$name" "$scratch/$name.yaml" "$values" "$scratch/$name.relay.yaml"
  printf 'helm: %s: %s' "$name" "$(cat "$scratch/said")"
  if [ -n "${OUTBOX_RELAY:-}" ] && [ -e "$scratch/$name.relay.yaml" ]; then
    # Secrets and certificates lie elsewhere here, and hold nothing of worth.
    if ! [ -d "$scratch/secrets" ]; then
      mkdir "$scratch/secrets"
      for file in scylla-password kafka-sasl-password admin-token; do
        echo not-a-secret-at-all >"$scratch/secrets/$file"
      done
      openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=example \
        -keyout "$scratch/secrets/scylla-key.pem" -out "$scratch/secrets/scylla-ca.pem" 2>/dev/null
      cp "$scratch/secrets/scylla-ca.pem" "$scratch/secrets/scylla-cert.pem"
      for file in ca cert key; do cp "$scratch/secrets/scylla-$file.pem" "$scratch/secrets/kafka-$file.pem"; done
    fi
    sed -i "s|/run/secrets/outbox-relay|$scratch/secrets|" "$scratch/$name.relay.yaml"
    "$OUTBOX_RELAY" config print --config "$scratch/$name.relay.yaml" >/dev/null
    printf '; the relay takes the configuration'
  fi
  echo
  sets=$((sets + 1))
done
[ "$sets" -ge 6 ]
[ -n "${OUTBOX_RELAY:-}" ] || echo "helm: no relay read the configurations: OUTBOX_RELAY is not set"

refused=0
refuse() { # refuse MESSAGE ARGUMENT...: the chart must not render, and say MESSAGE
  local wanted=$1 said
  shift
  if said=$(render "$@" 2>&1); then
    echo "helm: rendered in spite of $*" >&2
    exit 1
  fi
  grep -qF -- "$wanted" <<<"$said" || { printf 'helm: %s: does not say "%s":\n%s\n' "$*" "$wanted" "$said" >&2; exit 1; }
  refused=$((refused + 1))
}
refuse "additional properties 'replicaCount' not allowed" --set replicaCount=2
refuse "additional properties 'outboxs' not allowed" --set 'config.outboxs[0].table=a.b'
refuse "minItems: got 0, want 1" --set-json 'config.outboxes=[]'
refuse "missing property 'table'" --set-json 'config.outboxes=[{"topic":"x"}]'
refuse "does not match pattern" --set 'config.outboxes[0].table=without_keyspace'
refuse "does not match pattern" --set config.relay.name='with spaces'
refuse "at '/config/kafka/brokers'" --set 'config.kafka.brokers[0]=kafka'
refuse "at '/config/shutdown/drain_timeout': got number, want string" --set config.shutdown.drain_timeout=20
refuse "maximum: got 70,000, want 65,535" --set port=70000
refuse "at '/image/pullPolicy'" --set image.pullPolicy=Sometimes
refuse "at '/image/digest'" --set image.digest=sha256:abc
refuse "at '/networkPolicy/enabled': got string, want boolean" --set-string networkPolicy.enabled=true
refuse "at '/networkPolicy/egress/kafka/ports'" --set-json 'networkPolicy.egress.kafka.ports=[]'
refuse "additional properties 'secretName' not allowed" --set secrets.adminToken.secretName=x
refuse "use secrets.scyllaPassword" --set config.scylla.password=hunter2
refuse "use secrets.adminToken" --set config.http.admin_token=hunter2hunter2hunter2
refuse "which would lie in a ConfigMap" --set 'config.kafka.properties.sasl\.password=hunter2'
refuse "use port and listenAddress" --set config.http.listen=0.0.0.0:1
refuse "no security.protocol with SSL" --set tls.kafka.existingSecret=kafka-tls
refuse "it must be above 40" --set terminationGracePeriodSeconds=40
refuse "it must be above 140" --set config.shutdown.drain_timeout=2m --set terminationGracePeriodSeconds=60
echo "helm: $refused wrong values are refused with the reason"

# Would the schema check notice?
sed 's/^  strategy:/  strategie:/' "$scratch/minimal.yaml" >"$scratch/bad.yaml"
if conform 1.34.0 "$scratch/bad.yaml" >/dev/null 2>&1; then
  echo "helm: kubeconform lets an unknown key pass" >&2
  exit 1
fi
sed 's/^    - port: http/    - prot: http/' "$scratch/everything.yaml" >"$scratch/bad.yaml"
if cmp -s "$scratch/bad.yaml" "$scratch/everything.yaml" || conform 1.34.0 "$scratch/bad.yaml" >/dev/null 2>&1; then
  echo "helm: kubeconform lets an unknown key of the operator's pass" >&2
  exit 1
fi
helm package "$chart" --destination "$scratch" >/dev/null
