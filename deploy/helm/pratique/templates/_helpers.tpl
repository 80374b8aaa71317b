{{- define "pratique.name" -}}{{ .Chart.Name }}{{- end }}

{{- define "pratique.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "pratique.selector" -}}
app.kubernetes.io/name: {{ include "pratique.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pratique.labels" -}}
{{ include "pratique.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "pratique.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "pratique.fullname" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "pratique.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{- define "pratique.redis" -}}
{{- dig "state" "redis" "url" "" .Values.config }}
{{- end }}

{{/* What would start and then lose data, or not start, is refused here. */}}
{{- define "pratique.check" -}}
{{- $many := or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled }}
{{- $driver := dig "storage" "driver" "filesystem" .Values.config }}
{{- if and $many (not (include "pratique.redis" .)) }}
{{- fail "more than one replica needs config.state.redis.url: a SQLite state is of one process" }}
{{- end }}
{{- if and (include "pratique.redis" .) (has $driver (list "filesystem" "inmemory")) }}
{{- fail "config.state.redis needs an object store: set config.storage.driver to s3, gcs or azure" }}
{{- end }}
{{- if and (not (include "pratique.redis" .)) (ne .Values.data.kind "claim") }}
{{- fail "without config.state.redis.url the state is a file in the data directory: set data.kind to claim" }}
{{- end }}
{{- if and (include "pratique.redis" .) (eq .Values.data.kind "claim") }}
{{- fail "replicas do not share a claim: with config.state.redis.url leave data.kind at ephemeral" }}
{{- end }}
{{- end }}

{{/* The configuration: the operator's over the chart's, and what cannot be changed over both. */}}
{{- define "pratique.config" -}}
{{- $redis := dict }}
{{- if include "pratique.redis" . }}
{{- with .Values.redisSecret }}{{- if .name }}
{{- range $key, $file := dict "passwordFile" .password "sentinelPasswordFile" .sentinelPassword "ca" .ca "cert" .cert "key" .key }}
{{- if $file }}{{- $_ := set $redis $key (printf "/etc/pratique/redis/%s" $file) }}{{- end }}
{{- end }}
{{- end }}{{- end }}
{{- end }}
{{- $registry := dict "listen" ":5000" }}
{{- if .Values.tls.secret }}{{- $_ := set $registry "tls" (dict "cert" "/etc/pratique/tls/tls.crt" "key" "/etc/pratique/tls/tls.key") }}{{- end }}
{{- $hosts := list (printf "%s-admin" (include "pratique.fullname" .)) (printf "%s-admin.%s.svc" (include "pratique.fullname" .) .Release.Namespace) }}
{{- $defaults := dict "admin" (dict "hosts" $hosts) "log" (dict "format" "json") }}
{{- $fixed := dict "dataDir" "/var/lib/pratique" "registry" $registry "admin" (dict "listen" ":5001") }}
{{- if $redis }}{{- $_ := set $fixed "state" (dict "redis" $redis) }}{{- end }}
{{- if .Values.policies }}
{{- $files := list }}
{{- range $name, $_ := .Values.policies }}{{- $files = append $files (printf "/etc/pratique/policies/%s" $name) }}{{- end }}
{{- $_ := set $fixed "policies" $files }}
{{- end }}
{{- toYaml (mergeOverwrite $defaults (deepCopy .Values.config) $fixed) }}
{{- end }}
