{{/*
The Docker engine of a sandbox pod, as init containers before Ray's:

1. `image` copies the archive of the runner image, baked into the project's image, to a shared volume. A fresh engine has
   an empty store, and these pods reach no registry.
2. `engine` is dockerd, a native sidecar: what follows waits for its startup probe, it ends after Ray does, and it is the
   only container that may be privileged. It has no bridge and no iptables rules, as programs have no network.
3. `load` loads the archive with the docker client of the engine's image, which the project's image need not have.

With engine.mode hostSocket there is no `engine`, and the node's socket takes the place of its own.
*/}}
{{- define "pgrpo-ray.engineContainers" -}}
{{- $engine := .Values.groups.sandbox.engine -}}
{{- $dockerImage := include "pgrpo-ray.reference" (dict "image" $engine.image) -}}
{{- if and (eq $engine.mode "hostSocket") (ne $engine.hostSocket.acknowledge "programs of the model can become root on my nodes") -}}
{{- fail "groups.sandbox.engine.mode hostSocket gives whoever breaks out of a program's container the node, and containers of killed pods stay behind. Take dind, sysbox or gvisor; or set groups.sandbox.engine.hostSocket.acknowledge to: programs of the model can become root on my nodes" -}}
{{- end -}}
- name: image
  image: {{ include "pgrpo-ray.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [cp, {{ $engine.imageTar }}, /images/sandbox.tar]
  securityContext:
    {{- include "pgrpo-ray.containerSecurity" . | nindent 4 }}
  resources:
    {{- include "pgrpo-ray.resources" (dict "cpu" "500m" "memory" "256Mi") | nindent 4 }}
  volumeMounts:
    - {name: sandbox-image, mountPath: /images}
{{- if ne $engine.mode "hostSocket" }}
- name: engine
  image: {{ $dockerImage }}
  restartPolicy: Always
  # `dind` prepares cgroups for nested containers; the image's entrypoint would open a TCP port beside.
  command: [dind, dockerd, --host=unix:///run/pgrpo/docker.sock, --group=1000, --bridge=none, --iptables=false, --ip6tables=false]
  securityContext:
    runAsUser: 0
    runAsGroup: 0
    runAsNonRoot: false
    {{- if eq $engine.mode "dind" }}
    privileged: true
    {{- else if eq $engine.mode "gvisor" }}
    # Of gVisor's own kernel, not of the node's. What dockerd asks of it.
    capabilities:
      add: [AUDIT_WRITE, CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, MKNOD, NET_ADMIN, NET_BIND_SERVICE, NET_RAW, SETFCAP, SETGID, SETPCAP, SETUID, SYS_ADMIN, SYS_CHROOT, SYS_PTRACE]
    {{- end }}
  startupProbe:
    exec: {command: [docker, --host=unix:///run/pgrpo/docker.sock, info]}
    periodSeconds: 2
    timeoutSeconds: 10
    failureThreshold: 60
  resources:
    {{- include "pgrpo-ray.resources" (dict "cpu" $engine.cpu "memory" $engine.memory) | nindent 4 }}
  volumeMounts:
    - {name: engine-socket, mountPath: /run/pgrpo}
    - {name: engine-store, mountPath: /var/lib/docker}
{{- end }}
- name: load
  image: {{ $dockerImage }}
  command: [docker, --host=unix:///run/pgrpo/docker.sock, load, --input=/images/sandbox.tar]
  securityContext:
    {{- include "pgrpo-ray.containerSecurity" . | nindent 4 }}
  resources:
    {{- include "pgrpo-ray.resources" (dict "cpu" "500m" "memory" "256Mi") | nindent 4 }}
  volumeMounts:
    - {name: sandbox-image, mountPath: /images, readOnly: true}
    {{- include "pgrpo-ray.engineMount" . | nindent 4 }}
{{- end }}

{{- define "pgrpo-ray.engineMount" -}}
- {name: engine-socket, mountPath: {{ ternary "/run/pgrpo/docker.sock" "/run/pgrpo" (eq .Values.groups.sandbox.engine.mode "hostSocket") }}}
{{- end }}

{{- define "pgrpo-ray.engineVolumes" -}}
{{- $engine := .Values.groups.sandbox.engine -}}
- {name: sandbox-image, emptyDir: {sizeLimit: 2Gi}}
{{- if eq $engine.mode "hostSocket" }}
- {name: engine-socket, hostPath: {path: {{ $engine.hostSocket.path }}, type: Socket}}
{{- else }}
- {name: engine-socket, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
- {name: engine-store, emptyDir: {sizeLimit: {{ $engine.storage }}}}
{{- end }}
{{- end }}
