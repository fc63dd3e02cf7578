{{/* The spec of a RayCluster, for either workload. */}}
{{- define "pgrpo-ray.clusterSpec" -}}
rayVersion: {{ .Values.rayVersion | quote }}
{{- if .Values.auth.enabled }}
authOptions:
  mode: token
  {{- with .Values.auth.secretName }}
  secretName: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.gcsFaultTolerance }}
{{- if .enabled }}
gcsFaultToleranceOptions:
  redisAddress: {{ required "gcsFaultTolerance.redisAddress: where is Redis, such as redis:6379?" .redisAddress }}
  {{- with .redisPasswordSecret }}
  {{- if .name }}
  redisPassword: {valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}}
  {{- end }}
  {{- end }}
  {{- with .externalStorageNamespace }}
  externalStorageNamespace: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
{{- if include "pgrpo-ray.autoscales" . }}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ int .Values.autoscaler.idleTimeoutSeconds }}
  securityContext:
    {{- include "pgrpo-ray.containerSecurity" . | nindent 4 }}
  resources:
    {{- include "pgrpo-ray.resources" .Values.autoscaler | nindent 4 }}
{{- end }}
headGroupSpec:
  rayStartParams:
    num-cpus: "0"   # else roles land beside the driver
    {{- include "pgrpo-ray.ports" . | nindent 4 }}
  # Labels by which the ServiceMonitor finds it; a RayJob's cluster has a name that nobody can know.
  headService:
    metadata:
      labels:
        {{- include "pgrpo-ray.labels" . | nindent 8 }}
        app.kubernetes.io/component: head
    spec: {type: ClusterIP}
  template:
    {{- include "pgrpo-ray.pod" (dict "root" . "role" "head" "group" .Values.head) | nindent 4 }}
workerGroupSpecs:
  {{- range $role := list "rollout" "learner" "reward" "sandbox" }}
  {{- $group := get $.Values.groups $role }}
  {{- if dig "enabled" true $group }}
  {{- $size := dict "minReplicas" $group.replicas "maxReplicas" $group.replicas }}
  {{- if dig "autoscaling" "enabled" false $group }}{{ $size = $group.autoscaling }}{{ end }}
  - groupName: {{ $role }}
    replicas: {{ int $size.minReplicas }}
    minReplicas: {{ int $size.minReplicas }}
    maxReplicas: {{ int $size.maxReplicas }}
    # By these the product places its roles. CPU, GPU and memory follow from the container's limits.
    resources: { {{ $role }}: "1" }
    rayStartParams:
      {{- include "pgrpo-ray.ports" $ | nindent 6 }}
    template:
      {{- include "pgrpo-ray.pod" (dict "root" $ "role" $role "group" $group) | nindent 6 }}
  {{- end }}
  {{- end }}
{{- end }}
