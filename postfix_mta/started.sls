{#-
  What the start of a minion leads to, through reactor/react.sls: the first apply, for a minion whose pillar has
  postfix_mta; another one, where an apply was cut off or something was wrong before; else nothing. A minion that only
  signs for a fleet is no mail server, and does not become one: mta_fleet_ca.only_signs, whose module a minion may not
  have yet.
-#}
{%- set own = pillar.get("postfix_mta") %}
{%- if own is not mapping %}
{%-   set due = false %}
{%- elif "mta_fleet_ca" in salt.file_mapping | default([]) %}
{%-   set due = salt["mta_reprovision.due"]() if salt["mta_apply.last"]() else not salt["mta_fleet_ca.only_signs"]() %}
{%- else %}
{%-   set record = opts.get("mta_state_dir", "/var/lib/postfix_mta") ~ "/fleet_ca.json" %}
{%-   set due = not salt["pillar.get"]("postfix_mta:certificate:fleet:minions") and not salt["file.file_exists"](record) %}
{%- endif %}
{%- if due %}
include:
  - postfix_mta
{%- else %}

postfix_mta_started:
  test.nop:
    - name: nothing to do
{%- endif %}
