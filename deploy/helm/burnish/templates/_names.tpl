{{/* Names and labels. */}}

{{- define "burnish.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for what is added: the longest is -training-nodes, and Services have 63 characters. */}}
{{- define "burnish.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "burnish.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "burnish.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "burnish.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "burnish.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* What all pods of the release have, and what tells those of a component: of dict root, component. */}}
{{- define "burnish.releaseLabels" -}}
app.kubernetes.io/name: {{ include "burnish.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "burnish.selector" -}}
{{ include "burnish.releaseLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Of dict root, and component where the object is of one. */}}
{{- define "burnish.labels" -}}
{{- if .component -}}
{{ include "burnish.selector" . }}
{{- else -}}
{{ include "burnish.releaseLabels" .root }}
{{- end }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The name that a service's certificate is for, and that clients ask for: of dict root, component. */}}
{{- define "burnish.host" -}}
{{ include "burnish.fullname" .root }}-{{ .component }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{- define "burnish.tlsSecret" -}}
{{- .Values.tls.secretName | default (printf "%s-tls" (include "burnish.fullname" .)) -}}
{{- end -}}

{{/* Not empty where servers have certificates. */}}
{{- define "burnish.tls" -}}
{{- if or .Values.tls.secretName .Values.tls.certManager.enabled }}yes{{ end -}}
{{- end -}}
