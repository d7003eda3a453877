{{/* A server: its command, environment, pod. All of dict root, component, role. */}}

{{- define "burnish.stateDir" -}}
{{- if eq .role.state.kind "runs" }}{{ .root.Values.storage.runs.path }}/.training{{ else }}/state{{ end -}}
{{- end -}}

{{- define "burnish.server.args" -}}
{{- $root := .root -}}
{{- $role := .role -}}
- --roles={{ .component }}
- --engine={{ $root.Values.engine }}
{{- if ne .component "training" }}
- {{ printf "--model=%s" ($role.model | default $root.Values.model) | quote }}
{{- end }}
- {{ printf "--host=%s" $role.host | quote }}
- --port={{ include "burnish.scalar" $root.Values.ports.grpc }}
- --health-port={{ include "burnish.scalar" $root.Values.ports.health }}
- --metrics-port={{ include "burnish.scalar" $root.Values.ports.metrics }}
- {{ printf "--state-dir=%s" (include "burnish.stateDir" .) | quote }}
- --grace={{ include "burnish.scalar" $role.grace }}
{{- if and (ne $role.autoscaling.kind "none") (not (hasKey $role.options "max-connection-age")) }}
{{- /* Else clients stay with the replicas that they know, and new ones have nothing to do. */}}
- --max-connection-age=600
{{- end }}
{{- if include "burnish.tls" $root }}
- --tls-cert=/etc/burnish/tls/tls.crt
- --tls-key=/etc/burnish/tls/tls.key
{{- if $root.Values.tls.requireClientCertificates }}
- --tls-client-ca=/etc/burnish/tls/ca.crt
{{- end }}
{{- end }}
{{- with $root.Values.tokens }}
{{- if .secretName }}
- {{ printf "--tokens=/etc/burnish/tokens/%s" .key | quote }}
{{- if .guardHealth }}
- --guard-health
{{- end }}
{{- end }}
{{- end }}
{{- if $root.Values.insecure }}
- --insecure
{{- end }}
{{- $reads := list }}
{{- if $root.Values.storage.models.enabled }}{{ $reads = append $reads $root.Values.storage.models.path }}{{ end }}
{{- if $root.Values.storage.runs.enabled }}{{ $reads = append $reads $root.Values.storage.runs.path }}{{ end }}
{{- $reads = concat $reads $root.Values.storage.readRoots $root.Values.storage.objects.roots }}
{{- $writes := list }}
{{- if $root.Values.storage.runs.enabled }}{{ $writes = append $writes $root.Values.storage.runs.path }}{{ end }}
{{- $writes = concat $writes $root.Values.storage.writeRoots $root.Values.storage.objects.writeRoots }}
{{- if eq .component "training" }}
{{- with $writes }}
- {{ printf "--write-roots=%s" (join "," .) | quote }}
{{- end }}
{{- else }}
{{- $reads = concat $reads $writes | uniq }}
{{- end }}
{{- with $reads }}
- {{ printf "--read-roots=%s" (join "," .) | quote }}
{{- end }}
{{- $sized := and (ne $role.state.kind "runs") (not $role.state.existingClaim) }}
{{- if and $sized (not (hasKey $role.options "model-cache-bytes")) }}
{{- /* A pod whose state outgrows its volume is evicted. Embedding and training keep more than models there. */}}
{{- $share := ternary 0.5 0.8 (has .component (list "embedding" "training")) }}
- --model-cache-bytes={{ mulf (include "burnish.bytes" $role.state.size | float64) $share | int64 }}
{{- end }}
{{- include "burnish.options" (dict "options" $role.options "negatable" true) }}
{{- with $role.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Settings of the service as variables, also those that a follower of training needs. */}}
{{- define "burnish.server.settings" -}}
{{- $component := .component -}}
{{- if eq $component "training" }}
- name: BURNISH_TRAINING_STOP_SECONDS
  value: {{ include "burnish.stopSeconds" . | quote }}
{{- end }}
{{- range $name, $value := omit .role.settings "stop_seconds" }}
{{- if not (kindIs "invalid" $value) }}
- name: BURNISH_{{ upper $component }}_{{ upper $name }}
  value: {{ include "burnish.scalar" $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Seconds that a worker of training has for its last step and checkpoint: of closeSeconds, all but what is closed
     after it takes. */}}
{{- define "burnish.stopSeconds" -}}
{{- $given := get .role.settings "stop_seconds" -}}
{{- if or (kindIs "invalid" $given) (eq (toString $given) "") -}}
{{ max 0 (sub (int .role.closeSeconds) 25) }}
{{- else -}}
{{ include "burnish.scalar" $given }}
{{- end -}}
{{- end -}}

{{/* closeSeconds, or more where a worker is given longer. */}}
{{- define "burnish.closeSeconds" -}}
{{- if eq .component "training" -}}
{{ max (int .role.closeSeconds) (include "burnish.stopSeconds" . | float64 | ceil | int | add 25) }}
{{- else -}}
{{ .role.closeSeconds }}
{{- end -}}
{{- end -}}

{{/* Where programs may write, the root file system being read-only. */}}
{{- define "burnish.caches" -}}
- name: HOME
  value: /cache
- name: XDG_CACHE_HOME
  value: /cache
- name: VLLM_CACHE_ROOT
  value: /cache/vllm
- name: TRITON_CACHE_DIR
  value: /cache/triton
- name: TORCHINDUCTOR_CACHE_DIR
  value: /cache/inductor
- name: NUMBA_CACHE_DIR
  value: /cache/numba
{{- end -}}

{{- define "burnish.server.env" -}}
{{ include "burnish.caches" . }}
{{- include "burnish.server.settings" . }}
{{- if and (eq .component "embedding") .root.Values.embedding.storeUri }}
- name: BURNISH_EMBEDDING_STORE_URI
  value: {{ .root.Values.embedding.storeUri | quote }}
{{- end }}
{{- include "burnish.objectsEnv" .root }}
{{- with .env }}
{{ . }}
{{- end }}
{{- with .role.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "burnish.server.envFrom" -}}
{{- with .root.Values.storage.objects.credentialsSecret }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- with .role.extraEnvFrom }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "burnish.server.resources" -}}
{{- $resources := deepCopy .role.resources -}}
{{- if .role.gpus -}}
{{- $gpus := dict .role.gpuResource .role.gpus -}}
{{- include "burnish.lay" (dict "into" $resources "from" (dict "requests" (deepCopy $gpus))) -}}
{{- include "burnish.lay" (dict "into" $resources "from" (dict "limits" (deepCopy $gpus))) -}}
{{- end -}}
{{- $requests := get $resources "requests" | default dict -}}
{{- $limits := get $resources "limits" | default dict -}}
{{- if not (or (hasKey $requests "ephemeral-storage") (hasKey $limits "ephemeral-storage")) -}}
{{- $disk := dict "requests" (dict "ephemeral-storage" (include "burnish.server.disk" .)) -}}
{{- include "burnish.lay" (dict "into" $resources "from" $disk) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end -}}

{{/* Bytes that a pod's volumes may take of its node's own disk. Else the scheduler would put it where there are none, and
     the kubelet end it for them. */}}
{{- define "burnish.server.disk" -}}
{{- $sizes := list .role.cacheSize .role.tmpSize -}}
{{- if eq .role.state.kind "emptyDir" }}{{ $sizes = append $sizes .role.state.size }}{{ end -}}
{{- $sum := 0 -}}
{{- range $sizes }}{{ $sum = add $sum (include "burnish.bytes" . | int64) }}{{ end -}}
{{ $sum }}
{{- end -}}

{{- define "burnish.server.mounts" -}}
{{- if ne .role.state.kind "runs" }}
- name: state
  mountPath: /state
{{- end }}
- name: cache
  mountPath: /cache
- name: tmp
  mountPath: /tmp
{{- if .role.shmSize }}
- name: shm
  mountPath: /dev/shm
{{- end }}
{{- include "burnish.sharedMounts" . }}
{{- if include "burnish.tls" .root }}
- name: tls
  mountPath: /etc/burnish/tls
  readOnly: true
{{- end }}
{{- if .root.Values.tokens.secretName }}
- name: tokens
  mountPath: /etc/burnish/tokens
  readOnly: true
{{- end }}
{{- with .role.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "burnish.server.volumes" -}}
{{- $state := .role.state -}}
{{- if ne $state.kind "runs" }}
- name: state
  {{- if eq $state.kind "claim" }}
  persistentVolumeClaim:
    claimName: {{ $state.existingClaim | default (printf "%s-%s" (include "burnish.fullname" .root) .component) }}
  {{- else if eq $state.kind "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      metadata:
        labels:
          {{- include "burnish.selector" . | nindent 10 }}
      spec:
        {{- include "burnish.claimSpec" $state | nindent 8 }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ $state.size }}
  {{- end }}
{{- end }}
- name: cache
  emptyDir:
    sizeLimit: {{ .role.cacheSize }}
- name: tmp
  emptyDir:
    sizeLimit: {{ .role.tmpSize }}
{{- with .role.shmSize }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ . }}
{{- end }}
{{- include "burnish.sharedVolumes" .root }}
{{- if include "burnish.tls" .root }}
- name: tls
  secret:
    secretName: {{ include "burnish.tlsSecret" .root }}
    defaultMode: 0440
{{- end }}
{{- with .root.Values.tokens.secretName }}
- name: tokens
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .role.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "burnish.server.container" -}}
{{- $service := printf "burnish.api.%s.v1.%sService" .component (title .component) -}}
- name: {{ .component }}
  image: {{ include "burnish.image" (dict "root" .root "image" .role.image "name" .component) }}
  imagePullPolicy: {{ include "burnish.pullPolicy" (dict "root" .root "image" .role.image) }}
  command: {{ .command | default (list "python" "-m" "burnish_services") | toJson }}
  args:
    {{- include "burnish.server.args" . | nindent 4 }}
  env:
    {{- include "burnish.server.env" . | nindent 4 }}
  {{- with include "burnish.server.envFrom" . | trim }}
  envFrom:
    {{- . | nindent 4 }}
  {{- end }}
  ports:
    - name: grpc
      containerPort: {{ .root.Values.ports.grpc }}
    - name: health
      containerPort: {{ .root.Values.ports.health }}
    - name: metrics
      containerPort: {{ .root.Values.ports.metrics }}
  # Until the model is loaded; only then do the others begin.
  startupProbe:
    grpc: {port: {{ .root.Values.ports.health }}, service: {{ $service }}}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: {{ divf .role.startSeconds 10 | ceil | int }}
  readinessProbe:
    grpc: {port: {{ .root.Values.ports.health }}, service: {{ $service }}}
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 2
  # Whether the process answers at all: a server that swaps models or drains is not to be killed. One whose engine is
  # lost ends by itself.
  livenessProbe:
    grpc: {port: {{ .root.Values.ports.health }}, service: liveness}
    periodSeconds: 20
    timeoutSeconds: 10
    failureThreshold: 6
  lifecycle:
    preStop:
      sleep:
        seconds: {{ .role.drainSeconds }}
  resources:
    {{- include "burnish.server.resources" . | nindent 4 }}
  securityContext:
    {{- include "burnish.containerSecurity" . | nindent 4 }}
  volumeMounts:
    {{- include "burnish.server.mounts" . | nindent 4 }}
{{- end -}}

{{/* The metadata and spec of its pods; `env`, `command` and `restartPolicy` may be given as well. */}}
{{- define "burnish.server.pod" -}}
metadata:
  labels:
    {{- include "burnish.labels" . | nindent 4 }}
    {{- with .role.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .role.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "burnish.podBasics" (dict "root" .root "pod" .role) | nindent 2 }}
  {{- include "burnish.server.placing" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ add .role.drainSeconds (ceil .role.grace | int) (include "burnish.closeSeconds" . | int) }}
  {{- with .role.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .restartPolicy }}
  restartPolicy: {{ . }}
  {{- end }}
  containers:
    {{- include "burnish.server.container" . | nindent 4 }}
  volumes:
    {{- include "burnish.server.volumes" . | nindent 4 }}
{{- end -}}

{{- define "burnish.server.placing" -}}
{{- with .role.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .role.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with .role.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $constraint := deepCopy . }}
  {{- if not .labelSelector }}
  {{- $_ := set $constraint "labelSelector" (dict "matchLabels" (include "burnish.selector" $ | fromYaml)) }}
  {{- end }}
  - {{- toYaml $constraint | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}
