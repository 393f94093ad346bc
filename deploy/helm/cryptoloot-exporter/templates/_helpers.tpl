{{/* The name within all names. */}}
{{- define "cryptoloot-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimAll "-." -}}
{{- end -}}

{{/* The name of what is installed. Shorter than names may be: a StatefulSet's pods and revisions append theirs. */}}
{{- define "cryptoloot-exporter.fullname" -}}
{{- $name := include "cryptoloot-exporter.name" . -}}
{{- $both := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- $whole := default $both .Values.fullnameOverride | trunc 50 | trimAll "-." -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $whole) -}}
{{- fail (printf "the name %s cannot be a Service's: it needs a letter first, then letters, digits and dashes, and no dot: set fullnameOverride" $whole) -}}
{{- end -}}
{{- $whole -}}
{{- end -}}

{{- define "cryptoloot-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "cryptoloot-exporter.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* What every object has besides its name. */}}
{{- define "cryptoloot-exporter.metadata" -}}
{{- include "cryptoloot-exporter.labelled" (list . "" dict) -}}
{{- end -}}

{{/* The same with more labels: a list of the root, the value's place, and the value. */}}
{{- define "cryptoloot-exporter.labelled" -}}
{{- $root := first . -}}
namespace: {{ $root.Release.Namespace | quote }}
labels:
  {{- include "cryptoloot-exporter.merged" (concat (list (include "cryptoloot-exporter.labels" $root)) (rest .)) | nindent 2 }}
{{- end -}}

{{- define "cryptoloot-exporter.labels" -}}
{{ include "cryptoloot-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimAll "-." | quote }}
{{- end -}}

{{/* Keys of the chart's own with those of a value, which must be others: a list of YAML, the value's place, and the value. */}}
{{- define "cryptoloot-exporter.merged" -}}
{{- $own := first . | fromYaml -}}
{{- $place := index . 1 -}}
{{- $more := last . | default dict -}}
{{- range $key, $_ := $more -}}
{{- if hasKey $own $key }}{{ fail (printf "%s: the chart sets %s itself: leave it out" $place $key) }}{{ end -}}
{{- end -}}
{{- toYaml (merge (dict) $own $more) -}}
{{- end -}}

{{/*
The Service. A headless one has a name of its own: `clusterIP` cannot be changed, so going from one pod to shards has to
make a new Service.
*/}}
{{- define "cryptoloot-exporter.service" -}}
{{- include "cryptoloot-exporter.fullname" . }}{{ if gt (int .Values.shards) 1 }}-headless{{ end }}
{{- end -}}

{{- define "cryptoloot-exporter.image" -}}
{{- .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* Where config, secrets and web config are mounted, and the health socket. */}}
{{- define "cryptoloot-exporter.directory" -}}/etc/cryptoloot-exporter{{- end -}}
{{- define "cryptoloot-exporter.socket" -}}--web.health-socket=/tmp/cryptoloot-exporter.sock{{- end -}}

{{/* Where a {name, key} of a Secret is mounted. */}}
{{- define "cryptoloot-exporter.secretFile" -}}
{{- include "cryptoloot-exporter.directory" . }}/secrets/{{ .name }}/{{ .key }}
{{- end -}}

{{/* The keys that the config refers to, by Secret: only these are mounted. */}}
{{- define "cryptoloot-exporter.secretKeys" -}}
{{- $found := dict -}}
{{- with (.Values.config.users | default dict).keyRef }}{{ $_ := set $found .name (dict .key true) }}{{ end -}}
{{- range .Values.config.sites -}}
{{- with .secretRef -}}
{{- if not (hasKey $found .name) }}{{ $_ := set $found .name dict }}{{ end -}}
{{- $_ := set (get $found .name) .key true -}}
{{- end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{/* config.yaml, with files in place of references. What the exporter would refuse at its start is refused here. */}}
{{- define "cryptoloot-exporter.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not $config.sites }}
{{- fail "config.sites: name at least one site, such as {name: my-site, secretRef: {name: SECRET, key: KEY}}" }}
{{- end -}}
{{- $names := dict -}}
{{- range $index, $site := $config.sites }}
{{- $place := printf "config.sites[%d] (%s)" $index $site.name -}}
{{- if hasKey $names $site.name }}{{ fail (printf "%s: the name is taken: every site needs its own" $place) }}{{ end -}}
{{- $_ := set $names $site.name true -}}
{{- if ne 1 (len (pick $site "secretRef" "secret_env" "secret_file")) }}
{{- fail (printf "%s: give exactly one of secretRef, secret_env, secret_file" $place) }}
{{- end -}}
{{- with $site.secretRef }}{{ $_ := set $site "secret_file" (include "cryptoloot-exporter.secretFile" .) }}{{ end -}}
{{- $_ := unset $site "secretRef" -}}
{{- end -}}
{{- with $config.users }}
{{- $keys := len (pick . "keyRef" "names_key_env" "names_key_file") -}}
{{- if ne $keys (eq (toString .names) "hmac" | ternary 1 0) }}
{{- fail "config.users: names: hmac needs exactly one of keyRef, names_key_env, names_key_file; other names need none" }}
{{- end -}}
{{- $users := . -}}
{{- with .keyRef }}{{ $_ := set $users "names_key_file" (include "cryptoloot-exporter.secretFile" .) }}{{ end -}}
{{- $_ := unset $users "keyRef" -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Whether the sites are on /metrics. */}}
{{- define "cryptoloot-exporter.sitesOnMetrics" -}}
{{- dig "web" "sites_on_metrics" true .Values.config -}}
{{- end -}}

{{/* What Prometheus needs to get in, for a target or for /sd. */}}
{{- define "cryptoloot-exporter.client" -}}
{{- if .Values.webConfig.tls }}
tlsConfig:
  {{- $name := printf "%s.%s.svc" (include "cryptoloot-exporter.service" .) .Release.Namespace }}
  {{- toYaml (merge (deepCopy .Values.monitoring.tlsConfig) (dict "serverName" $name)) | nindent 2 }}
{{- end }}
{{- with .Values.monitoring.basicAuth }}
basicAuth:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The pod, for the Deployment and the StatefulSet. */}}
{{- define "cryptoloot-exporter.pod" -}}
{{- $directory := include "cryptoloot-exporter.directory" . -}}
{{- $secrets := include "cryptoloot-exporter.secretKeys" . | fromYaml -}}
{{- $web := .Values.webConfig -}}
{{- if and (or $web.tls $web.certificatesSecretName) (not $web.secretName) }}
{{- fail "webConfig: tls and certificatesSecretName are parts of a web config file: name its Secret in secretName" }}
{{- end -}}
{{- $volumes := list "config" "secrets" "web" "tmp" -}}
{{- range .Values.extraVolumes -}}
{{- if has .name $volumes }}{{ fail (printf "extraVolumes: %s is a volume of the chart's own: choose another name" .name) }}{{ end -}}
{{- end -}}
{{- $selector := include "cryptoloot-exporter.selectorLabels" . -}}
metadata:
  labels:
    {{- include "cryptoloot-exporter.merged" (list $selector "podLabels" .Values.podLabels) | nindent 4 }}
  annotations:
    # A changed config restarts the pods; values.yaml says why that and not a reload.
    {{- $checksum := printf "checksum/config: %s" (include "cryptoloot-exporter.config" . | sha256sum | quote) }}
    {{- include "cryptoloot-exporter.merged" (list $checksum "podAnnotations" .Values.podAnnotations) | nindent 4 }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  # It stops within two seconds, whatever is in flight.
  terminationGracePeriodSeconds: 10
  {{- with .Values.serviceAccountName }}
  serviceAccountName: {{ . | quote }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "affinity" }}
  {{- with get $.Values $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    {{- /* Without a selector a constraint counts no pods, so it spreads none. */}}
    {{- $own := kindIs "invalid" .labelSelector | ternary (dict "labelSelector" (dict "matchLabels" (fromYaml $selector))) dict }}
    - {{- toYaml (merge (dict) $own .) | nindent 6 }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
    - name: exporter
      image: {{ include "cryptoloot-exporter.image" . | quote }}
      {{- with .Values.image.pullPolicy }}
      imagePullPolicy: {{ . }}
      {{- end }}
      args:
        - run
        - --config.file={{ $directory }}/config/config.yaml
        - {{ include "cryptoloot-exporter.socket" . }}
        - --log.level={{ .Values.logLevel }}
        {{- if $web.secretName }}
        - --web.config.file={{ $directory }}/web/{{ $web.key }}
        {{- end }}
        {{- with .Values.externalUrl }}
        - {{ printf "--web.external-url=%s" . | quote }}
        {{- end }}
        {{- if gt (int .Values.shards) 1 }}
        - --shard=auto
        - --total-shards={{ .Values.shards }}
        {{- end }}
        {{- range .Values.extraArgs }}
        - {{ quote . }}
        {{- end }}
      {{- with .Values.env }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: metrics
          containerPort: 12758
      {{- if $web.secretName }}
      # The kubelet has neither password nor client certificate: the health socket asks for none.
      livenessProbe:
        exec:
          command: [cryptoloot-exporter, health, {{ include "cryptoloot-exporter.socket" . }}]
        periodSeconds: 30
        timeoutSeconds: 5
      readinessProbe:
        exec:
          command: [cryptoloot-exporter, health, {{ include "cryptoloot-exporter.socket" . }}]
        timeoutSeconds: 5
      {{- else }}
      livenessProbe:
        httpGet:
          path: /-/healthy
          port: metrics
        timeoutSeconds: 5
      readinessProbe:
        httpGet:
          path: /-/ready
          port: metrics
        timeoutSeconds: 5
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: {{ $directory }}/config
          readOnly: true
        {{- if $secrets }}
        - name: secrets
          mountPath: {{ $directory }}/secrets
          readOnly: true
        {{- end }}
        {{- if $web.secretName }}
        - name: web
          mountPath: {{ $directory }}/web
          readOnly: true
        {{- end }}
        - name: tmp
          mountPath: /tmp
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "cryptoloot-exporter.fullname" . | quote }}
    {{- if $secrets }}
    # Whole directories, not subPath: the kubelet then writes changed Secrets into running pods.
    - name: secrets
      projected:
        defaultMode: 0440
        sources:
          {{- range $name, $keys := $secrets }}
          - secret:
              name: {{ $name | quote }}
              items:
                {{- range $key, $_ := $keys }}
                - key: {{ quote $key }}
                  path: {{ printf "%s/%s" $name $key | quote }}
                {{- end }}
          {{- end }}
    {{- end }}
    {{- if $web.secretName }}
    - name: web
      projected:
        defaultMode: 0440
        sources:
          - secret:
              name: {{ $web.secretName | quote }}
          {{- with $web.certificatesSecretName }}
          - secret:
              name: {{ . | quote }}
          {{- end }}
    {{- end }}
    # The health socket's place, where nothing else can be written.
    - name: tmp
      emptyDir:
        sizeLimit: 1Mi
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
