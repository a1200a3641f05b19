{{- define "coordinator.labels" -}}
app.kubernetes.io/name: fedmepd-coordinator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "coordinator.selector" -}}
app.kubernetes.io/name: fedmepd-coordinator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "coordinator.name" -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" }}
{{- end }}

{{- /* the configuration: what the chart knows wins; values of one level are the same in JSON and TOML */ -}}
{{- define "coordinator.config" -}}
{{- $own := dict "coordinator" (dict
      "data" "/var/lib/fedmepd/coordinator"
      "listen" "0.0.0.0:8443"
      "enrolment" (ternary "0.0.0.0:8444" "" .Values.enrolment.enabled))
    "metrics" (dict "listen" "0.0.0.0:9464")
    "status_page" (dict "listen" (ternary "0.0.0.0:8445" "127.0.0.1:8445" .Values.statusPage.enabled))
    "lead" (dict "cohort" "/data/lead") }}
{{- range $section, $keys := mustMergeOverwrite (deepCopy .Values.config) $own }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ mustToRawJson $value }}
{{- end }}
{{ end }}
{{- end }}

{{- define "coordinator.container" -}}
image: "{{ .Values.image.repository }}@{{ required "image.digest is required: name what is run by its digest" .Values.image.digest }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}
