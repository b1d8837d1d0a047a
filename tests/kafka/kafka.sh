#!/usr/bin/env bash
# One Apache Kafka node (broker and controller) from Maven Central, on loopback. Needs Java 17 and
# Maven; data lies in a temporary directory and goes with the process.
#
#   tests/kafka/kafka.sh run [PORT]                 a broker in the foreground (default port 9092)
#   tests/kafka/kafka.sh consume PORT TOPIC [N]     prints N records (default: until interrupted)
#   tests/kafka/kafka.sh topics|configs|acls|console-consumer ARGUMENT...
#                                                   as kafka-topics.sh and so on of Kafka's distribution
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
libs="${KAFKA_LIBS:-${CARGO_TARGET_DIR:-$here/../../target}/kafka-libs}"

tool() { # tool CLASS ARGUMENT...: ends the script with it
  fetch
  exec java -cp "$libs/*" "$@"
}
fetch() {
  [ -e "$libs/.complete" ] && return
  mkdir -p "$libs"
  mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$(cd "$libs" && pwd)" >&2
  touch "$libs/.complete"
}

case "${1:-}" in
run)
  fetch
  port=${2:-9092}
  data=$(mktemp -d)
  trap 'rm -rf "$data"' EXIT
  controller=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  cat >"$data/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$data/log
num.partitions=6
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES
  java -cp "$libs/*" kafka.tools.StorageTool format -t AAAAAAAAAAAAAAAAAAAAAQ \
    -c "$data/server.properties" >/dev/null
  java -Xmx512m -cp "$libs/*" kafka.Kafka "$data/server.properties" &
  broker=$!
  trap 'kill "$broker" 2>/dev/null; wait "$broker" 2>/dev/null || true; rm -rf "$data"' EXIT
  trap 'exit 0' INT TERM
  until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 "$broker" # ends the script when the broker has ended
    sleep 0.2
  done
  echo "Apache Kafka listens on 127.0.0.1:$port"
  wait "$broker"
  ;;
consume)
  tool org.apache.kafka.tools.consumer.ConsoleConsumer \
    --bootstrap-server "127.0.0.1:$2" --topic "$3" --from-beginning \
    --property print.key=true --property print.headers=true \
    ${4:+--max-messages "$4" --timeout-ms 60000}
  ;;
topics) tool org.apache.kafka.tools.TopicCommand "${@:2}" ;;
configs) tool kafka.admin.ConfigCommand "${@:2}" ;;
acls) tool org.apache.kafka.tools.AclCommand "${@:2}" ;;
console-consumer) tool org.apache.kafka.tools.consumer.ConsoleConsumer "${@:2}" ;;
*)
  sed -n '2,8p' "$0" >&2
  exit 2
  ;;
esac
