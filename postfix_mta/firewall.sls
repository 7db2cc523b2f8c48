# The mail server's ports in the firewall. Last of the parts: `listeners` are those of the master.cf that they leave.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .settings

postfix_mta_firewall:
  mta_firewall.managed:
{%- for name, value in mta.firewall.items() %}
    - {{ name }}: {{ value | json }}
{%- endfor %}
    - config_directory: {{ mta.family.config_directory | json }}
    - require:
      - mta_transaction: postfix_mta_recovered
