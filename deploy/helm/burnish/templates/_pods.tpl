{{/* What all pods of the chart have in common. */}}

{{/* Of dict root, pod (settings of the service or of the coordinator). */}}
{{- define "burnish.podBasics" -}}
serviceAccountName: {{ include "burnish.serviceAccount" .root }}
automountServiceAccountToken: false
# Else variables such as BURNISH_SCORING_PORT=tcp://… would stand among Burnish's own.
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .root.Values.podSecurity.runAsUser }}
  runAsGroup: {{ .root.Values.podSecurity.runAsGroup }}
  fsGroup: {{ .root.Values.podSecurity.fsGroup }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "burnish.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A claim's spec: of its settings. */}}
{{- define "burnish.claimSpec" -}}
accessModes:
  {{- toYaml .accessModes | nindent 2 }}
{{- with .storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end -}}

{{/* A claim that outlives the release: of dict root, component, name, claim. */}}
{{- define "burnish.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "burnish.labels" . | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  {{- include "burnish.claimSpec" .claim | nindent 2 }}
{{- end -}}

{{/* Volumes that the release's pods share, and where they are: of the root. */}}
{{- define "burnish.sharedVolumes" -}}
{{- range $name := list "models" "runs" }}
{{- $volume := index $.Values.storage $name }}
{{- if $volume.enabled }}
- name: {{ $name }}
  persistentVolumeClaim:
    claimName: {{ $volume.existingClaim | default (printf "%s-%s" (include "burnish.fullname" $) $name) }}
    {{- if $volume.readOnly }}
    readOnly: true
    {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of dict root, component: only training writes. */}}
{{- define "burnish.sharedMounts" -}}
{{- range $name := list "models" "runs" }}
{{- $volume := index $.root.Values.storage $name }}
{{- if $volume.enabled }}
- name: {{ $name }}
  mountPath: {{ $volume.path }}
  {{- if or $volume.readOnly (and (eq $name "runs") (ne $.component "training")) }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}
