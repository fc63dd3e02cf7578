{{/* The release's name, refused where KubeRay would only refuse it in its log. */}}
{{- define "pgrpo-ray.name" -}}
{{- $name := default .Release.Name .Values.fullnameOverride -}}
{{- $longest := ternary 47 53 (eq .Values.workload "RayJob") -}}
{{- if or (gt (len $name) $longest) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- fail (printf "%q cannot name a %s: take at most %d lower-case letters, digits and dashes, a letter first (another release name, or fullnameOverride)" $name .Values.workload $longest) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{- define "pgrpo-ray.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pgrpo-ray.labels" -}}
{{ include "pgrpo-ray.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* repository:tag or repository@digest, of {image, tag}. */}}
{{- define "pgrpo-ray.reference" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}{{ else }}{{ .image.repository }}:{{ .image.tag | default .tag }}{{ end }}
{{- end }}

{{- define "pgrpo-ray.image" -}}
{{ include "pgrpo-ray.reference" (dict "image" .Values.image "tag" .Chart.AppVersion) }}
{{- end }}

{{- define "pgrpo-ray.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "pgrpo-ray.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "pgrpo-ray.sandboxServiceAccount" -}}
{{ .Values.serviceAccount.sandboxName | default (ternary (printf "%s-sandbox" (include "pgrpo-ray.name" .)) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "pgrpo-ray.claim" -}}
{{ (get .root.Values.storage .which).existingClaim | default (printf "%s-%s" (include "pgrpo-ray.name" .root) .which) }}
{{- end }}

{{- define "pgrpo-ray.configMap" -}}
{{ .Values.existingConfigMap | default (printf "%s-config" (include "pgrpo-ray.name" .)) }}
{{- end }}

{{/* The run's config: what the chart knows, under the file, under the values. A file that says `local` means elsewhere. */}}
{{- define "pgrpo-ray.config" -}}
{{- $pinned := list -}}
{{- range $role := list "rollout" "learner" "reward" -}}
{{- if (get $.Values.groups $role).enabled }}{{ $pinned = append $pinned $role }}{{ end -}}
{{- end -}}
{{- $run := dict "name" (include "pgrpo-ray.name" .) "dir" .Values.storage.runs.mountPath -}}
{{- $file := .Values.configFile | fromYaml -}}
{{- with $file.Error }}{{ fail (printf "configFile is no YAML: %s" .) }}{{ end -}}
{{- $config := mergeOverwrite (dict "run" $run "cluster" (dict "pinned" $pinned)) $file (deepCopy .Values.config) -}}
{{- $_ := set $config.cluster "address" "auto" -}}
{{- if not (hasPrefix .Values.storage.runs.mountPath $config.run.dir) -}}
{{- fail (printf "run.dir is %q, where no volume is mounted: set config.run.dir to a folder below storage.runs.mountPath, which is %q" $config.run.dir .Values.storage.runs.mountPath) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end }}

{{/* Whether any group grows and shrinks; empty when none does. */}}
{{- define "pgrpo-ray.autoscales" -}}
{{- range $role := list "rollout" "sandbox" -}}
{{- $group := get $.Values.groups $role -}}
{{- if and (dig "enabled" true $group) $group.autoscaling.enabled }}true{{ end -}}
{{- end -}}
{{- end }}

{{/* KubeRay pastes it into a shell line, so it stays plain words: all else stands in the config. */}}
{{- define "pgrpo-ray.entrypoint" -}}
pgrpo train /etc/pgrpo/config.yaml --resume-if-any
{{- end }}
