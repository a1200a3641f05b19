{{- define "agent.labels" -}}
app.kubernetes.io/name: fedmepd-agent
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "agent.selector" -}}
app.kubernetes.io/name: fedmepd-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "agent.name" -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" }}
{{- end }}

{{- /* the configuration: what the chart knows wins; values of one level are the same in JSON and TOML */ -}}
{{- define "agent.config" -}}
{{- $own := dict "agent" (dict "data" "/var/lib/fedmepd/agent") "cohort" (dict "path" "/data/cohort")
    "metrics" (dict "listen" "0.0.0.0:9465") }}
{{- include "agent.toml" (mustMergeOverwrite (deepCopy .Values.config) $own) }}
{{- end }}

{{- define "agent.toml" -}}
{{- range $section, $keys := . }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ mustToRawJson $value }}
{{- end }}
{{ end }}
{{- end }}

{{- define "agent.container" -}}
image: "{{ .Values.image.repository }}@{{ required "image.digest is required: name what is run by its digest" .Values.image.digest }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "agent.files" -}}
agent.toml: |
  {{- include "agent.config" . | nindent 2 }}
policy.toml: |
  {{- include "agent.toml" .Values.policy | nindent 2 }}
{{- end }}
