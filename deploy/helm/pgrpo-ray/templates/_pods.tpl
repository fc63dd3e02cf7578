{{/* The restricted profile, for every container that does not say otherwise. */}}
{{- define "pgrpo-ray.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch   # else each start walks through every checkpoint
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "pgrpo-ray.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}

{{/* Requests are limits: a role that is throttled or evicted holds up all the others. */}}
{{- define "pgrpo-ray.resources" -}}
{{- $amounts := dict "cpu" (toString .cpu) "memory" .memory -}}
{{- with .gpus }}{{ $amounts = set $amounts $.gpuResource (toString .) }}{{ end -}}
requests: {{ toJson $amounts }}
limits: {{ toJson $amounts }}
{{- end }}

{{/* Ray's ports lie still, so that a NetworkPolicy can name them: GCS 6379, then these, then the workers'. */}}
{{- define "pgrpo-ray.ports" -}}
node-manager-port: "6380"
object-manager-port: "6381"
runtime-env-agent-port: "6382"
dashboard-agent-grpc-port: "6383"
min-worker-port: "10002"
max-worker-port: "19999"
{{- end }}

{{/* Of containers that are trusted: {root, env}; env wins over the values' own. */}}
{{- define "pgrpo-ray.env" -}}
- {name: HF_HOME, value: {{ .root.Values.storage.cache.mountPath }}/huggingface}
- {name: PGRPO_CACHE, value: {{ .root.Values.storage.cache.mountPath }}/pgrpo_ray}
{{- range $name, $secret := .root.Values.secretEnv }}
- {name: {{ $name }}, valueFrom: {secretKeyRef: {name: {{ $secret.name }}, key: {{ $secret.key }}}}}
{{- end }}
{{- include "pgrpo-ray.plainEnv" (merge (deepCopy .env) .root.Values.env) }}
{{- end }}

{{- define "pgrpo-ray.plainEnv" -}}
{{- range $name, $value := . }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* A Ray pod's template: {root, role, group}. Role `sandbox` gets an engine and nothing that is worth stealing. */}}
{{- define "pgrpo-ray.pod" -}}
{{- $values := .root.Values -}}
{{- $group := .group -}}
{{- $role := .role -}}
{{- $head := eq $role "head" -}}
{{- $sandbox := eq $role "sandbox" -}}
{{- $gpus := int ($group.gpus | default 0) -}}
{{- $autoscaler := and $head (include "pgrpo-ray.autoscales" .root) -}}
metadata:
  labels:
    {{- include "pgrpo-ray.selector" .root | nindent 4 }}
    app.kubernetes.io/component: {{ $role }}
  {{- with $group.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ if $sandbox }}{{ include "pgrpo-ray.sandboxServiceAccount" .root }}{{ else }}{{ include "pgrpo-ray.serviceAccount" .root }}{{ end }}
  {{- if $autoscaler }}
  automountServiceAccountToken: true   # of KubeRay's autoscaler, which runs in this pod; KubeRay gives the account its role
  {{- else }}
  automountServiceAccountToken: false
  {{- end }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int $values.terminationGracePeriodSeconds }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $group.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- $engine := dict }}{{ if $sandbox }}{{ $engine = $group.engine }}{{ end }}
  {{- with $group.runtimeClassName | default $engine.runtimeClassName | default (get (dict "sysbox" "sysbox-runc" "gvisor" "gvisor") ($engine.mode | default "")) }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- if kindIs "bool" $engine.hostUsers }}
  hostUsers: {{ $engine.hostUsers }}
  {{- end }}
  {{- $nodes := deepCopy $group.nodeSelector }}
  {{- $tolerations := $group.tolerations }}
  {{- if and $sandbox $group.dedicatedNodes }}
  {{- $nodes = set $nodes "pgrpo.io/sandbox" "true" }}
  {{- $tolerations = append $tolerations (dict "key" "pgrpo.io/sandbox" "operator" "Equal" "value" "true" "effect" "NoSchedule") }}
  {{- end }}
  {{- if $gpus }}
  {{- $tolerations = append $tolerations (dict "key" $values.gpuResource "operator" "Exists" "effect" "NoSchedule") }}
  {{- end }}
  {{- with $nodes }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $group.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $group.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "pgrpo-ray.podSecurity" .root | nindent 4 }}
    {{- if and $sandbox (eq $engine.mode "hostSocket") }}
    supplementalGroups: [{{ int $engine.hostSocket.group }}]
    {{- end }}
  {{- if $sandbox }}
  initContainers:
    {{- include "pgrpo-ray.engineContainers" .root | nindent 4 }}
  {{- end }}
  containers:
    - name: ray-{{ ternary "head" "worker" $head }}
      image: {{ include "pgrpo-ray.image" .root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      securityContext:
        {{- include "pgrpo-ray.containerSecurity" .root | nindent 8 }}
      resources:
        {{- include "pgrpo-ray.resources" (dict "cpu" $group.cpu "memory" $group.memory "gpus" $gpus "gpuResource" $values.gpuResource) | nindent 8 }}
      env:
        {{- if $sandbox }}
        - {name: DOCKER_HOST, value: "unix:///run/pgrpo/docker.sock"}
        {{- with $group.env }}{{ include "pgrpo-ray.plainEnv" . | trim | nindent 8 }}{{ end }}
        {{- else }}
        {{- include "pgrpo-ray.env" (dict "root" .root "env" $group.env) | nindent 8 }}
        {{- end }}
      ports:
        {{- if $head }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        {{- end }}
        - {name: metrics, containerPort: 8080}
      volumeMounts:
        - {name: ray-logs, mountPath: /tmp/ray}
        - {name: shm, mountPath: /dev/shm}
        {{- if $head }}
        - {name: config, mountPath: /etc/pgrpo, readOnly: true}
        {{- end }}
        {{- if $sandbox }}
        {{- include "pgrpo-ray.engineMount" .root | nindent 8 }}
        {{- else }}
        - {name: runs, mountPath: {{ $values.storage.runs.mountPath }}}
        - {name: cache, mountPath: {{ $values.storage.cache.mountPath }}}
        {{- end }}
  volumes:
    # KubeRay's own name for it, by which its autoscaler finds the head's.
    - {name: ray-logs, emptyDir: {sizeLimit: {{ $group.scratch }}}}
    - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ $group.shm }}}}
    {{- if $head }}
    - {name: config, configMap: {name: {{ include "pgrpo-ray.configMap" .root }}}}
    {{- end }}
    {{- if $sandbox }}
    {{- include "pgrpo-ray.engineVolumes" .root | nindent 4 }}
    {{- else }}
    - {name: runs, persistentVolumeClaim: {claimName: {{ include "pgrpo-ray.claim" (dict "root" .root "which" "runs") }}}}
    - {name: cache, persistentVolumeClaim: {claimName: {{ include "pgrpo-ray.claim" (dict "root" .root "which" "cache") }}}}
    {{- end }}
{{- end }}
