{{- define "aircall-oauth.fullname" -}}
{{- if contains "aircall-oauth" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-aircall-oauth" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "aircall-oauth.selector" -}}
app.kubernetes.io/name: aircall-oauth
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "aircall-oauth.labels" -}}
{{ include "aircall-oauth.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "aircall-oauth.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "aircall-oauth.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "aircall-oauth.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The settings of every process, by their full names. */}}
{{- define "aircall-oauth.settings" -}}
AIRCALL_OAUTH_SECRETS_DIR: /run/secrets/aircall-oauth
AIRCALL_OAUTH_LOG_FORMAT: json
AIRCALL_OAUTH_LOG_LEVEL: info
AIRCALL_OAUTH_METRICS_PORT: "9090"
AIRCALL_OAUTH_METRICS_HOST: "*"
{{- if and .Values.console.enabled (not .Values.console.separate) }}
AIRCALL_OAUTH_CONSOLE_PORT: {{ .Values.console.port | quote }}
AIRCALL_OAUTH_CONSOLE_HOST: "*"
{{- end }}
AIRCALL_OAUTH_DRAIN: 8s
{{- if .Values.trustedCertificates.configMap }}
SSL_CERT_FILE: /run/trusted-certificates/{{ .Values.trustedCertificates.key }}
{{- end }}
{{- if .Values.vault.role }}
AIRCALL_OAUTH_VAULT_ROLE: {{ .Values.vault.role | quote }}
AIRCALL_OAUTH_VAULT_JWT_FILE: /run/vault/token
{{- end }}
{{- if .Values.vault.ca.configMap }}
AIRCALL_OAUTH_VAULT_CACERT: /run/vault/ca.pem
{{- end }}
{{- end -}}

{{- define "aircall-oauth.environment" -}}
{{- $settings := include "aircall-oauth.settings" . | fromYaml -}}
{{- range $name, $value := .Values.settings -}}
{{- $_ := set $settings (printf "AIRCALL_OAUTH_%s" $name) (kindIs "string" $value | ternary $value (toJson $value)) -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* The seconds from SIGTERM to SIGKILL: the drain, 20 for requests in flight, and some to end. */}}
{{- define "aircall-oauth.grace" -}}
{{- $drain := (include "aircall-oauth.environment" . | fromYaml).AIRCALL_OAUTH_DRAIN -}}
{{- if not (regexMatch "^[0-9]+[sm]$" $drain) -}}
{{- fail (printf "settings.DRAIN must look like 8s or 2m, and is %q" $drain) -}}
{{- end -}}
{{- add 37 (mul (trimSuffix "m" (trimSuffix "s" $drain) | int) (hasSuffix "m" $drain | ternary 60 1)) -}}
{{- end -}}

{{/* What every pod has: rights, and where secrets come from. */}}
{{- define "aircall-oauth.pod" -}}
automountServiceAccountToken: false
# The variables of service links begin with AIRCALL_OAUTH_ too, and the service refuses names it does not know.
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Not empty where the chart itself mounts the folder of secrets, and no extraVolumeMount does. */}}
{{- define "aircall-oauth.mounts-secrets" -}}
{{- $folder := (include "aircall-oauth.settings" . | fromYaml).AIRCALL_OAUTH_SECRETS_DIR -}}
{{- $mounted := false -}}
{{- range .Values.extraVolumeMounts }}{{ if eq (trimSuffix "/" .mountPath) $folder }}{{ $mounted = true }}{{ end }}{{ end -}}
{{- $given := or .Values.secrets.existingSecret .Values.secrets.keys -}}
{{- if not (or $given $mounted) -}}
{{- fail (printf "secrets.existingSecret, secrets.keys or an extraVolumeMount at %s is needed: where the client secret, the database's URL and the keys are" $folder) -}}
{{- end -}}
{{- if and $mounted (or $given .Values.databaseCa.secret .Values.databaseCa.configMap) -}}
{{- fail (printf "an extraVolumeMount is at %s, where secrets and databaseCa are mounted: mount it elsewhere (settings.…_FILE names its files), or leave these out" $folder) -}}
{{- end -}}
{{- $mounted | ternary "" "true" -}}
{{- end -}}

{{- define "aircall-oauth.volumes" -}}
{{- if and .Values.databaseCa.secret .Values.databaseCa.configMap -}}
{{- fail "databaseCa.secret and databaseCa.configMap are both set: keep one of them" -}}
{{- end -}}
{{- if and .Values.vault.role (not .Values.settings.VAULT_ADDR) -}}
{{- fail "settings.VAULT_ADDR is needed where vault.role is set: Vault's or OpenBao's address" -}}
{{- end -}}
{{- if include "aircall-oauth.mounts-secrets" . }}
- name: secrets
{{- if or .Values.secrets.keys .Values.databaseCa.secret .Values.databaseCa.configMap }}
  projected:
    defaultMode: 0440
    sources:
      {{- with .Values.secrets.existingSecret }}
      - secret:
          name: {{ . }}
      {{- end }}
      {{- range $setting, $at := .Values.secrets.keys }}
      - secret:
          name: {{ $at.secret }}
          items:
            - key: {{ $at.key }}
              path: AIRCALL_OAUTH_{{ $setting }}
      {{- end }}
      {{- with .Values.databaseCa.secret }}
      - secret:
          name: {{ . }}
          items:
            - key: {{ $.Values.databaseCa.key }}
              path: database-ca.pem
      {{- end }}
      {{- with .Values.databaseCa.configMap }}
      - configMap:
          name: {{ . }}
          items:
            - key: {{ $.Values.databaseCa.key }}
              path: database-ca.pem
      {{- end }}
{{- else }}
  secret:
    secretName: {{ .Values.secrets.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with .Values.trustedCertificates.configMap }}
- name: trusted-certificates
  configMap:
    name: {{ . }}
{{- end }}
{{- if or .Values.vault.role .Values.vault.ca.configMap }}
- name: vault
  projected:
    defaultMode: 0440
    sources:
      {{- if .Values.vault.role }}
      - serviceAccountToken:
          path: token
          audience: {{ .Values.vault.audience | quote }}
          expirationSeconds: 600
      {{- end }}
      {{- with .Values.vault.ca.configMap }}
      - configMap:
          name: {{ . }}
          items:
            - key: {{ $.Values.vault.ca.key }}
              path: ca.pem
      {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "aircall-oauth.container" -}}
image: {{ include "aircall-oauth.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
      - ALL
volumeMounts:
  {{- if include "aircall-oauth.mounts-secrets" . }}
  - name: secrets
    mountPath: /run/secrets/aircall-oauth
    readOnly: true
  {{- end }}
  - name: tmp
    mountPath: /tmp
  {{- if .Values.trustedCertificates.configMap }}
  - name: trusted-certificates
    mountPath: /run/trusted-certificates
    readOnly: true
  {{- end }}
  {{- if or .Values.vault.role .Values.vault.ca.configMap }}
  - name: vault
    mountPath: /run/vault
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* One over nodes and zones, where there is room. */}}
{{- define "aircall-oauth.spread" -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "aircall-oauth.selector" $.root | nindent 6 }}
      app.kubernetes.io/component: {{ $.component }}
  matchLabelKeys:
    - pod-template-hash
{{- end }}
{{- end -}}

{{/* A long-running workload: `root`, `component`, `own` (its values), `args`, `ports` and the `probed` port. */}}
{{- define "aircall-oauth.deployment" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "aircall-oauth.fullname" $root }}-{{ .component }}
  labels:
    {{- include "aircall-oauth.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  {{- if not .own.autoscaling.enabled }}
  replicas: {{ .own.replicas }}
  {{- end }}
  # One that exits soon after its start (a wrong key, for example) does not replace one that works.
  minReadySeconds: 10
  strategy:
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      {{- include "aircall-oauth.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
  template:
    metadata:
      annotations:
        # A changed setting rolls the pods: settings are read at start only.
        aircall-oauth/settings: {{ include "aircall-oauth.environment" $root | sha256sum }}
        {{- if $root.Values.metrics.scrapeAnnotations }}
        prometheus.io/scrape: "true"
        prometheus.io/port: "9090"
        prometheus.io/path: /metrics
        {{- end }}
        {{- with .own.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      labels:
        {{- include "aircall-oauth.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
        {{- with .own.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "aircall-oauth.serviceAccount" $root }}
      {{- include "aircall-oauth.pod" $root | nindent 6 }}
      # More than AIRCALL_OAUTH_DRAIN and the 20 seconds for requests in flight together.
      terminationGracePeriodSeconds: {{ include "aircall-oauth.grace" $root }}
      {{- with .own.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with .own.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .own.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .own.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        {{- include "aircall-oauth.spread" (dict "root" $root "component" .component) | trim | nindent 8 }}
      containers:
        - name: {{ .component }}
          args: {{ toJson .args }}
          ports:
            {{- range $name, $port := .ports }}
            - name: {{ $name }}
              containerPort: {{ $port }}
            {{- end }}
          envFrom:
            - configMapRef:
                name: {{ include "aircall-oauth.fullname" $root }}
            {{- with $root.Values.extraEnvFrom }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with concat $root.Values.extraEnv .own.extraEnv }}
          env:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- include "aircall-oauth.container" $root | nindent 10 }}
          # Two minutes for the migration to finish; until then the schema is behind and the pod not ready.
          startupProbe:
            httpGet:
              path: /readyz
              port: {{ .probed }}
            periodSeconds: 2
            timeoutSeconds: 3
            failureThreshold: 60
          readinessProbe:
            httpGet:
              path: /readyz
              port: {{ .probed }}
            periodSeconds: 5
            timeoutSeconds: 3
            failureThreshold: 2
          # Never the database: a restart would not bring that back.
          livenessProbe:
            httpGet:
              path: /livez
              port: {{ .probed }}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          resources:
            {{- toYaml .own.resources | nindent 12 }}
      volumes:
        {{- include "aircall-oauth.volumes" $root | nindent 8 }}
{{- end -}}
