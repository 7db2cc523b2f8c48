# What watches the server after the apply: the beacon, and the schedule of further applies.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .commit
{%- if mta.beacon %}

postfix_mta_beacon:
  mta_beacon.managed:
{%-   for name, value in mta.beacon.items() %}
    - {{ name }}: {{ value | json }}
{%-   endfor %}
    - require:
      - mta_transaction: postfix_mta_committed
{%- endif %}
{%- if mta.schedule %}

postfix_mta_schedule:
  mta_schedule.managed:
{%-   for name, value in mta.schedule.items() %}
    - {{ name }}: {{ value | json }}
{%-   endfor %}
    - require:
      - mta_transaction: postfix_mta_committed
{%- endif %}
