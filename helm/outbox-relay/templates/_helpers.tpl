{{- define "outbox-relay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "outbox-relay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "outbox-relay.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "outbox-relay.selectorLabels" -}}
app.kubernetes.io/name: {{ include "outbox-relay.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "outbox-relay.labels" -}}
{{ include "outbox-relay.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "outbox-relay.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "outbox-relay.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "outbox-relay.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "outbox-relay.configMapName" -}}
{{- default (include "outbox-relay.fullname" .) .Values.existingConfigMap -}}
{{- end -}}

{{/* The relay's configuration: what the values say, and what the chart knows. */}}
{{- define "outbox-relay.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $scylla := $config.scylla | default dict -}}
{{- $kafka := $config.kafka | default dict -}}
{{- $http := $config.http | default dict -}}
{{- $relay := $config.relay | default dict -}}
{{- if not $relay.name -}}
{{- $_ := set $relay "name" (include "outbox-relay.fullname" .) -}}
{{- $_ := set $config "relay" $relay -}}
{{- end -}}
{{- $properties := $kafka.properties | default dict -}}
{{- if hasKey $scylla "password" -}}
{{- fail "config.scylla.password would lie in a ConfigMap: use secrets.scyllaPassword" -}}
{{- end -}}
{{- if hasKey $http "admin_token" -}}
{{- fail "config.http.admin_token would lie in a ConfigMap: use secrets.adminToken" -}}
{{- end -}}
{{- range $name := list "sasl.password" "ssl.key.password" "ssl.key.pem" "ssl.keystore.password" "sasl.oauthbearer.client.secret" -}}
{{- if hasKey $properties $name -}}
{{- fail (printf "config.kafka.properties has %s, which would lie in a ConfigMap: use secrets.kafkaSaslPassword, or extraVolumes and config.kafka.property_files" $name) -}}
{{- end -}}
{{- end -}}
{{- if hasKey $http "listen" -}}
{{- fail "config.http.listen is the chart's to set: use port and listenAddress" -}}
{{- end -}}
{{- $_ := set $http "listen" (printf "%s:%d" .Values.listenAddress (int .Values.port)) -}}
{{- $secrets := "/run/secrets/outbox-relay" -}}
{{- if .Values.secrets.scyllaPassword.existingSecret -}}
{{- $_ := set $scylla "password_file" (printf "%s/scylla-password" $secrets) -}}
{{- end -}}
{{- if .Values.secrets.adminToken.existingSecret -}}
{{- $_ := set $http "admin_token_file" (printf "%s/admin-token" $secrets) -}}
{{- end -}}
{{- if .Values.secrets.kafkaSaslPassword.existingSecret -}}
{{- $files := $kafka.property_files | default dict -}}
{{- $_ := set $files "sasl.password" (printf "%s/kafka-sasl-password" $secrets) -}}
{{- $_ := set $kafka "property_files" $files -}}
{{- end -}}
{{- with .Values.tls.scylla -}}
{{- if .existingSecret -}}
{{- $tls := $scylla.tls | default dict -}}
{{- $_ := set $tls "enabled" true -}}
{{- $_ := set $tls "ca_file" (printf "%s/scylla-ca.pem" $secrets) -}}
{{- if .clientCertificate -}}
{{- $_ := set $tls "cert_file" (printf "%s/scylla-cert.pem" $secrets) -}}
{{- $_ := set $tls "key_file" (printf "%s/scylla-key.pem" $secrets) -}}
{{- end -}}
{{- $_ := set $scylla "tls" $tls -}}
{{- end -}}
{{- end -}}
{{- with .Values.tls.kafka -}}
{{- if .existingSecret -}}
{{- $_ := set $properties "ssl.ca.location" (printf "%s/kafka-ca.pem" $secrets) -}}
{{- if .clientCertificate -}}
{{- $_ := set $properties "ssl.certificate.location" (printf "%s/kafka-cert.pem" $secrets) -}}
{{- $_ := set $properties "ssl.key.location" (printf "%s/kafka-key.pem" $secrets) -}}
{{- end -}}
{{- if not (has (get $properties "security.protocol") (list "ssl" "SSL" "sasl_ssl" "SASL_SSL")) -}}
{{- fail "tls.kafka is set, but config.kafka.properties has no security.protocol with SSL (ssl or sasl_ssl)" -}}
{{- end -}}
{{- $_ := set $kafka "properties" $properties -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config "http" $http -}}
{{- if $scylla }}{{ $_ := set $config "scylla" $scylla }}{{ end -}}
{{- if $kafka }}{{ $_ := set $config "kafka" $kafka }}{{ end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* shutdown.drain_timeout in whole seconds, rounded up. */}}
{{- define "outbox-relay.drainSeconds" -}}
{{- $text := dig "shutdown" "drain_timeout" "20s" .Values.config | toString | nospace -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $text | float64 -}}
{{- $unit := regexFind "[a-z]+$" $text -}}
{{- $factors := dict "us" 0.000001 "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0 -}}
{{- if not (hasKey $factors $unit) -}}
{{- fail (printf "config.shutdown.drain_timeout is %q: a number with a unit is needed, such as 20s" $text) -}}
{{- end -}}
{{- mulf $number (get $factors $unit) | ceil | int -}}
{{- end -}}

{{- define "outbox-relay.gracePeriod" -}}
{{- $drain := include "outbox-relay.drainSeconds" . | int -}}
{{- $needed := add $drain 20 | int -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add $drain 40 -}}
{{- else if le (int .Values.terminationGracePeriodSeconds) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %d: a stop takes up to config.shutdown.drain_timeout (%d s) and 20 s more, so it must be above %d" (int .Values.terminationGracePeriodSeconds) $drain $needed) -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* The sources of the volume of secrets: a YAML list, empty without any. */}}
{{- define "outbox-relay.secretSources" -}}
{{- $sources := list -}}
{{- $files := dict "scyllaPassword" "scylla-password" "kafkaSaslPassword" "kafka-sasl-password" "adminToken" "admin-token" -}}
{{- range $value := list "scyllaPassword" "kafkaSaslPassword" "adminToken" -}}
{{- with get $.Values.secrets $value -}}
{{- if .existingSecret -}}
{{- $sources = append $sources (dict "secret" (dict "name" .existingSecret "items" (list (dict "key" .key "path" (get $files $value))))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $side := list "scylla" "kafka" -}}
{{- with get $.Values.tls $side -}}
{{- if .existingSecret -}}
{{- $items := list (dict "key" .caKey "path" (printf "%s-ca.pem" $side)) -}}
{{- if .clientCertificate -}}
{{- $items = append $items (dict "key" .certKey "path" (printf "%s-cert.pem" $side)) -}}
{{- $items = append $items (dict "key" .keyKey "path" (printf "%s-key.pem" $side)) -}}
{{- end -}}
{{- $sources = append $sources (dict "secret" (dict "name" .existingSecret "items" $items)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $sources -}}{{- toYaml $sources -}}{{- end -}}
{{- end -}}

{{- define "outbox-relay.volumeMounts" -}}
- name: config
  mountPath: /etc/outbox-relay
  readOnly: true
{{- if include "outbox-relay.secretSources" . }}
- name: secrets
  mountPath: /run/secrets/outbox-relay
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "outbox-relay.env" -}}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
