{{/* What values come to. Helpers return text, so those that make a dict write into the one that they are given. */}}

{{/* Lays `from` over `into`, key by key, also where a value is false, 0 or empty. */}}
{{- define "burnish.lay" -}}
{{- $into := .into -}}
{{- range $key, $value := .from -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $into $key)) -}}
{{- include "burnish.lay" (dict "into" (get $into $key) "from" $value) -}}
{{- else -}}
{{- $_ := set $into $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Writes the settings of one service into `into`: of dict root, component, into. */}}
{{- define "burnish.role" -}}
{{- include "burnish.lay" (dict "into" .into "from" (deepCopy .root.Values.server)) -}}
{{- include "burnish.lay" (dict "into" .into "from" (deepCopy (index .root.Values .component))) -}}
{{- if not .into.state.size -}}
{{- /* Claims that were made with it cannot get smaller. */}}
{{- $small := and (eq .into.state.kind "emptyDir") (not (include "burnish.fetchesModels" (dict "root" .root "role" .into))) -}}
{{- $_ := set .into.state "size" (ternary "20Gi" "100Gi" $small) -}}
{{- end -}}
{{- end -}}

{{/* Not empty where models come from object storage, to be kept in the state: of dict root, role. */}}
{{- define "burnish.fetchesModels" -}}
{{- $objects := .root.Values.storage.objects -}}
{{- range concat $objects.roots $objects.writeRoots (list (.role.model | default .root.Values.model)) -}}
{{- if contains "://" . }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* Seconds of a duration such as 720h or 1h30m. */}}
{{- define "burnish.seconds" -}}
{{- $units := dict "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9]+(ms|h|m|s)" . -1 -}}
{{- $sum = addf $sum (mulf (regexFind "^[0-9]+" . | float64) (get $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- int64 $sum -}}
{{- end -}}

{{/* A number or a word as an option's value; Helm reads numbers as floats, and printf would write 1.048576e+06. */}}
{{- define "burnish.scalar" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* Options of a command as items of a list: `key: value` is --key=value, true is --key, a list is --key several times.
     Of dict options, and negatable where false is --no-key. */}}
{{- define "burnish.options" -}}
{{- $negatable := .negatable -}}
{{- range $key, $value := .options }}
{{- if kindIs "bool" $value }}
{{- if $value }}
- --{{ $key }}
{{- else if $negatable }}
- --no-{{ $key }}
{{- end }}
{{- else if kindIs "slice" $value }}
{{- range $value }}
- {{ printf "--%s=%s" $key (include "burnish.scalar" .) | quote }}
{{- end }}
{{- else if not (kindIs "invalid" $value) }}
- {{ printf "--%s=%s" $key (include "burnish.scalar" $value) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of dict root, image (over the chart's), name: the target of deploy/docker/Dockerfile. The one of the command, sdk,
     needs no device. */}}
{{- define "burnish.image" -}}
{{- $image := deepCopy .root.Values.image -}}
{{- include "burnish.lay" (dict "into" $image "from" .image) -}}
{{- $name := printf "%s/%s" (trimSuffix "/" $image.repository) .name -}}
{{- if $image.registry }}{{ $name = printf "%s/%s" (trimSuffix "/" $image.registry) $name }}{{ end -}}
{{- $tag := $image.tag | default .root.Chart.AppVersion -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else if eq .name "sdk" -}}
{{ $name }}:{{ $tag }}
{{- else -}}
{{ $name }}:{{ $tag }}-{{ $image.device }}
{{- end -}}
{{- end -}}

{{- define "burnish.pullPolicy" -}}
{{- .image.pullPolicy | default .root.Values.image.pullPolicy -}}
{{- end -}}

{{/* Not empty where servers have something in object storage. */}}
{{- define "burnish.usesObjects" -}}
{{- $values := .Values -}}
{{- $places := concat $values.storage.objects.roots $values.storage.objects.writeRoots -}}
{{- $places = append $places $values.embedding.storeUri -}}
{{- range $from := list $values $values.server $values.scoring $values.embedding $values.rewriting -}}
{{- $places = append $places (get $from "model" | default "") -}}
{{- end -}}
{{- range $places -}}{{- if contains "://" . }}yes{{ end -}}{{- end -}}
{{- end -}}

{{/* Not empty where the coordinator itself reads in object storage: its data. Models it only names. */}}
{{- define "burnish.coordinator.usesObjects" -}}
{{- $coordinator := .Values.coordinator -}}
{{- $places := concat $coordinator.data (list (get $coordinator.options "holdout") (get $coordinator.options "validation") (get $coordinator.options "trusted")) -}}
{{- if contains "://" (toString $places) }}yes{{ end -}}
{{- end -}}

{{/* Bytes of a quantity such as 100Gi. */}}
{{- define "burnish.bytes" -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units $unit | default 1 | float64) | int64 -}}
{{- end -}}

{{/* Variables of the object store: of the root. */}}
{{- define "burnish.objectsEnv" -}}
{{- with .Values.storage.objects.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.storage.objects.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- if .Values.storage.objects.allowHttp }}
- name: AWS_ALLOW_HTTP
  value: "true"
{{- end }}
{{- end -}}
