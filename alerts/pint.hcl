# pint lints the rules: `make pint`, offline. All its checks that need no Prometheus are on; none is switched
# off. What follows is demanded besides.

rule {
  match {
    kind = "alerting"
  }
  annotation "summary" {
    required = true
    severity = "bug"
  }
  annotation "description" {
    required = true
    severity = "bug"
  }
  annotation "runbook_url" {
    required = true
    severity = "bug"
    value    = ".*#cryptoloot[a-z]+"
  }
  annotation "dashboard" {
    required = true
    severity = "bug"
    value    = ".*/d/cryptoloot-(sites|site|exporter).*"
  }
  label "severity" {
    required = true
    severity = "bug"
    value    = "critical|warning|info"
  }
}

rule {
  match {
    kind = "recording"
  }
  name "[a-z_]*:[a-z_]+:[a-z0-9_]+" {
    severity = "bug"
  }
}
