{{/* Values that do not go together. What one value may be is values.schema.json's. */}}

{{- define "burnish.check" -}}
{{- $values := .Values -}}
{{- if $values.image.digest -}}
{{- fail "image.digest would be that of every image; give each service its own: scoring.image.digest and so on" -}}
{{- end -}}
{{- $tls := include "burnish.tls" . -}}
{{- if and $values.insecure (or $tls $values.tokens.secretName) -}}
{{- fail "insecure: true lifts encryption and login, and tls or tokens ask for them; leave one of both out" -}}
{{- end -}}
{{- if not $values.insecure -}}
{{- if not $tls -}}
{{- fail "servers need a certificate: name tls.secretName, or set tls.certManager.enabled; on a network that only trusted pods reach, insecure: true" -}}
{{- end -}}
{{- if not (or $values.tokens.secretName $values.tls.requireClientCertificates) -}}
{{- fail "servers need a way to tell who calls: name tokens.secretName, or set tls.requireClientCertificates; on a network that only trusted pods reach, insecure: true" -}}
{{- end -}}
{{- end -}}
{{- if and $values.tls.certManager.enabled (not $values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerRef.name: the Issuer or ClusterIssuer to ask" -}}
{{- end -}}
{{- if and $values.tls.requireClientCertificates (not $tls) -}}
{{- fail "tls.requireClientCertificates needs a certificate of the servers: tls.secretName or tls.certManager.enabled" -}}
{{- end -}}
{{- if and $values.tokens.guardHealth (not $values.tokens.secretName) -}}
{{- fail "tokens.guardHealth needs tokens.secretName" -}}
{{- end -}}
{{- $ports := values $values.ports | uniq -}}
{{- if ne (len $ports) 3 -}}
{{- fail "ports.grpc, ports.health and ports.metrics must differ" -}}
{{- end -}}
{{- range $component := list "scoring" "embedding" "rewriting" "training" -}}
{{- $role := dict -}}
{{- include "burnish.role" (dict "root" $ "component" $component "into" $role) -}}
{{- if $role.enabled -}}
{{- include "burnish.check.role" (dict "root" $ "component" $component "role" $role) -}}
{{- end -}}
{{- end -}}
{{- include "burnish.check.coordinator" . -}}
{{- end -}}

{{- define "burnish.check.role" -}}
{{- $name := .component -}}
{{- $role := .role -}}
{{- $values := .root.Values -}}
{{- $single := has $name (list "embedding" "training") -}}
{{- if and (ne $name "training") (not ($role.model | default $values.model)) -}}
{{- fail (printf "no model: set model (or %s.model), a path such as /models/my-model or s3://BUCKET/PREFIX" $name) -}}
{{- end -}}
{{- $model := $role.model | default $values.model -}}
{{- if and (ne $name "training") (hasPrefix $values.storage.models.path $model) (not $values.storage.models.enabled) (not $role.extraVolumeMounts) -}}
{{- fail (printf "the model of %s is %s, and nothing is mounted there: set storage.models.enabled, or mount a volume by server.extraVolumes and server.extraVolumeMounts" $name $model) -}}
{{- end -}}
{{- if and $single (ne (int $role.replicas) 1) -}}
{{- fail (printf "%s.replicas is %d, and %s has one replica: %s" $name (int $role.replicas) $name (ternary "its vectors have one writer (docs/coverage.md), and there are no replicas that only read" "its queue of runs is one process's; training.nodes has several machines train a run together" (eq $name "embedding"))) -}}
{{- end -}}
{{- if and $single (ne $role.autoscaling.kind "none") -}}
{{- fail (printf "%s.autoscaling.kind is %s, and %s has one replica; scoring and rewriting can be scaled" $name $role.autoscaling.kind $name) -}}
{{- end -}}
{{- if and (not $single) (eq $role.state.kind "claim") -}}
{{- fail (printf "%s.state.kind is claim, and replicas cannot share a state directory: take emptyDir or ephemeral" $name) -}}
{{- end -}}
{{- if and (eq $name "training") (not (has $role.state.kind (list "claim" "runs"))) -}}
{{- fail (printf "training.state.kind is %s: its queue of runs and their checkpoints would go with the pod; take claim or runs" $role.state.kind) -}}
{{- end -}}
{{- if and (ne $name "training") (eq $role.state.kind "runs") -}}
{{- fail (printf "%s.state.kind is runs, which only training may write; take another" $name) -}}
{{- end -}}
{{- if and (eq $role.state.kind "runs") (not $values.storage.runs.enabled) -}}
{{- fail "training.state.kind is runs: set storage.runs.enabled" -}}
{{- end -}}
{{- if and (eq $name "embedding") (ne $role.state.kind "claim") (not (contains "://" $values.embedding.storeUri)) -}}
{{- fail (printf "embedding.state.kind is %s: its vectors would go with the pod; take claim, or keep them in object storage by embedding.storeUri" $role.state.kind) -}}
{{- end -}}
{{- $none := list "0" "0%" -}}
{{- if and (has (toString $role.strategy.maxSurge) $none) (has (toString $role.strategy.maxUnavailable) $none) -}}
{{- fail (printf "%s.strategy: maxSurge and maxUnavailable are both 0, so that no pod could ever be replaced" $name) -}}
{{- end -}}
{{- with $role.autoscaling -}}
{{- if and (ne .kind "none") (lt (int .maxReplicas) (int .minReplicas)) -}}
{{- fail (printf "%s.autoscaling.maxReplicas is %d, less than minReplicas, %d" $name (int .maxReplicas) (int .minReplicas)) -}}
{{- end -}}
{{- if and (eq .kind "hpa") (lt (int .minReplicas) 1) -}}
{{- fail (printf "%s.autoscaling.minReplicas is 0, and an HPA cannot begin from nothing: take at least 1, or kind: keda" $name) -}}
{{- end -}}
{{- if and (eq .kind "keda") (not $values.monitoring.keda.prometheus) -}}
{{- fail (printf "%s.autoscaling.kind is keda: set monitoring.keda.prometheus, the address of the Prometheus that knows the queue" $name) -}}
{{- end -}}
{{- end -}}
{{- $shared := ternary $values.storage.runs $role.state (eq $role.state.kind "runs") -}}
{{- if and (eq $name "training") (gt (int $values.training.nodes) 1) (not $shared.existingClaim) (not (has "ReadWriteMany" $shared.accessModes)) -}}
{{- fail "training.nodes is more than 1, and its nodes share a state directory: set training.state.accessModes: [ReadWriteMany], or training.state.kind: runs" -}}
{{- end -}}
{{- end -}}

{{- define "burnish.check.coordinator" -}}
{{- $coordinator := .Values.coordinator -}}
{{- if $coordinator.enabled -}}
{{- if not $coordinator.data -}}
{{- fail "coordinator.enabled needs coordinator.data: demo, or paths of data in coordinator.extraVolumeMounts or storage.runs" -}}
{{- end -}}
{{- if not ($coordinator.model | default .Values.model) -}}
{{- fail "coordinator.enabled needs a model: coordinator.model or model" -}}
{{- end -}}
{{- if and (eq $coordinator.recipe "bmo") (ne .Values.training.state.kind "runs") -}}
{{- fail "the recipe bmo has rewriting answer with models that training writes on the way: set training.state.kind: runs" -}}
{{- end -}}
{{- if not (or .Values.storage.runs.enabled .Values.storage.objects.writeRoots) -}}
{{- fail "coordinator.enabled needs a place for trained models that all services see: storage.runs.enabled, or storage.objects.writeRoots" -}}
{{- end -}}
{{- if and .Values.tokens.secretName (not $coordinator.tokenSecret) -}}
{{- fail "servers ask for tokens: name coordinator.tokenSecret, the Secret with the coordinator's" -}}
{{- end -}}
{{- range $component := list "scoring" "embedding" "rewriting" "training" -}}
{{- $role := dict -}}
{{- include "burnish.role" (dict "root" $ "component" $component "into" $role) -}}
{{- if and (not $role.enabled) (not (get $coordinator.settings (printf "%s_endpoint" $component))) -}}
{{- fail (printf "%s.enabled is false: tell the coordinator where that service is by coordinator.settings.%s_endpoint" $component $component) -}}
{{- end -}}
{{- if and (not $role.enabled) $.Values.networkPolicy.enabled (not $.Values.networkPolicy.extraEgress) -}}
{{- fail (printf "%s.enabled is false and networkPolicy.enabled is true: the coordinator would not reach that service; say where it is by networkPolicy.extraEgress" $component) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
